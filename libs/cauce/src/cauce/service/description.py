"""What a service says about itself in its own database, so that those who look at it need not import its code."""

import logging
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain

import msgspec

from cauce.delivery.retention import Keep
from cauce.events.event import Event, IntegrationEvent, describe
from cauce.events.names import is_pattern
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.listener import Listener
from cauce.ports.description import DescribedEvent, DescribedListener, DescribedTransport, Description
from cauce.ports.registration import ListenerInCode
from cauce.ports.store import DurableStore
from cauce.ports.transport import Broker
from cauce.service.wiring import Wiring

__all__ = ["describe_service", "introduce", "introduce_as_volatile"]

log = logging.getLogger("cauce.service")

_PRUNED_WITHIN_S = 86400.0
"""How much longer than `Keep.inbox_s` an id may be found in the inbox, since it is pruned by portions."""


async def introduce(wiring: Wiring, keep: Keep, store: DurableStore) -> None:
    """Register the listeners in the database, and record what we are, for `cauce status` and the like.

    Raises ConfigurationError if the database is another service's, or a listener's past would be lost.
    """
    found = await store.message_store().register(wiring.service, _durable_listeners(wiring), retired=wiring.retired)
    wiring.identities.adopt(found, remembered_s=keep.inbox_s + _PRUNED_WITHIN_S)
    await _describe(wiring, keep, store)


async def introduce_as_volatile(wiring: Wiring, keep: Keep, store: DurableStore) -> None:
    """Record that it is durable no more: whoever looks into its database must not believe that it still is."""
    try:
        await _describe(wiring, keep, store)
    except Exception as error:
        log.warning("%s: its database still calls it durable (%s)", wiring.service, type(error).__name__)


async def _describe(wiring: Wiring, keep: Keep, store: DurableStore) -> None:
    described = describe_service(wiring, keep)
    await store.message_store().describe(wiring.service, msgspec.json.encode(described).decode())


def _durable_listeners(wiring: Wiring) -> Sequence[ListenerInCode]:
    """Those whose past is kept. A function that is registered several times is one listener."""
    found: dict[str, ListenerInCode] = {}
    for listener in wiring.listeners:
        if listener.registration.kind is not IntegrationEvent and listener.registration.when != "durable":
            continue
        events = (describe(one) for one in wiring.known if listener.hears(one))
        names = [name for one in events for name in (one.name, *one.earlier_names)]
        before = found.get(listener.name)
        found[listener.name] = ListenerInCode(
            name=listener.name,
            earlier_names=_once(before.earlier_names if before else (), listener.registration.earlier_names),
            events=_once(before.events if before else (), names),
        )
    return list(found.values())


def _once(*parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(parts)))


def describe_service(wiring: Wiring, keep: Keep) -> Description:
    """The description of a service as it is wired now."""
    heard = {listener.name: [one for one in wiring.known if listener.hears(one)] for listener in wiring.listeners}
    return Description(
        service=wiring.service,
        cauce=_version(),
        start=wiring.start,
        transport=None if wiring.transport is None else _transport(wiring.transport),
        events=tuple(_event(one) for one in wiring.known),
        publishes=tuple(describe(one).name for one in wiring.publishes),
        topics=tuple(sorted(wiring.subscription.topics)),
        sends_to=tuple(wiring.sends_to),
        listeners=tuple(_listener(wiring, listener, heard[listener.name]) for listener in wiring.listeners),
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


def _listener(wiring: Wiring, listener: Listener, heard: Sequence[type[Event]]) -> DescribedListener:
    registration = listener.registration
    effect = registration.effect
    return DescribedListener(
        name=listener.name,
        consumer=wiring.identities.consumer(listener),
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
