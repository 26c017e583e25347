"""Streams in which nothing is old enough to be trimmed, and until when that stays so."""

import time

from cauce.transports.redis.pipeline import RedisCommands, RedisRefusal
from cauce.transports.redis.replies import named, order

__all__ = ["YoungStreams"]

_MOST_S = 3600.0
"""Asked again after so long at the latest: the server's clock may be set, or an older copy of its data restored."""


class YoungStreams:
    """What is appended later is older later: a stream is asked about once, and then when its first entry may be too old."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, float], float] = {}

    async def may_hold_older(self, commands: RedisCommands, stream: str, than_s: float) -> bool:
        """Whether the stream may hold an entry that is older than that. Raises RedisTroubleError."""
        if time.monotonic() < self._until.get((stream, than_s), 0.0):
            return False
        info, clock = await commands.ask(("XINFO", "STREAM", stream), ("TIME",))
        if isinstance(clock, RedisRefusal) or (isinstance(info, RedisRefusal) and "no such key" not in str(info)):
            return True  # whoever trims asks for more than this, and says what is wrong
        first = None if isinstance(info, RedisRefusal) else named(info)["first-entry"]
        age_s = 0.0 if first is None else int(clock[0]) + int(clock[1]) / 1_000_000 - order(first[0])[0] / 1000
        if age_s > than_s:
            return True
        self._until[stream, than_s] = time.monotonic() + min(_MOST_S, than_s - age_s)
        return False
