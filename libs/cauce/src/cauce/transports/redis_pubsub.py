"""Redis or Valkey Pub/Sub in NestJS's wire format: the article's transport, at most once.

Real NestJS services may be on either side. What nobody hears at the moment it is published is gone: there is
no memory, no acknowledgement, no replay. Every replica of a service hears every event.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from msgspec.structs import replace

from cauce.concurrency.backoff import HALF, Backoff
from cauce.errors import ConfigurationError, TransportUnavailableError
from cauce.events.envelope import Clock, Envelope, NewId, new_id, utc_now
from cauce.events.event import EventType, IntegrationEvent, describe
from cauce.events.names import matches
from cauce.formats import nestjs as nest_wire
from cauce.formats.nestjs import REPLY_SUFFIX, Pattern
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId, Deliver, Delivery, Status, Subscription
from cauce.transports.redis.connection import RedisConnection, RedisServer, RedisTroubleError, url_from_environment

__all__ = ["NestNames", "RedisPubSub", "glob_of"]

NestNames: TypeAlias = Mapping[type[IntegrationEvent], Pattern]
"""The pattern under which NestJS services know an event, where it is not the event's own name."""

_RETRY_FIRST_S = 0.1
_RETRY_CAP_S = 2.0
_STEADY_S = 5.0
"""A connection that lasted so long was a good one: the next trouble starts with short pauses again."""
_LONGER = 8
"""How many times as long as a CloudEvent the packet can be: `1e20` is written as twenty-one digits."""
_FAIL_FAST_S = 0.5
"""After a server did not answer, others who want to publish are told so at once for so long."""


