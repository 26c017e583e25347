"""redis-py as one would write it by hand."""

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from streaming.message import GROUP, STREAM, message
from streaming.way import Listener, share

__all__ = ["RedisPy"]


class RedisPy:
    """Reads 100, acknowledges them in one command."""

    name = "redis-py"

    def __init__(self, url: str) -> None:
        self._redis: Any = Redis.from_url(url, protocol=2)

    async def one_by_one(self, count: int) -> None:
        body = message()
        for _ in range(count):
            await self._redis.xadd(STREAM, {"e": body})

    async def by_hundreds(self, count: int) -> None:
        body = message()
        for _ in range(count // 100):
            pipeline = self._redis.pipeline(transaction=False)
            for _ in range(100):
                pipeline.xadd(STREAM, {"e": body})
            await pipeline.execute()

    async def concurrently(self, count: int, publishers: int) -> None:
        body = message()
        await share(count, publishers, lambda: self._redis.xadd(STREAM, {"e": body}))

    async def at_pace(self) -> None:
        await self._redis.xadd(STREAM, {"e": message()})

    async def consume(self, ready: Callable[[], None], listener: Listener) -> None:
        try:
            await self._redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        except Exception as error:
            if "BUSYGROUP" not in str(error):
                raise
        ready()
        while True:
            for _, entries in await self._redis.xreadgroup(GROUP, "c", {STREAM: ">"}, count=100, block=1000):
                for _, fields in entries:
                    body: bytes = fields[b"e"]
                    await listener(float(body[body.rindex(b":") + 1 :].rstrip(b"}")))
                await self._redis.xack(STREAM, GROUP, *(entry_id for entry_id, _ in entries))

    async def close(self) -> None:
        await self._redis.aclose()
