"""NestJS services next to a durable transport: they receive our integration events, and theirs become durable.

Outward, a listener on the service's own topic publishes every event once more, on Pub/Sub in NestJS's wire format.
A listener and not the relay: the inbox then remembers what was published, so neither several replicas, nor events
resent to a broker that lost its data, nor a row that is sent twice reaches NestJS a second time; errors of Pub/Sub
delay NestJS only; and the lanes keep the order of each key. A crash while publishing repeats one event, with its id.

Inward, every replica receives what NestJS publishes and writes it into its own outbox, where the event's id is unique:
the database decides, one row is made, and the relay appends it to the topic of its source like an event of ours.
Listeners receive from the durable topic only, so an event that comes both ways, or twice, has one effect.

Each direction recognises the other's events: what we publish outward has a mark (`durable`) next to the event, which
NestJS ignores; what came in has ADOPTED as its incarnation, where other events name their database.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from cauce.concurrency.backoff import Backoff
from cauce.errors import DecodeError, PublishError
from cauce.events.envelope import Envelope, key_of
from cauce.events.event import Event, IntegrationEvent, describe
from cauce.formats.decoding import decode
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.on import on
from cauce.listeners.retry import Reject, Retry
from cauce.ports.lanes import lane_of
from cauce.ports.transport import ChecksEvents, Delivery, Status, Subscription, Transport
from cauce.telemetry.log_text import one_line

__all__ = ["ADOPTED", "Adopt", "Inward", "NestBridge"]

log = logging.getLogger("cauce.bridge")

ADOPTED = "nestjs"
"""The incarnation of an event that no database of ours has numbered."""

_PAUSE_FIRST_S = 0.1
_PAUSE_CAP_S = 5.0

Adopt = Callable[[Envelope, Sequence[str]], Awaitable[bool]]
"""Write the event to the outbox; False if it is there already, or one of these consumers has handled it."""


class NestBridge:
    """Joins NestJS peers on `wire`, which is `RedisPubSub(url, nest_names=…, durable=True)`, to one service."""

    listener_name = "cauce.nest-bridge"

    def __init__(self, wire: Transport) -> None:
        self._wire = wire

    def check(self, envelope: Envelope, message: bytes) -> None:
        """Raise PublishError for an event that NestJS's format could not say."""
        if isinstance(self._wire, ChecksEvents):
            self._wire.check(envelope, message)

    def outward(
        self, publishes: Sequence[type[IntegrationEvent]]
    ) -> Callable[[IntegrationEvent, Envelope], Awaitable[None]]:
        """The listener that publishes to NestJS what the service publishes, which must not be empty."""

        @on(*publishes, name=self.listener_name, effect=AtLeastOnce(), retry=Retry(attempts=20, base=0.5, cap=60.0))
        async def tell_nestjs(_event: IntegrationEvent, envelope: Envelope) -> None:
            if envelope.incarnation == ADOPTED:
                return  # it came from there
            try:
                await self._wire.publish(lane_of(envelope), [envelope])
            except PublishError as error:
                raise Reject(str(error)) from None

        return tell_nestjs

    async def inward(self, subscription: Subscription, inward: "Inward", status: Status) -> None:
        """Receive from NestJS until cancelled. What it publishes while no replica listens is lost, as always there."""
        await self._wire.run(subscription, inward.take, status)

    async def close(self) -> None:
        await self._wire.close()


class Inward:
    """Takes over messages received on Pub/Sub."""

    def __init__(
        self,
        *,
        service: str,
        types: Mapping[str, type[Event]],
        consumers: Mapping[type[IntegrationEvent], Sequence[str]],
        adopt: Adopt,
        is_infrastructure: Callable[[BaseException], bool],
        count: Callable[[str], None],
    ) -> None:
        """`types`: event classes by every name they are accepted under; `consumers`: their listeners here."""
        self._service = service
        self._types = types
        self._consumers = consumers
        self._adopt = adopt
        self._is_infrastructure = is_infrastructure
        self._count = count

    async def take(self, delivery: Delivery) -> None:
        """Return once the message is written, known, or refused. Waits while the database is down."""
        if delivery.headers.get("durable") != "true":
            try:
                envelope = self._understand(delivery)
                if envelope is not None:
                    await self._write_down(envelope)
            except _NotTakenError as reason:
                self._count("bridge_refused")
                line = f"{self._service} did not take over a message of NestJS on {delivery.channel} · {reason}"
                log.error("%s", one_line(f"{line} · {len(delivery.raw)} bytes, not kept"))
        try:
            await delivery.ack()
        except Exception as error:  # the broker's trouble is reported by the transport
            log.warning("%s", one_line(f"{delivery.channel}: a request could not be answered: {error}"))

    def _understand(self, delivery: Delivery) -> Envelope | None:
        """The event as it goes to the durable topic; None if it has no listener here."""
        said = delivery.envelope
        if said is None:
            raise _NotTakenError(delivery.problem or "not an event")
        event_type = self._types.get(said.name)
        if event_type is None or not issubclass(event_type, IntegrationEvent) or not self._consumers.get(event_type):
            self._count("bridge_unheard")
            return None
        if "id" in delivery.headers.get("assumed", ""):
            raise _NotTakenError("it has no id, so it could not be told from its own copies → give the event an id")
        described = describe(event_type)
        source = described.source or said.source
        if said.source not in (source, "unknown"):
            raise _NotTakenError(f"it says that {said.source!r} published it, and {described.name} is {source}'s")
        key = None
        if not isinstance(said.payload, Event):
            try:
                key = key_of(decode(said.payload, event_type), described)
            except DecodeError:
                key = None  # it becomes a dead letter of each of its listeners, with its bytes
        return replace(said, source=source, name=described.name, key=key, incarnation=ADOPTED)

    async def _write_down(self, envelope: Envelope) -> None:
        consumers = self._consumers.get(self._event_type(envelope), ())
        backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_CAP_S)
        while True:
            try:
                new = await self._adopt(envelope, consumers)
            except PublishError as error:
                raise _NotTakenError(str(error)) from None
            except Exception as error:
                if not self._is_infrastructure(error):
                    raise _NotTakenError(f"the database does not take it: {type(error).__name__}") from None
                log.warning("%s: an event of NestJS waits for the database (%s)", self._service, type(error).__name__)
                await backoff.pause()
                backoff.grow()
            else:
                if new:
                    self._count("bridged")
                else:
                    self._count("bridge_known")
                return

    def _event_type(self, envelope: Envelope) -> type[IntegrationEvent]:
        found = self._types[envelope.name]
        assert issubclass(found, IntegrationEvent)  # noqa: S101  # for the type checker
        return found


class _NotTakenError(Exception):
    """Carries the reason; never leaves this module."""