class RedisPubSub:
    """Publishes as NestJS's `emit` and hears what NestJS's clients send, over Redis or Valkey Pub/Sub.

    `url` as in RedisServer. `nest_names`: what is published under another name or object pattern than the
    event's own; it is heard under both. `durable`: say with every event that it is on a durable topic too, for
    the bridge. `if_down`: what a person should do when nothing listens at the
    address.

    A silent server is asked for a sign of life every `ping_every_s` and given up `answer_limit_s` later, so a
    frozen one is noticed within their sum. Connecting and subscribing have `answer_limit_s` too, publishing
    has `publish_limit_s`. Raises ConfigurationError for what cannot work; connects only in `run` and
    `publish`.
    """

    name = "redis"
    durable = False

    def __init__(
        self,
        url: str,
        *,
        nest_names: NestNames | None = None,
        durable: bool = False,
        if_down: str = "is it running?",
        ping_every_s: float = 3.0,
        answer_limit_s: float = 2.0,
        publish_limit_s: float = 1.0,
        clock: Clock = utc_now,
        new_id: NewId = new_id,
    ) -> None:
        self._server = RedisServer(url, if_down=if_down, answer_limit_s=answer_limit_s)
        self._spoken = _spoken(nest_names or {})
        self._durable = durable
        self._ping_every_s = ping_every_s
        self._answer_limit_s = answer_limit_s
        self._clock = clock
        self._new_id = new_id
        self._publisher = _Publisher(self._server, limit_s=publish_limit_s)

    @classmethod
    def from_environment(cls) -> "RedisPubSub":
        """For programs that read no settings of their own: REDIS_URL, or REDIS_HOST, REDIS_PORT and REDIS_PASS."""
        return cls(url_from_environment())

    async def publish(self, lane: Lane, batch: Sequence[Envelope]) -> Sequence[BrokerId]:
        """Return once the server has taken the batch, in order; how many heard it is not known.

        Never sent twice: raises TransportUnavailableError when the server did not confirm, at once if it
        cannot be reached, after `publish_limit_s` at the latest. PublishError if an event cannot be written,
        and then none of the batch was sent. Pub/Sub gives no ids, so the events' own are returned.
        """
        commands = [
            ("PUBLISH", channel, nest_wire.encode(envelope, pattern=pattern, durable=self._durable))
            for envelope in batch
            for pattern in [self._pattern_of(envelope)]
            for channel in [nest_wire.channel_of(pattern)]
        ]
        await self._publisher.send(commands)
        return [BrokerId(envelope.id) for envelope in batch]

    def check(self, envelope: Envelope, message: bytes) -> None:
        """Raise PublishError for what `publish` would refuse: NestJS's packet is nested deeper than a CloudEvent, and its
        numbers may be longer."""
        brackets = message.count(b"{") + message.count(b"[")
        if len(message) < nest_wire.MAX_SIZE // _LONGER and brackets < nest_wire.MAX_DEPTH:
            return  # whatever it holds, it fits
        nest_wire.encode(envelope, pattern=self._pattern_of(envelope), durable=self._durable)

    async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
        """Deliver until cancelled; reconnect and resubscribe for ever, at most 2 s between two attempts.

        With an empty subscription the connection is kept and reported on all the same: readiness of a service
        that only publishes. What a request (`send`) of a NestJS client wants is run as an event; `ack`
        answers it.
        """
        routes = _Routes.of(subscription, self._spoken)
        backoff = Backoff(_RETRY_FIRST_S, _RETRY_CAP_S, jitter=HALF)
        while True:
            began = time.monotonic()
            try:
                await self._listen(routes, deliver, status)
            except RedisTroubleError as trouble:
                if time.monotonic() - began >= _STEADY_S:
                    backoff.reset()
                else:
                    backoff.grow()
                status.down(str(trouble), retry_in_s=backoff.pause_s)
                await backoff.pause()

    async def close(self) -> None:
        """Give the publishing connection back. A closed transport may be used again, in another event loop too."""
        await self._publisher.close()

    # Publishing

    def _pattern_of(self, envelope: Envelope) -> Pattern:
        spoken = self._spoken.get(envelope.name)
        return envelope.name if spoken is None else spoken.pattern

    async def _answer(self, channel: str, request_id: bytes) -> None:
        await self._publisher.send([("PUBLISH", channel + REPLY_SUFFIX, nest_wire.reply_to(request_id))])

    # Hearing

    async def _listen(self, routes: "_Routes", deliver: Deliver, status: Status) -> None:
        """One connection, from its beginning to its end, which is RedisTroubleError or cancellation."""
        connection = await self._server.connect()
        try:
            early = await self._subscribe(connection, routes)
            self._publisher.try_again()
            status.up()
            for message in early:
                await self._hand_over(message, routes, deliver)
            while True:
                message = await connection.read(patience_s=self._ping_every_s)
                if message is None:
                    message = await self._sign_of_life(connection)
                await self._hand_over(message, routes, deliver)
        finally:
            await connection.close()

    async def _subscribe(self, connection: RedisConnection, routes: "_Routes") -> Sequence[list[Any]]:
        """Return once the server has acknowledged every subscription; with the messages that came in
        between."""
        outstanding = {("subscribe", channel) for channel in routes.channels}
        outstanding |= {("psubscribe", glob) for glob in routes.globs}
        if routes.channels:
            await connection.send("SUBSCRIBE", *routes.channels, limit_s=self._answer_limit_s)
        if routes.globs:
            await connection.send("PSUBSCRIBE", *routes.globs, limit_s=self._answer_limit_s)
        early: list[list[Any]] = []
        deadline = time.monotonic() + self._answer_limit_s
        while outstanding:
            message = await connection.read(patience_s=max(0.001, deadline - time.monotonic()))
            if message is None:
                raise RedisTroubleError(
                    f"Redis at {self._server.label} has not acknowledged {len(outstanding)} subscriptions"
                )
            match message:
                case [bytes() as kind, bytes() as what, int()]:
                    outstanding.discard((kind.decode(), what.decode()))
                case _:
                    early.append(message)
        return early

    async def _sign_of_life(self, connection: RedisConnection) -> list[Any]:
        await connection.send("PING", limit_s=self._answer_limit_s)
        message = await connection.read(patience_s=self._answer_limit_s)
        if message is None:
            raise RedisTroubleError(
                f"Redis at {self._server.label} no longer answers (waited {self._answer_limit_s:g} s) → is it frozen?"
            )
        return message

    async def _hand_over(self, message: list[Any], routes: "_Routes", deliver: Deliver) -> None:
        match message:
            case [b"message", bytes() as where, bytes() as raw]:
                channel = where.decode(errors="replace")
                heard, name = channel in routes.channels, routes.channels.get(channel, channel)
            case [b"pmessage", bytes() as glob, bytes() as where, bytes() as raw]:
                channel = name = where.decode(errors="replace")
                heard = routes.wants(channel, through=glob.decode())
            case _:  # the answer to a ping
                return
        if heard:
            await deliver(self._delivery(channel, name, raw))

    def _delivery(self, channel: str, name: str, raw: bytes) -> Delivery:
        packet = nest_wire.read(raw, name=name, clock=self._clock, make_id=self._new_id)
        delivery = Delivery(
            channel=channel,
            raw=raw,
            envelope=packet.envelope,
            problem=packet.problem,
            headers=packet.headers,
        )
        if packet.request_id is None:
            return delivery
        return replace(delivery, ack=partial(self._answer, channel, packet.request_id))


