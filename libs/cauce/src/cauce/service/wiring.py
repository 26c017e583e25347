"""What a service is wired to hear and to publish; everything that is wrong with it, at once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

from cauce.delivery.nestjs_bridge import NestBridge
from cauce.errors import ConfigurationError, did_you_mean
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe
from cauce.events.names import is_pattern
from cauce.listeners.catalog import collect, in_order, known_events, problems_between
from cauce.listeners.dependencies import Dependencies
from cauce.listeners.identities import Identities
from cauce.listeners.listener import Listener
from cauce.ports.store import DurableStore, Store
from cauce.ports.transport import ChecksEvents, DurableTransport, Subscription, Transport
from cauce.publishing.transaction import Transaction

__all__ = ["Start", "Wiring"]

Start = Literal["retained", "now"]


class Wiring:
    """The listeners of one service, the events they hear, and under which names and topics these arrive.

    `given` is the store as the user named it, if any; `store` is the one in use. Raises ConfigurationError with every
    problem, in the order in which the arguments of Service stand.
    """

    def __init__(
        self,
        service: str,
        *,
        modules: Sequence[object],
        given: Store | None,
        store: Store,
        transport: Transport | DurableTransport | None,
        bridge: NestBridge | None,
        start: Start | None,
        publishes: Sequence[type[IntegrationEvent]],
        retired: Sequence[str],
        dependencies: Dependencies[Transaction],
    ) -> None:
        self.service = service
        self.store = store
        self.transport = transport
        self.bridge = bridge
        self.start: Start | None = start
        # isinstance() on a runtime protocol costs as much as encoding an event: asked once.
        self.durable_store = store if isinstance(store, DurableStore) else None
        self.durable_transport = transport if isinstance(transport, DurableTransport) else None
        self.volatile_transport = None if isinstance(transport, DurableTransport) else transport
        problems: list[str] = []
        if bridge is not None and publishes:
            modules = [*modules, bridge.outward(publishes)]
        self.listeners: tuple[Listener, ...] = tuple(collect(modules, problems))
        problems.extend(_no_integration_events(publishes))
        self.publishes: tuple[type[IntegrationEvent], ...] = tuple(filter(_is_integration_event, publishes))
        self.given_retired = retired
        self.retired = tuple(retired)
        self.identities = Identities(service, self.listeners)
        self.known = known_events(modules, self.listeners, self.publishes)
        problems.extend(self._problems(dependencies))
        problems.extend(self._not_written_down(given))
        if problems:
            raise ConfigurationError(problems, where=f"the service {service!r}")

    @property
    def wires(self) -> tuple[ChecksEvents, ...]:
        """Those that must say an event in a format of their own, and so are asked when it is published."""
        return tuple(one for one in (self.transport, self.bridge) if isinstance(one, ChecksEvents))

    @cached_property
    def listeners_by_event(self) -> Mapping[type[IntegrationEvent], tuple[Listener, ...]]:
        """The integration events that are heard, and by whom, in order."""
        arriving = [one for one in self.known if issubclass(one, IntegrationEvent)]
        return {one: tuple(heard) for one in arriving if (heard := in_order(self.listeners, one))}

    @cached_property
    def users_listeners_by_event(self) -> Mapping[type[IntegrationEvent], tuple[Listener, ...]]:
        """The same without the bridge's own listener."""
        own = {one: tuple(filter(_is_the_users, heard)) for one, heard in self.listeners_by_event.items()}
        return {one: listeners for one, listeners in own.items() if listeners}

    @cached_property
    def subscription(self) -> Subscription:
        """Everything this service hears over its transport."""
        return self._subscribe(self.listeners_by_event)

    @cached_property
    def users_subscription(self) -> Subscription:
        """The same without what only the bridge hears: what NestJS peers may publish to us."""
        return self._subscribe(self.users_listeners_by_event)

    @cached_property
    def accepted(self) -> Mapping[str, type[IntegrationEvent]]:
        """The integration events that are heard, by every name they are accepted under."""
        return {name: one for one in self.listeners_by_event for name in _names_of(one)}

    @cached_property
    def types(self) -> Mapping[str, type[Event]]:
        """Every known event class, by every name it is accepted under."""
        return {name: one for one in self.known for name in _names_of(one)}

    @property
    def has_durable_listeners(self) -> bool:
        return any(listener.registration.when == "durable" for listener in self.listeners)

    @property
    def is_durable(self) -> bool:
        """Whether the store is durable and there is anything durable to do."""
        return self.durable_store is not None and (self.durable_transport is not None or self.has_durable_listeners)

    @property
    def adopted(self) -> Sequence[str]:
        """Topics of others into which the bridge puts events."""
        return sorted(self.users_subscription.topics) if self.bridge is not None else ()

    @property
    def sends_to(self) -> Sequence[str]:
        """The topics that the outbox is sent to; without a durable transport it is not sent."""
        return tuple(dict.fromkeys((self.service, *self.adopted))) if self.durable_transport is not None else ()

    def start_of(self, topic: str) -> Start:
        """Where a first subscription to a topic begins. What only the bridge hears is told to NestJS from now on."""
        if topic in self.users_subscription.topics:
            return self.start or "retained"
        return "now"

    def _subscribe(self, heard: Iterable[type[IntegrationEvent]]) -> Subscription:
        heard = list(heard)
        patterns = tuple(
            dict.fromkeys(
                target
                for listener in self.listeners
                if listener.registration.kind is IntegrationEvent
                for target in listener.registration.targets
                if isinstance(target, str) and is_pattern(target)
            )
        )
        names = {name for one in heard for name in _names_of(one)}
        topics = {source for one in heard for source in _sources_of(one)}
        return Subscription(names=frozenset(names), patterns=patterns, topics=frozenset(topics))

    def _problems(self, dependencies: Dependencies[Transaction]) -> Iterator[str]:
        yield from dependencies.wrong_factories()
        for listener in self.listeners:
            yield from dependencies.problems(listener)
        yield from problems_between(self.listeners, self.known, apart=lambda one: one.registration.when)
        yield from self._names_claimed_twice()
        yield from self._retired_problems()
        for event_type in self.publishes:
            if (source := describe(event_type).source) != self.service:
                nearest = did_you_mean(str(source), [self.service])
                yield f"publishes {event_type.__name__}, which belongs to {source!r}.{nearest}"
        hears = any(
            listener.registration.kind is IntegrationEvent and _is_the_users(listener) for listener in self.listeners
        )
        if self.bridge is not None and self.durable_transport is None:
            yield "a bridge joins NestJS to a durable transport, and there is none: transport=RedisStreams(url)"
        if self.transport is None and (self.publishes or hears):
            yield "it hears or publishes integration events and has no transport: transport=RedisStreams(url)"
        if hears and self.durable_transport is not None and self.start is None:
            yield (
                'where does a new subscription begin? start="retained" (with everything the broker still holds) or '
                'start="now" (with what comes after the first start)'
            )

    def _names_claimed_twice(self) -> Iterator[str]:
        claimed: dict[str, Listener] = {listener.name: listener for listener in self.listeners}
        for listener in self.listeners:
            for name in listener.registration.earlier_names:
                other = claimed.setdefault(name, listener)
                if other.name != listener.name or name == listener.name:
                    whose = "its own name" if name == listener.name else f"a name of {other.name}"
                    yield (
                        f"earlier_names=(…, {name!r}) of {listener.name}: that is {whose}; leave it out · "
                        f"{listener.where}"
                    )

    def _retired_problems(self) -> Iterator[str]:
        if isinstance(self.given_retired, str):
            yield f"retired={self.given_retired!r}: a list of names is expected: retired=[{self.given_retired!r}]"
            return
        for listener in self.listeners:
            for name in (listener.name, *listener.registration.earlier_names):
                if name in self.retired:
                    yield f"retired=[…, {name!r}]: {listener.name} is here, so it is not retired · {listener.where}"

    def _not_written_down(self, given: Store | None) -> Iterator[str]:
        """What is durable and would not be. A store in memory is taken if it is asked for and nothing outlives it."""
        if not self.has_durable_listeners and self.durable_transport is None:
            return
        if not isinstance(given, DurableStore):
            yield (
                "durable delivery is written down in the service's database, and it has none: "
                "store=SqlAlchemyStore(engine), or in tests store=MemoryStore()"
            )
        elif not given.durable and self.transport is not None and self.transport.durable:
            yield (
                f"its store ({given.name}) is gone when the process ends, and with it what {self.transport.name} was "
                "still to be given: store=SqlAlchemyStore(engine), or in tests transport=MemoryStreams()"
            )


def _names_of(event_type: type[Event]) -> tuple[str, ...]:
    described = describe(event_type)
    return (described.name, *described.earlier_names)


def _sources_of(event_type: type[Event]) -> tuple[str, ...]:
    described = describe(event_type)
    return () if described.source is None else (described.source, *described.earlier_sources)


def _is_the_users(listener: Listener) -> bool:
    """Rather than ours: the bridge's."""
    return listener.name != NestBridge.listener_name


def _is_integration_event(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, IntegrationEvent) and bool(thing.__dict__.get("__cauce__"))


def _no_integration_events(things: Iterable[object]) -> Iterator[str]:
    for thing in things:
        if not _is_integration_event(thing):
            label = thing.__name__ if isinstance(thing, type) else repr(thing)
            domain = isinstance(thing, type) and issubclass(thing, DomainEvent)
            why = "a domain event, which never leaves the service" if domain else "no integration event with a name"
            yield f"publishes=[…, {label}]: {label} is {why}; leave it out"
