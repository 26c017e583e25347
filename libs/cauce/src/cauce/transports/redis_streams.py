"""Redis or Valkey Streams: a stream for every lane of a topic, a consumer group for every service.

In a group the consumer's name is the lane, so whoever owns the lane finds there what its earlier owner was given and
did not acknowledge: nothing is claimed by age, nothing is reaped. No scripts, no commands of the class @dangerous.

    PREFIX:{topic}:LANE      the streams; one field, `e`, holds the CloudEvents JSON
    PREFIX:{topic}:groups    every group that has a right to be waited for when trimming
    PREFIX:{topic}:trimmed   for every lane, what was trimmed on purpose
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cauce.cloudevents import from_json
from cauce.errors import DecodeError, TransportUnavailableError
from cauce.transport import BrokerId, Deliver, Delivery, Lane, LanesOwned, Status, Subscription, Tail
from cauce.transports.redis_connection import RedisConnection, RedisServer, RedisTroubleError

__all__ = ["RedisStreams"]

_FIELD = b"e"
_RETRY_FIRST_S = 0.1
_RETRY_CAP_S = 2.0
_STEADY_S = 5.0
_BLOCK_MS = 1000
_COUNT = 100
_RECHECK_EVERY_S = 10.0


class RedisStreams:
    """The durable transport. `url` as in RedisServer; `prefix` separates systems on one server.

    Appending and the other short commands have `answer_limit_s`; a blocked read is given up when the server has not
    answered that long after its own limit, so a frozen server is noticed within three seconds.
    """

    name = "redis"
    durable = True

    def __init__(
        self, url: str, *, prefix: str = "cauce", if_down: str = "is it running?", answer_limit_s: float = 2.0
    ) -> None:
        self._server = RedisServer(url, if_down=if_down, answer_limit_s=answer_limit_s)
        self._prefix = prefix
        self._limit_s = answer_limit_s
        self._commands = _Commands(self._server, limit_s=answer_limit_s)

    def stream(self, topic: str, lane: Lane) -> str:
        return f"{self._prefix}:{{{topic}}}:{lane}"

    async def append(self, topic: str, lane: Lane, messages: Sequence[bytes]) -> Sequence[BrokerId]:
        stream = self.stream(topic, lane)
        adds = [("XADD", stream, "*", _FIELD, message) for message in messages]
        answers = await self._commands.send([("MULTI",), *adds, ("EXEC",)])
        return [BrokerId(_text(one)) for one in answers[-1]]

    async def tail(self, topic: str, lane: Lane, sent: Sequence[BrokerId]) -> Tail:
        stream = self.stream(topic, lane)
        trimmed, *found = await self._commands.send(
            [("HGET", self._key(topic, "trimmed"), str(lane)), *(("XRANGE", stream, one, one) for one in sent)]
        )
        kept_from = _order(BrokerId(_text(trimmed))) if trimmed else (0, 0)
        missing = (
            one for one, entries in zip(sent, found, strict=True) if not entries and _order(one) >= kept_from
        )
        return Tail(server=str(self._commands.generation), lost_from=next(missing, None))

    async def trim(self, topic: str, lane: Lane, *, older_than_s: float) -> int:
        stream, registry = self.stream(topic, lane), self._key(topic, "groups")
        groups = sorted(_pairs((await self._commands.send([("HGETALL", registry)]))[0]))
        try:
            answers = (
                await self._commands.send(
                    [
                        ("MULTI",),
                        ("HGETALL", registry),
                        ("TIME",),
                        ("XINFO", "GROUPS", stream),
                        *(("XPENDING", stream, group) for group in groups),
                        ("EXEC",),
                    ]
                )
            )[-1]
        except _RefusedError:
            return 0  # no stream, or a registered group has no group here yet: nothing may go
        registered, clock, infos, *pendings = answers
        if sorted(_pairs(registered)) != groups or any(isinstance(one, Exception) for one in answers):
            return 0
        state = {_text(info[b"name"]): info for info in map(_named, infos)}
        safe = (int(clock[0]) * 1000 - int(older_than_s * 1000), 0)
        for group, pending in zip(groups, pendings, strict=True):
            if group not in state:
                return 0
            delivered = _order(BrokerId(_text(state[group][b"last-delivered-id"])))
            first_pending = _order(BrokerId(_text(pending[1]))) if pending[0] else (delivered[0], delivered[1] + 1)
            safe = min(safe, first_pending)
        if safe <= (0, 0):
            return 0
        limit = f"{safe[0]}-{safe[1]}"
        answers = await self._commands.send(
            [
                ("MULTI",),
                ("HSET", self._key(topic, "trimmed"), str(lane), limit),
                ("XTRIM", stream, "MINID", limit),
                ("EXEC",),
            ]
        )
        return int(answers[-1][1])

    async def forget(self, topic: str, group: str) -> bool:
        """A retired group: trimming no longer waits for it. Whether it was registered."""
        streams = [self.stream(topic, Lane(lane)) for lane in range(16)]
        answers = await self._commands.send([("HDEL", self._key(topic, "groups"), group)])
        for stream in streams:
            try:
                await self._commands.send([("XGROUP", "DESTROY", stream, group)])
            except _RefusedError:
                continue  # no such stream
        return bool(answers[0])

    async def consume(
        self,
        subscription: Subscription,
        deliver: Deliver,
        status: Status,
        *,
        group: str,
        lanes: LanesOwned,
        since: Mapping[str, BrokerId],
    ) -> None:
        acks = _Acks(self._commands, group)
        in_flight: set[tuple[str, bytes]] = set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(acks.run())
            attempt = 0
            while True:
                began = time.monotonic()
                reader = _Reader(self, subscription, deliver, status, group, lanes, since, acks, in_flight)
                try:
                    await reader.run()
                except (RedisTroubleError, TransportUnavailableError) as trouble:
                    attempt = 0 if time.monotonic() - began >= _STEADY_S else attempt + 1
                    pause_s = min(_RETRY_CAP_S, _RETRY_FIRST_S * 2**attempt) * (0.8 + 0.4 * random.random())
                    status.down(str(trouble), retry_in_s=pause_s)
                    await asyncio.sleep(pause_s)

    async def close(self) -> None:
        await self._commands.close()

    def _key(self, topic: str, what: str) -> str:
        return f"{self._prefix}:{{{topic}}}:{what}"


class _RefusedError(TransportUnavailableError):
    """The server understood and said no."""


class _Commands:
    """The connection for short commands: one batch at a time, replaced after any trouble, never retried."""

    def __init__(self, server: RedisServer, *, limit_s: float) -> None:
        self._server = server
        self._limit_s = limit_s
        self._turn = asyncio.Lock()
        self._connection: RedisConnection | None = None
        self.generation = 0

    async def send(self, commands: Sequence[Sequence[str | bytes]]) -> list[Any]:
        """One answer each. TransportUnavailableError if not all were confirmed; the outcome is then unknown."""
        try:
            async with asyncio.timeout(self._limit_s), self._turn:
                return await self._send(commands)
        except TimeoutError:
            raise TransportUnavailableError(
                f"no answer from Redis at {self._server.label} within {self._limit_s:g} s"
            ) from None
        except RedisTroubleError as trouble:
            kind = _RefusedError if trouble.answered else TransportUnavailableError
            raise kind(str(trouble)) from None

    async def _send(self, commands: Sequence[Sequence[str | bytes]]) -> list[Any]:
        connection, self._connection = self._connection, None  # whatever happens now, it is not reused by chance
        try:
            if connection is None:
                connection = await self._server.connect()
                self.generation += 1
            answers = await connection.ask(commands)
        except BaseException:
            if connection is not None:
                await connection.close()
            raise
        self._connection = connection
        return answers

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._turn = asyncio.Lock()
        if connection is not None:
            await connection.close()


class _Acks:
    """Acknowledgements on their way: collected while one batch is being sent, so that a thousand are one trip."""

    def __init__(self, commands: _Commands, group: str) -> None:
        self._commands = commands
        self._group = group
        self._waiting: dict[str, list[bytes]] = {}
        self._wake = asyncio.Event()

    def add(self, stream: str, entry: bytes) -> None:
        self._waiting.setdefault(stream, []).append(entry)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(0.002)
            batch, self._waiting = self._waiting, {}
            try:
                await self._commands.send([("XACK", stream, self._group, *ids) for stream, ids in batch.items()])
            except TransportUnavailableError:
                # An acknowledgement that is lost means one more delivery, which the inbox knows. Keep it all the same.
                for stream, ids in batch.items():
                    self._waiting.setdefault(stream, []).extend(ids)
                await asyncio.sleep(0.5)
                self._wake.set()


class _Reader:
    """One connection that reads, from its beginning to its end."""

    def __init__(
        self,
        transport: RedisStreams,
        subscription: Subscription,
        deliver: Deliver,
        status: Status,
        group: str,
        lanes: LanesOwned,
        since: Mapping[str, BrokerId],
        acks: _Acks,
        in_flight: set[tuple[str, bytes]],
    ) -> None:
        self._transport = transport
        self._topics = sorted(subscription.topics)
        self._deliver = deliver
        self._status = status
        self._group = group
        self._lanes = lanes
        self._since = since
        self._acks = acks
        self._in_flight = in_flight
        self._recovered: dict[Lane, float] = {}

    async def run(self) -> None:
        connection = await self._transport._server.connect()  # pyright: ignore[reportPrivateUsage]  # one adapter
        try:
            await self._register(connection)
            self._status.up()
            while True:
                await self._round(connection)
        finally:
            await connection.close()

    async def _round(self, connection: RedisConnection) -> None:
        owned = sorted(self._lanes())
        if not owned:
            await asyncio.sleep(0.05)
            return
        now = time.monotonic()
        for lane in owned:
            if now - self._recovered.get(lane, -_RECHECK_EVERY_S) >= _RECHECK_EVERY_S:
                await self._recover(connection, lane)
                self._recovered[lane] = now
        for lane in [lane for lane in self._recovered if lane not in owned]:
            del self._recovered[lane]
        await self._read_new(connection, owned)

    async def _register(self, connection: RedisConnection) -> None:
        """Say that this group is to be waited for when a topic is trimmed."""
        for topic in self._topics:
            registry = self._transport._key(topic, "groups")  # pyright: ignore[reportPrivateUsage]
            await self._ask(connection, [("HSETNX", registry, self._group, self._since.get(topic, "0-0"))])

    async def _make_group(self, connection: RedisConnection, topic: str, lane: Lane) -> None:
        stream = self._transport.stream(topic, lane)
        try:
            await self._ask(
                connection, [("XGROUP", "CREATE", stream, self._group, self._since.get(topic, "0-0"), "MKSTREAM")]
            )
        except RedisTroubleError as trouble:
            if "BUSYGROUP" not in str(trouble):
                raise

    async def _recover(self, connection: RedisConnection, lane: Lane) -> None:
        """What this lane was given before and is not acknowledged, except what we are handling now."""
        for topic in self._topics:
            await self._make_group(connection, topic, lane)
            stream = self._transport.stream(topic, lane)
            after = b"0-0"
            while True:
                entries = await self._read(connection, [stream], [after], lane, block=False)
                if not entries:
                    break
                for _, entry, fields in entries:
                    after = entry
                    if (stream, entry) not in self._in_flight:
                        await self._hand_over(topic, stream, entry, fields, redelivered=True)

    async def _read_new(self, connection: RedisConnection, owned: Sequence[Lane]) -> None:
        by_stream = {self._transport.stream(topic, lane): topic for topic in self._topics for lane in owned}
        entries = await self._read(connection, list(by_stream), [b">"] * len(by_stream), owned[0], block=True)
        for stream, entry, fields in entries:
            await self._hand_over(by_stream[stream], stream, entry, fields, redelivered=False)

    async def _read(
        self, connection: RedisConnection, streams: Sequence[str], after: Sequence[bytes], lane: Lane, *, block: bool
    ) -> list[tuple[str, bytes, Any]]:
        wait = ("BLOCK", str(_BLOCK_MS)) if block else ()
        # Every lane is a stream of its own with one consumer in the group; its name is always the same.
        command = ("XREADGROUP", "GROUP", self._group, "lane", "COUNT", str(_COUNT), *wait, "STREAMS", *streams, *after)
        try:
            (answer,) = await self._ask(connection, [command], patience_s=_BLOCK_MS / 1000 if block else 0.0)
        except RedisTroubleError as trouble:
            if "NOGROUP" in str(trouble):
                # The broker forgot the stream or the group: make it again, and look at everything.
                self._recovered.clear()
            raise
        return [
            (_text(stream), bytes(entry), fields)
            for stream, entries in (_items(answer) if answer else ())
            for entry, fields in entries
        ]

    async def _ask(
        self, connection: RedisConnection, commands: Sequence[Sequence[str | bytes]], *, patience_s: float = 0.0
    ) -> list[Any]:
        try:
            async with asyncio.timeout(self._transport._limit_s + patience_s):  # pyright: ignore[reportPrivateUsage]
                return await connection.ask(commands)
        except TimeoutError:
            raise RedisTroubleError(
                f"no answer from Redis at {self._transport._server.label} → is it frozen?"  # pyright: ignore[reportPrivateUsage]
            ) from None

    async def _hand_over(self, topic: str, stream: str, entry: bytes, fields: Any, *, redelivered: bool) -> None:
        token = (stream, entry)
        self._in_flight.add(token)

        async def ack() -> None:
            self._in_flight.discard(token)
            self._acks.add(stream, entry)

        raw = _body(fields)
        envelope, problem = None, "the entry was deleted from the stream before it was acknowledged"
        if raw is not None:
            try:
                envelope, problem = from_json(raw), None
            except DecodeError as error:
                problem = f"{error.path}: {error.expectation}"
            if envelope is not None and envelope.source != topic:
                problem = f"it says it comes from {envelope.source!r} and stands in the topic of {topic!r}"
                envelope = None
        await self._deliver(
            Delivery(
                channel=stream, raw=raw or b"", envelope=envelope, problem=problem, ack=ack, redelivered=redelivered,
                headers={"entry": _text(entry)},
            )
        )  # fmt: skip


def _body(fields: Any) -> bytes | None:
    """The message in an entry's fields; None for an entry that was deleted."""
    if not fields:
        return None
    pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=False)
    return next((bytes(value) for name, value in pairs if bytes(name) == _FIELD), b"")


def _items(answer: Any) -> list[tuple[Any, Any]]:
    """Replies that are a map in protocol 3 and a list of pairs in protocol 2."""
    return list(answer.items()) if isinstance(answer, dict) else [tuple(one) for one in answer]


def _named(answer: Any) -> dict[bytes, Any]:
    return dict(answer) if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _pairs(answer: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in _named(answer).items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _order(broker_id: BrokerId) -> tuple[int, int]:
    milliseconds, _, number = broker_id.partition("-")
    return int(milliseconds), int(number or 0)