class _Publisher:
    """The connection that publishes: kept open, one batch at a time, replaced after any trouble."""

    def __init__(self, server: RedisServer, *, limit_s: float) -> None:
        self._server = server
        self._limit_s = limit_s
        self._turn = asyncio.Lock()
        self._connection: RedisConnection | None = None
        self._silent_until = 0.0

    async def send(self, commands: Sequence[tuple[str, str, bytes]]) -> None:
        try:
            async with asyncio.timeout(self._limit_s), self._turn:
                await self._send(commands)
        except TimeoutError:
            self._silent_until = time.monotonic() + _FAIL_FAST_S
            raise TransportUnavailableError(self._silence()) from None
        except RedisTroubleError as trouble:
            raise TransportUnavailableError(str(trouble)) from None

    async def _send(self, commands: Sequence[tuple[str, str, bytes]]) -> None:
        if time.monotonic() < self._silent_until:
            raise RedisTroubleError(self._silence())
        connection, self._connection = self._connection, None  # whatever happens now, it is not reused by chance
        try:
            if connection is not None and await connection.went_stale():
                await connection.close()
                connection = None
            if connection is None:
                connection = await self._server.connect()
            await connection.ask(commands)
        except BaseException:
            if connection is not None:
                await connection.close()
            raise
        self._connection = connection

    def try_again(self) -> None:
        """The server answers, as somebody else found out: no more failing at once."""
        self._silent_until = 0.0

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._turn = asyncio.Lock()
        if connection is not None:
            await connection.close()

    def _silence(self) -> str:
        return f"no answer from Redis at {self._server.label} within {self._limit_s:g} s"


# --- names, channels and globs --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spoken:
    """An event that NestJS services know under a pattern of their own."""

    described: EventType
    pattern: Pattern
    channel: str


def _spoken(nest_names: NestNames) -> Mapping[str, _Spoken]:
    """By the events' own names. ConfigurationError for two events on one channel, or an unusable pattern."""
    problems: list[str] = []
    found: dict[str, _Spoken] = {}
    by_channel: dict[str, str] = {}
    for event_type, pattern in nest_names.items():
        described = describe(event_type)
        try:
            channel = nest_wire.channel_of(pattern)
        except ValueError as error:
            problems.append(f"{event_type.__name__}: {error}")
            continue
        if (other := by_channel.setdefault(channel, event_type.__name__)) != event_type.__name__:
            problems.append(f"{other} and {event_type.__name__} would both be published on {channel!r}")
        found[described.name] = _Spoken(described, pattern, channel)
    if problems:
        raise ConfigurationError(problems, where="nest_names")
    return found


@dataclass(frozen=True, slots=True)
class _Routes:
    """What to subscribe to, and which event name a message then has."""

    channels: Mapping[str, str]
    """Exact channels, and the event name each stands for."""
    globs: Mapping[str, Sequence[str]]
    """Redis globs, each with the dotted patterns it is a (wider) translation of."""
    patterns: Sequence[str]

    @staticmethod
    def of(subscription: Subscription, spoken: Mapping[str, _Spoken]) -> "_Routes":
        channels = {name: name for name in sorted(subscription.names)}
        for name, known in spoken.items():
            if _is_wanted(subscription, known.described):
                channels.setdefault(known.channel, name)
        globs: dict[str, list[str]] = {}
        for pattern in subscription.patterns:
            globs.setdefault(glob_of(pattern), []).append(pattern)
        return _Routes(channels, globs, subscription.patterns)

    def wants(self, channel: str, *, through: str) -> bool:
        """Whether a message that came through this glob is the one copy to deliver.

        Redis sends a copy for each subscription that fits; the exact one goes first, then the first pattern.
        The `.reply` channels of NestJS's requests fit wide globs too and carry no events.
        """
        if channel in self.channels or channel.endswith(REPLY_SUFFIX):
            return False
        first = next((pattern for pattern in self.patterns if matches(pattern, channel)), None)
        return first is not None and first in self.globs.get(through, ())


def _is_wanted(subscription: Subscription, described: EventType) -> bool:
    names = (described.name, *described.earlier_names)
    return not subscription.names.isdisjoint(names) or any(
        matches(pattern, name) for pattern in subscription.patterns for name in names
    )


_GLOB_CHARACTERS = re.compile(r"[\\*?\[\]]")


def glob_of(pattern: str) -> str:
    """A Redis glob that matches whatever the dotted pattern matches, and more: a Redis `*` also crosses
    dots."""
    glob = ""
    leading = True
    for segment in pattern.split("."):
        if segment == "**":  # stands for nothing too, and then takes its dot with it: `a.**` also means `a`
            glob += "*"
            continue
        dot = "" if leading else "."
        leading = False
        glob += dot + ("*" if segment == "*" else _GLOB_CHARACTERS.sub(r"\\\g<0>", segment))
    return glob
