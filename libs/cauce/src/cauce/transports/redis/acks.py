"""Acknowledgements: the entries a process holds, and their way back to the server, many in one trip."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cauce.ports.lanes import Lane
from cauce.transports.redis.connection import RedisTroubleError
from cauce.transports.redis.pipeline import Command, RedisCommands

__all__ = ["RETRY_CAP_S", "Acks", "HeldEntry", "LaneStream"]

RETRY_CAP_S = 2.0
"""The longest pause between two attempts to reach the server, for reading."""
_ACK_AFTER_S = 0.003


class LaneStream:
    """One lane of one topic, as this process sees it over all its connections."""

    __slots__ = ("held", "key", "lane", "lively_until", "missing_since", "seen", "tenure", "topic")

    def __init__(self, key: str, topic: str, lane: Lane) -> None:
        self.key = key
        self.topic = topic
        self.lane = lane
        self.held: dict[bytes, HeldEntry] = {}
        """Entries that were delivered, and whose acknowledgement the server has not confirmed yet."""
        self.tenure: int | None = None
        """Of the lane, when its reading began."""
        self.seen = False
        self.missing_since: float | None = None
        self.lively_until = 0.0


class HeldEntry:
    """The way back of one delivery."""

    __slots__ = ("_acks", "_id", "_stream")

    def __init__(self, acks: "Acks", stream: LaneStream, entry_id: bytes) -> None:
        self._acks = acks
        self._stream = stream
        self._id = entry_id

    async def ack(self) -> None:
        self._acks.add(self._stream, self._id)
        if not self._acks.running:
            await self._acks.flush()

    def release(self) -> None:
        if self._stream.held.get(self._id) is self:  # it may have been delivered again meanwhile
            del self._stream.held[self._id]
        self._acks.released = True


class Acks:
    """Acknowledgements on their way, many in one trip. One that is lost costs one more delivery, never an event, and
    may be sent again: it changes nothing the second time."""

    def __init__(self, commands: RedisCommands, group: str) -> None:
        self._commands = commands
        self._group = group
        self._waiting: dict[LaneStream, list[bytes]] = {}
        self._wake = asyncio.Event()
        self.running = False
        self.released = False
        """Something was given back, to be delivered again."""

    def add(self, stream: LaneStream, entry_id: bytes) -> None:
        waiting = self._waiting.get(stream)
        if waiting is None:
            waiting = self._waiting[stream] = []
            self._wake.set()
        waiting.append(entry_id)

    async def run(self) -> None:
        """Until cancelled; what is left then is sent by `flush`."""
        self.running = True
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(_ACK_AFTER_S)
                if not await self.flush():
                    await asyncio.sleep(RETRY_CAP_S / 4)
        finally:
            self.running = False

    async def flush(self) -> bool:
        """Whether the server has taken all that was waiting."""
        batch, self._waiting = self._waiting, {}
        self._wake.clear()
        if not batch:
            return True
        commands: list[Command] = [("XACK", stream.key, self._group, *ids) for stream, ids in batch.items()]
        answers: Sequence[Any] = ()
        try:
            answers = await self._commands.ask(*commands)
        except RedisTroubleError:
            pass
        finally:
            self._settle(batch, answers)
        return not self._waiting

    def _settle(self, batch: Mapping[LaneStream, list[bytes]], answers: Sequence[Any]) -> None:
        taken = list(answers) + [None] * (len(batch) - len(answers))
        for (stream, ids), answer in zip(batch.items(), taken, strict=True):
            if isinstance(answer, int):
                for entry_id in ids:
                    stream.held.pop(entry_id, None)
            else:
                self._waiting.setdefault(stream, []).extend(ids)
                self._wake.set()
