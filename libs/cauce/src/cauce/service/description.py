"""What a service says about itself in its own database, so that those who look at it need not import its code."""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import msgspec

from cauce.delivery.inbox.attempts import consumer_name
from cauce.delivery.retention import Keep
from cauce.events.event import Event, IntegrationEvent, describe
from cauce.events.names import is_pattern
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.on import Listener, When
from cauce.ports.transport import Broker

__all__ = ["DescribedEvent", "DescribedListener", "Description", "describe_service", "read_description"]


class DescribedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event class, as far as others can see it."""

    name: str
    cls: str
    kind: Literal["domain", "integration"]
    version: int
    key: str | None
    source: str | None
    earlier_names: tuple[str, ...]


class DescribedListener(msgspec.Struct, frozen=True, kw_only=True):
    """A listener: what it hears, and by which rules it is called."""

    name: str
    consumer: str
    """Under which name its past is kept."""
    when: Literal["arrival"] | When
    """`arrival` for integration events."""
    events: tuple[str, ...]
    patterns: tuple[str, ...]
    attempts: int
    base_s: float
    cap_s: float
    limit_s: float
    effect: Literal["at_least_once", "at_most_once"] | None
    place: str
    """`file.py:line`, without the folders."""


class DescribedTransport(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    durable: bool
    address: str | None = None
    prefix: str | None = None


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A service as it was when it was started last. Seconds, rows and bytes as in Keep."""

    service: str
    cauce: str
    start: Literal["retained", "now"] | None
    transport: DescribedTransport | None
    events: tuple[DescribedEvent, ...]
    publishes: tuple[str, ...]
    topics: tuple[str, ...]
    """Of whom it hears."""
    listeners: tuple[DescribedListener, ...]
    sent_s: float
    sent_rows: int
    sent_bytes: int
    inbox_s: float
    broker_s: float


def describe_service(
    name: str,
    *,
    listeners: Sequence[Listener],
    known: Sequence[type[Event]],
    publishes: Sequence[type[IntegrationEvent]],
    transport: Broker | None,
    start: Literal["retained", "now"] | None,
    keep: Keep,
) -> Description:
    """The description of the service of that name. `known`: the events it can meet."""
    events = [_event(one) for one in known]
    heard = {listener.name: [one for one in known if listener.hears(one)] for listener in listeners}
    arriving = [one for types in heard.values() for one in types if issubclass(one, IntegrationEvent)]
    return Description(
        service=name,
        cauce=_version(),
        start=start,
        transport=None if transport is None else _transport(transport),
        events=tuple(events),
        publishes=tuple(describe(one).name for one in publishes),
        topics=tuple(sorted({source for one in arriving if (source := describe(one).source) is not None})),
        listeners=tuple(_listener(name, listener, heard[listener.name]) for listener in listeners),
        sent_s=keep.sent_s,
        sent_rows=keep.sent_rows,
        sent_bytes=keep.sent_bytes,
        inbox_s=keep.inbox_s,
        broker_s=keep.broker_s,
    )


def read_description(written: str) -> Description | None:
    """None for what another version wrote in another form."""
    try:
        return msgspec.json.decode(written, type=Description)
    except msgspec.DecodeError:
        return None


def _event(event_type: type[Event]) -> DescribedEvent:
    described = describe(event_type)
    return DescribedEvent(
        name=described.name,
        cls=event_type.__name__,
        kind="integration" if issubclass(event_type, IntegrationEvent) else "domain",
        version=described.version,
        key=described.key,
        source=described.source,
        earlier_names=described.earlier_names,
    )


def _listener(service: str, listener: Listener, heard: Sequence[type[Event]]) -> DescribedListener:
    registration = listener.registration
    effect = registration.effect
    return DescribedListener(
        name=listener.name,
        consumer=consumer_name(service, listener),
        when="arrival" if registration.kind is IntegrationEvent else registration.when,
        events=tuple(describe(one).name for one in heard),
        patterns=tuple(one for one in registration.targets if isinstance(one, str) and is_pattern(one)),
        attempts=registration.retry.attempts,
        base_s=registration.retry.base,
        cap_s=registration.retry.cap,
        limit_s=registration.limit_s,
        effect=None if effect is None else "at_least_once" if isinstance(effect, AtLeastOnce) else "at_most_once",
        place=os.path.basename(listener.where),
    )


def _transport(transport: Broker) -> DescribedTransport:
    return DescribedTransport(
        name=transport.name,
        durable=transport.durable,
        address=_text_of(transport, "address"),
        prefix=_text_of(transport, "prefix"),
    )


def _text_of(transport: Broker, attribute: str) -> str | None:
    """What only some transports say of themselves."""
    value = getattr(transport, attribute, None)
    return value if isinstance(value, str) else None


def _version() -> str:
    try:
        return version("cauce")
    except PackageNotFoundError:  # run from its sources
        return "?"
