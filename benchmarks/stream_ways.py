"""Ways to move events over Redis Streams: raw redis-py, Cauce's transport, FastStream. Used by streams.py.

Everybody moves messages of about 315 bytes over the same server and calls one async listener for each. What differs is
what the way itself does: Cauce appends in transactions to sixteen lanes, decodes the envelope and the typed event and
acknowledges each message; raw redis-py moves bytes and acknowledges by the batch; FastStream wraps and unwraps its own
envelope and gives its listener a dict, which costs it less than a model would.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any, Protocol

import msgspec
from cauce import Envelope
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import Lane
from cauce.ports.transport import Delivery, Subscription
from cauce.transports.redis_streams import RedisStreams
from redis.asyncio import Redis

__all__ = ["WAYS", "Way", "missing"]

TOPIC = "accounts-ms"
NAME = "com.clonespotify.accounts.users.integration.user-created"
STREAM = "bench"
GROUP = "mailing-ms"
LANES = {Lane(lane): 1 for lane in range(16)}

Listener = Callable[[float], Awaitable[None]]
"""Gets the moment at which the message was made."""


class UserCreated(msgspec.Struct, frozen=True):
    id: str
    username: str
    email: str
    at: float


def payload() -> UserCreated:
    return UserCreated("12345678-1234-1234-1234-123456789abc", "john_doe", "john.doe@example.com", time.monotonic())


_encode = msgspec.json.Encoder().encode
_event = msgspec.json.Decoder(UserCreated)


def message() -> bytes:
    """A CloudEvents message as the outbox holds it: about 315 bytes."""
    event_id = "0192f1c4-7a3b-7c1e-9d7e-1f2a3b4c5d6e"
    return to_json(
        Envelope(
            id=event_id,
            source=TOPIC,
            name=NAME,
            version=1,
            occurred_on=datetime.now(UTC),
            payload=msgspec.Raw(_encode(payload())),
            correlation_id=event_id,
        )
    )


class Way(Protocol):
    """One way, connected to one server."""

    name: str

    async def one_by_one(self, count: int) -> None: ...
    async def by_hundreds(self, count: int) -> None: ...
    async def concurrently(self, count: int, publishers: int) -> None: ...
    async def at_pace(self) -> None:
        """One message with the time of now."""
        ...

    async def consume(self, ready: Callable[[], None], listener: Listener) -> None:
        """Until cancelled."""
        ...

    async def close(self) -> None: ...


async def _share(count: int, publishers: int, one: Callable[[], Awaitable[object]]) -> None:
    async def publish() -> None:
        for _ in range(count // publishers):
            await one()

    await asyncio.gather(*(publish() for _ in range(publishers)))


class Raw:
    """redis-py as one would write it by hand: read 100, acknowledge them in one command."""

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
        await _share(count, publishers, lambda: self._redis.xadd(STREAM, {"e": body}))

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


class Cauce:
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
        await _share(count, publishers, lambda: self._transport.append(TOPIC, self._next(), [body]))

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
        await _share(count, publishers, lambda: self._broker.publish(body, stream=STREAM))

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


WAYS: dict[str, Callable[[str], Any]] = {"redis-py": Raw, "cauce": Cauce}
if find_spec("faststream") is not None:
    WAYS.update({FastStream.name: FastStream, FastStreamBatch.name: FastStreamBatch})


def missing() -> Sequence[str]:
    """Peers that are not installed here."""
    return [] if "FastStream" in WAYS else ["faststream"]
