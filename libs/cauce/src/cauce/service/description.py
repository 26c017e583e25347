"""What a service says about itself in its own database, so that those who look at it need not import its code."""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from cauce.delivery.retention import Keep
from cauce.events.event import Event, IntegrationEvent, describe
from cauce.events.names import is_pattern
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.listener import Listener, consumer_name
from cauce.ports.description import DescribedEvent, DescribedListener, DescribedTransport, Description
from cauce.ports.transport import Broker

__all__ = ["describe_service"]


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
