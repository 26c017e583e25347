"""What is measured, for any way."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cauce.dev.servers import ValkeyServer
from processes import Child
from redis import Redis

from streaming.message import GROUP, STREAM
from streaming.ways import WAYS

__all__ = ["Bench"]


class Bench:
    """One server, and how much of everything. `script` is run again as the consumer's process."""

    def __init__(self, script: str, server: ValkeyServer, *, scale: float) -> None:
        self._script = script
        self.server = server
        self.admin: Any = Redis.from_url(server.url)
        self._scale = scale

    def times(self, count: int) -> int:
        return max(200, int(count * self._scale) // 200 * 200)

    async def published(self, way: str, count: int, publish: Callable[[Any], Awaitable[None]]) -> float:
        """Messages a second."""
        self.admin.flushall()
        one = WAYS[way](self.server.url)
        try:
            await one.one_by_one(20)
            began = time.perf_counter()
            await publish(one)
            return count / (time.perf_counter() - began)
        finally:
            await one.close()

    async def one_by_one(self, way: str) -> float:
        count = self.times(4_000)
        return await self.published(way, count, lambda one: one.one_by_one(count))

    async def by_hundreds(self, way: str) -> float:
        count = self.times(30_000)
        return await self.published(way, count, lambda one: one.by_hundreds(count))

    async def concurrently(self, way: str) -> float:
        count = self.times(15_000)
        return await self.published(way, count, lambda one: one.concurrently(count, 100))

    async def consume(self, way: str) -> float:
        """Messages that lie there, consumed in a second."""
        count = self.times(8_000 if way == "FastStream" else 40_000)
        await self._empty()
        one = WAYS[way](self.server.url)
        await one.by_hundreds(count)
        await one.close()
        consumer = self._consumer(way, count)
        first, last, _ = await _outcome(consumer)
        return count / (last - first)

    async def end_to_end(self, way: str) -> float:
        """Messages a second from the first batch published to the last message consumed, both at once."""
        count = self.times(8_000 if way == "FastStream" else 40_000)
        await self._empty()
        consumer = self._consumer(way, count)
        await consumer.report("ready")
        one = WAYS[way](self.server.url)
        began = time.monotonic()
        await one.by_hundreds(count)
        _, last, _ = await _outcome(consumer)
        await one.close()
        return count / (last - began)

    async def latency(self, way: str) -> float:
        """Microseconds from making a message to its listener, at 200 a second: the median."""
        count = self.times(600)
        await self._empty()
        consumer = self._consumer(way, count)
        await consumer.report("ready")
        one = WAYS[way](self.server.url)
        await asyncio.sleep(0.2)
        due = time.monotonic()
        for _ in range(count):
            await one.at_pace()
            due += 0.005
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        _, _, typical = await _outcome(consumer)
        await one.close()
        return typical * 1e6

    async def _empty(self) -> None:
        self.admin.flushall()
        self.admin.xgroup_create(STREAM, GROUP, "0", mkstream=True)

    def _consumer(self, way: str, count: int) -> Child:
        return Child(self._script, "--consume", way, "--url", self.server.url, "--count", str(count))


async def _outcome(consumer: Child) -> tuple[float, float, float]:
    """When the first and the last message came, and the median of their ages."""
    first, last, typical = await consumer.report("done")
    consumer.end()
    return float(first), float(last), float(typical)
