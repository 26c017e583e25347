"""Cauce's transport."""

from collections.abc import Callable

import msgspec
from cauce.ports.lanes import Lane
from cauce.ports.transport import Delivery, Subscription
from cauce.transports.redis_streams import RedisStreams

from streaming.message import GROUP, NAME, TOPIC, UserCreated, message
from streaming.way import Listener, share

__all__ = ["Cauce"]

LANES = {Lane(lane): 1 for lane in range(16)}
_event = msgspec.json.Decoder(UserCreated)


class Cauce:
    """Appends to the lanes in turn; decodes and acknowledges each message."""

    name = "cauce"

    def __init__(self, url: str) -> None:
        self._transport = RedisStreams(url)
        self._lane = 0

    def _next(self) -> Lane:
        self._lane = (self._lane + 1) % 16
        return Lane(self._lane)

    async def one_by_one(self, count: int) -> None:
        body = message()
        for _ in range(count):
            await self._transport.append(TOPIC, self._next(), [body])

    async def by_hundreds(self, count: int) -> None:
        batch = [message()] * 100
        for _ in range(count // 100):
            await self._transport.append(TOPIC, self._next(), batch)

    async def concurrently(self, count: int, publishers: int) -> None:
        body = message()
        await share(count, publishers, lambda: self._transport.append(TOPIC, self._next(), [body]))

    async def at_pace(self) -> None:
        await self._transport.append(TOPIC, self._next(), [message()])

    async def consume(self, ready: Callable[[], None], listener: Listener) -> None:
        decode = _event.decode

        class Ready:
            def up(self) -> None:
                ready()

            def down(self, reason: str, *, retry_in_s: float) -> None:
                raise RuntimeError(reason)

        async def deliver(delivery: Delivery) -> None:
            envelope = delivery.envelope
            assert envelope is not None
            event = decode(envelope.payload)  # pyright: ignore[reportArgumentType]  # it is Raw
            await listener(event.at)
            await delivery.ack()

        await self._transport.consume(
            Subscription(names=frozenset({NAME}), topics=frozenset({TOPIC})),
            deliver,
            Ready(),
            group=GROUP,
            lanes=lambda: LANES,
            since={},
        )

    async def close(self) -> None:
        await self._transport.close()
