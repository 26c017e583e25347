"""The streams are kept short with MAXLEN at every append, whoever has not read them yet."""

from collections.abc import Sequence

from cauce.transport import BrokerId, Lane
from cauce.transports.redis_streams import RedisStreams


def plant() -> None:
    append = RedisStreams.append

    async def append_and_trim(
        self: RedisStreams, topic: str, lane: Lane, messages: Sequence[bytes]
    ) -> Sequence[BrokerId]:
        ids = await append(self, topic, lane, messages)
        await self._commands.ask(("XTRIM", self.keys.stream(topic, lane), "MAXLEN", "10"))
        return ids

    RedisStreams.append = append_and_trim
