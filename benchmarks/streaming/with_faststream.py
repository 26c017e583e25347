"""FastStream, one message or a hundred at a time."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from streaming.message import GROUP, STREAM, payload
from streaming.way import Listener, share

__all__ = ["FastStream", "FastStreamBatch"]


class FastStream:
    """A subscriber of a stream with a group."""

    name = "FastStream"
    batch = False

    def __init__(self, url: str) -> None:
        from faststream.redis import RedisBroker

        self._broker: Any = RedisBroker(url, logger=None)
        self._started = False

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._broker.start()

    def _body(self) -> dict[str, object]:
        return msgspec.to_builtins(payload())

    async def one_by_one(self, count: int) -> None:
        await self._start()
        body = self._body()
        for _ in range(count):
            await self._broker.publish(body, stream=STREAM)

    async def by_hundreds(self, count: int) -> None:
        await self._start()
        body = self._body()
        for _ in range(count // 100):
            async with self._broker._connection.pipeline(transaction=False) as pipeline:
                for _ in range(100):
                    await self._broker.publish(body, stream=STREAM, pipeline=pipeline)
                await pipeline.execute()

    async def concurrently(self, count: int, publishers: int) -> None:
        await self._start()
        body = self._body()
        await share(count, publishers, lambda: self._broker.publish(body, stream=STREAM))

    async def at_pace(self) -> None:
        await self._start()
        await self._broker.publish(self._body(), stream=STREAM)

    async def consume(self, ready: Callable[[], None], listener: Listener) -> None:
        from faststream.redis import StreamSub

        if self.batch:
            subscription = StreamSub(STREAM, group=GROUP, consumer="c", max_records=100, batch=True)

            @self._broker.subscriber(stream=subscription)
            async def hear_all(events: list[dict[str, Any]]) -> None:
                for event in events:
                    await listener(event["at"])
        else:

            @self._broker.subscriber(stream=StreamSub(STREAM, group=GROUP, consumer="c", max_records=100))
            async def hear(event: dict[str, Any]) -> None:
                await listener(event["at"])

        # FastStream would make its group at the end of the stream; streams.py has made it, at the beginning.
        await self._start()
        ready()
        await asyncio.Event().wait()

    async def close(self) -> None:
        await self._broker.stop()


class FastStreamBatch(FastStream):
    name = "FastStream, batch of 100"
    batch = True
