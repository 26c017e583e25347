"""The composition: modules, a store and a transport as one running service.

service = Service("mailing-ms", modules=[welcome], store=SqlAlchemyStore(engine), transport=RedisPubSub(url))
async with service: ...                       # alone
app = FastAPI(lifespan=service.lifespan)      # or beside a web application
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, cast, overload

from cauce.after_commit import AfterCommitQueue
from cauce.bus import DomainEventBus, IntegrationEventBus, not_an_event
from cauce.cancellation import being_cancelled, to_the_end
from cauce.catalog import collect, in_order, known_events, problems_between
from cauce.consumer import Consumer, log_failure
from cauce.dependencies import Dependencies, Factory, Resolver
from cauce.envelope import Clock, Emission, Envelope, NewId, current_emission, current_envelope, new_id, utc_now
from cauce.errors import CauceError, ConfigurationError, ListenersFailedError, PublishError, did_you_mean
from cauce.events import DomainEvent, Event, IntegrationEvent, check_fields, describe
from cauce.levels import Levels
from cauce.listeners import Listener
from cauce.names import is_pattern
from cauce.outage import Outage
from cauce.store import Store
from cauce.stores.memory import MemoryStore
from cauce.transaction import AfterCommit, Pending, Plan, Transaction, call_listener
from cauce.transport import Delivery, Subscription, Transport

__all__ = ["Happening", "Observer", "Service"]

log = logging.getLogger("cauce.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something a service did with an event."""

    what: Literal["published", "handled", "failed", "lost"]
    service: str
    envelope: Envelope
    listener: str = ""
    error: Exception | None = None


Observer = Callable[[Happening], None]

_FIRST_ANSWER_S = 2.0
"""How long a start waits for the broker's first answer; a broker that is down does not stop a service."""


class Service:
    """A running part of a system, with its own state, that tells others what happened.

    `modules`: modules, decorated functions, or objects with decorated methods. `publishes`: the integration events it
    may publish. `provide`: what listeners need, by type, made per transaction; `resolver` asks a container for the
    rest. `clock` and `new_id` are for tests.

    Raises ConfigurationError with everything that is wrong. Nothing is connected before `async with service`.
    """

    def __init__(
        self,
        name: str,
        *,
        modules: Sequence[object] = (),
        store: Store | None = None,
        transport: Transport | None = None,
        publishes: Sequence[type[IntegrationEvent]] = (),
        provide: Mapping[type[Any], Factory] | None = None,
        resolver: Resolver | None = None,
        clock: Clock = utc_now,
        new_id: NewId = new_id,
        drain_limit_s: float = 15.0,
    ) -> None:
        self.name = name
        self.store: Store = store if store is not None else MemoryStore()
        self.transport = transport
        self.clock = clock
        self.new_id = new_id
        self.counters: Counter[str] = Counter()
        self.dependencies = Dependencies(
            provide or {},
            resolver,
            transaction_types=(Transaction, DomainEventBus, IntegrationEventBus),
            session_type=self.store.session_type,
        )
        problems: list[str] = []
        self.listeners: tuple[Listener, ...] = tuple(collect(modules, problems))
        problems.extend(_no_integration_events(publishes))
        self.publishes: tuple[type[IntegrationEvent], ...] = tuple(filter(_is_integration_event, publishes))
        self._known = known_events(modules, self.listeners, self.publishes)
        problems.extend(self._problems())
        if problems:
            raise ConfigurationError(problems, where=f"the service {name!r}")
        self._plans: dict[type[DomainEvent], Plan] = {}
        self._observers: list[Observer] = []
        self._drain_limit_s = drain_limit_s
        self._loops: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._crash: BaseException | None = None
        heard = self._heard_integration_events()
        self._heard = {one: in_order(self.listeners, one) for one in heard}
        self._subscription = self._subscribe(heard)
        self._types = {name: one for one in heard for name in (describe(one).name, *describe(one).earlier_names)}
        self._renew()

    # Running

    async def __aenter__(self) -> Self:
        """Start. Returns once the broker has acknowledged every subscription, or has been found unavailable.

        May be started again after it has stopped, also in another event loop. Raises what made it crash at once.
        """
        if self._loops is not None:
            raise CauceError(f"the service {self.name} is running already")
        self._stop = asyncio.Event()
        self._crash = None
        self._renew()
        self._queue.open()
        loop = asyncio.get_running_loop()
        self._loops = loop.create_task(self._run(), name=f"cauce {self.name}")
        reported = loop.create_task(self.outage.first_report(limit_s=_FIRST_ANSWER_S if self.transport else 0.0))
        try:
            await asyncio.wait({self._loops, reported}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        finally:
            reported.cancel()
        if self._crash is not None:
            await self.__aexit__(None, None, None)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Drain: stop hearing, finish what runs (for `drain_limit_s` at most), give the connections back."""
        self._stop.set()
        try:
            if self._loops is not None:
                await to_the_end(asyncio.wait({self._loops}))
            await to_the_end(self._close())
        finally:
            self._loops = None
        if self._crash is not None:
            raise self._crash

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[dict[str, Any]]:
        """The service as the lifespan of an ASGI application: `FastAPI(lifespan=service.lifespan)`."""
        async with self:
            yield {"cauce_service": self}

    @property
    def hears(self) -> frozenset[str]:
        """The canonical names and the patterns of the integration events it listens to."""
        return frozenset({describe(one).name for one in self._heard_integration_events()}) | set(
            self._subscription.patterns
        )

    @property
    def accepts(self) -> frozenset[str]:
        """Every name, earlier ones too, under which an integration event reaches a listener here."""
        return frozenset(self._types)

    async def stopped(self) -> None:
        """Wait until the service has stopped, by being told to or by a crash."""
        if self._loops is not None:
            await asyncio.wait({self._loops})

    @property
    def running(self) -> bool:
        return self._loops is not None and not self._stop.is_set() and self._crash is None

    @property
    def crash(self) -> BaseException | None:
        """What made it stop by itself, since its last start."""
        return self._crash

    def readiness(self) -> dict[str, str]:
        """What is not ready, and why; empty when the service can do its whole work."""
        if self._crash is not None:
            return {self.name: f"crashed: {type(self._crash).__name__}"}
        if not self.running:
            return {self.name: "stopping" if self._stop.is_set() else "not started"}
        if self.transport is not None and self.outage.reason is not None:
            return {self.transport.name: self.outage.reason}
        return {}

    async def check(self) -> dict[str, str]:
        """Readiness, and the database asked (within two seconds)."""
        found = self.readiness()
        if problem := await self.store.problem():
            found["database"] = problem
        return found

    async def idle(self, *, limit_s: float = 5.0) -> None:
        """Wait until nothing accepted is unfinished: for tests and for the drain. TimeoutError after `limit_s`."""
        async with asyncio.timeout(limit_s):
            while self.unfinished:  # noqa: ASYNC110  # three queues; only the drain and tests wait for all of them
                await asyncio.sleep(0.001)

    @property
    def unfinished(self) -> int:
        return self._queue.unfinished + self._consumer.unfinished

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Be told what happens in this service, until the returned function is called. Must not block or raise."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    # Publishing

    def transaction(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """One unit of work: commits when the block ends, rolls back when an exception leaves it.

        Raises CommitUnknownError if the connection broke while committing; then nobody was told anything.
        """
        return self._transaction(read_only=read_only)

    @overload
    async def publish(self, event: DomainEvent, /, *, outside: bool = False) -> None: ...
    @overload
    async def publish(self, event: IntegrationEvent, /, *, outside: bool = False) -> None: ...
    async def publish(self, event: Event, /, *, outside: bool = False) -> None:
        """Publish without a transaction of the caller's.

        A domain event: every listener runs, each in a transaction of its own; errors are raised together as
        ListenersFailedError. An integration event is refused (PublishError) unless `outside=True` says that no change
        belongs to it.
        """
        if isinstance(event, DomainEvent):
            await self._publish_to_independent_listeners(event)
        elif isinstance(event, IntegrationEvent):
            if not outside:
                raise PublishError(
                    f"publish({type(event).__name__}) ran outside a transaction, so it could be sent for a change that "
                    "rolls back. Wrap it: async with service.transaction() as tx: await tx.publish(…), or say outside=True"
                )
            async with self.transaction() as tx:
                await tx.publish(event)
        else:
            raise PublishError(not_an_event(event, self.publishable))

    # What a transaction asks its service (transaction.Rules)

    def plan(self, event_type: type[DomainEvent]) -> Plan:
        plan = self._plans.get(event_type)
        if plan is None:
            describe(event_type)
            check_fields(event_type)
            heard = in_order(self.listeners, event_type)
            plan = self._plans[event_type] = Plan(
                in_transaction=tuple(one for one in heard if one.registration.when == "in_transaction"),
                after_commit=tuple(one for one in heard if one.registration.when == "after_commit"),
            )
        return plan

    @property
    def publishable(self) -> Sequence[type[Event]]:
        """The event classes known here that this service may publish."""
        return (*(one for one in self._known if issubclass(one, DomainEvent)), *self.publishes)

    def check_running(self, event_type: type[Event]) -> None:
        """PublishError if what waits for the commit would wait for ever."""
        if not self._queue.is_open:
            raise PublishError(
                f"{self.name} is not running, so {event_type.__name__} would be heard by nobody after the commit. "
                "Publish inside: async with service: …"
            )

    def check_publishable(self, event_type: type[IntegrationEvent]) -> None:
        described = describe(event_type)
        name = event_type.__name__
        if described.source != self.name:
            raise PublishError(f"{name} belongs to {described.source}; this is {self.name}, which cannot speak for it")
        if event_type not in self.publishes:
            known = [one.__name__ for one in self.publishes]
            raise PublishError(
                f"{self.name} does not say that it publishes {name}.{did_you_mean(name, known)} "
                f"Add it to the service: publishes=[{', '.join([*known, name])}]"
            )

    # Inside

    def _problems(self) -> Iterator[str]:
        yield from self.dependencies.wrong_factories()
        for listener in self.listeners:
            yield from self.dependencies.problems(listener)
        yield from problems_between(self.listeners, self._known, apart=lambda one: one.registration.when)
        for event_type in self.publishes:
            if (source := describe(event_type).source) != self.name:
                yield f"publishes {event_type.__name__}, which belongs to {source!r}.{did_you_mean(str(source), [self.name])}"
        hears = any(listener.registration.kind is IntegrationEvent for listener in self.listeners)
        if self.transport is None and (self.publishes or hears):
            yield "it hears or publishes integration events and has no transport: transport=RedisPubSub(url)"

    def _heard_integration_events(self) -> list[type[IntegrationEvent]]:
        return [
            event_type
            for event_type in self._known
            if issubclass(event_type, IntegrationEvent) and in_order(self.listeners, event_type)
        ]

    def _subscribe(self, heard: Sequence[type[IntegrationEvent]]) -> Subscription:
        patterns = tuple(
            dict.fromkeys(
                target
                for listener in self.listeners
                if listener.registration.kind is IntegrationEvent
                for target in listener.registration.targets
                if isinstance(target, str) and is_pattern(target)
            )
        )
        names = {name for one in heard for name in (describe(one).name, *describe(one).earlier_names)}
        return Subscription(names=frozenset(names), patterns=patterns)

    def _renew(self) -> None:
        """What one run uses; queues belong to one event loop, and leftovers of a run are no part of the next."""
        self.outage = Outage(self.name, log)
        self._queue = AfterCommitQueue(
            transport=self.transport, run_listeners=self._run_after_commit, lost=self._lost, count=self._count
        )
        self._consumer = Consumer(
            service=self.name,
            types=self._types,
            listeners=self._heard,
            handle=self._handle,
            count=self._count,
        )

    async def _run(self) -> None:
        """Every loop of the service, until it is told to stop; a loop that crashes takes the service down, loudly."""
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [tasks.create_task(self._consumer.run()), tasks.create_task(self._queue.run())]
                hearing = [tasks.create_task(self.outage.run())]
                if self.transport is not None:  # also when it only publishes: readiness names the broker
                    hearing.append(tasks.create_task(self._hear(self.transport)))
                await self._stop.wait()
                for loop in hearing:
                    loop.cancel()
                try:
                    await self.idle(limit_s=self._drain_limit_s)
                except TimeoutError:
                    log.error("%s: %d events were still being handled; they are lost", self.name, self.unfinished)
                for loop in loops:
                    loop.cancel()
        except BaseExceptionGroup as group:
            self._crash = _first_of(group)
            self.outage.stopped()
            if not isinstance(self._crash, ConfigurationError):  # that one goes to whoever starts the service
                log.critical("%s: crashed: %r", self.name, self._crash, exc_info=self._crash)
        finally:
            self._queue.close()

    async def _hear(self, transport: Transport) -> None:
        await transport.run(self._subscription, self._consumer.deliver, self.outage)
        raise CauceError(f"the transport {transport.name!r} stopped by itself, without an error")

    async def _close(self) -> None:
        try:
            if self.transport is not None:
                await self.transport.close()
        finally:
            await self.store.close()

    @asynccontextmanager
    async def _transaction(self, *, read_only: bool) -> AsyncGenerator[Transaction]:
        levels: Levels[Pending] = Levels()
        tx = Transaction(self, self.store.begin(levels, read_only=read_only), levels, read_only=read_only)
        try:
            yield tx
        except BaseException:
            await self._roll_back(tx)
            raise
        await to_the_end(self._commit(tx))

    async def _commit(self, tx: Transaction) -> None:
        try:
            await tx.commit()
        except BaseException:
            await self._roll_back(tx)
            raise
        self._published(tx.take_committed(), known=not tx.joined)

    async def _roll_back(self, tx: Transaction) -> None:
        try:
            await tx.rollback()
        finally:  # what the block had committed by itself
            self._published(tx.take_committed(), known=not tx.joined)

    def _published(self, pending: Sequence[Pending], *, known: bool) -> None:
        """Published for good. What waits for the commit goes on only if the commit is known."""
        for item in pending:
            self._count("published")
            self._tell("published", item if isinstance(item, Envelope) else item.emission)
            if isinstance(item, AfterCommit):
                for listener in item.heard_by:
                    self._tell("handled", item.emission, listener.name)
        if known:
            self._queue.accept(pending)

    async def _publish_to_independent_listeners(self, event: DomainEvent) -> None:
        plan = self.plan(type(event))
        envelope = Envelope.of(
            event, source=self.name, cause=current_envelope(), id=self.new_id(), occurred_on=self.clock()
        )
        emission = Emission(event, None, self.name, envelope)
        self._published([AfterCommit(emission, (), ())], known=False)
        errors: list[Exception] = []
        token = current_emission.set(emission)
        try:
            for listener in (*plan.in_transaction, *plan.after_commit):
                try:
                    await self._call(listener, emission)
                except Exception as error:  # independent listeners: the rest still run
                    errors.append(error)
        finally:
            current_emission.reset(token)
        if errors:
            raise ListenersFailedError(describe(type(event)).name, errors)

    async def _run_after_commit(self, due: AfterCommit) -> None:
        token = current_emission.set(due.emission)
        try:
            for listener in due.listeners:
                try:
                    await self._call(listener, due.emission)
                except Exception as error:  # the transaction is committed; nobody waits
                    self._count("failed")
                    log_failure(log, self.name, listener, due.emission.envelope, error)
                else:
                    self._count("handled")
        finally:
            current_emission.reset(token)

    async def _handle(self, listener: Listener, emission: Emission, delivery: Delivery) -> None:
        await self._call(listener, emission, channel=delivery.channel, headers=delivery.headers)

    async def _call(self, listener: Listener, emission: Emission, **circumstances: Any) -> None:
        """One listener in a transaction of its own, opened only if it needs one."""
        try:
            if self.dependencies.needs_transaction(listener):
                async with self.transaction() as tx:
                    await call_listener(listener, emission, self.dependencies, tx, **circumstances)
            else:
                await call_listener(listener, emission, self.dependencies, None, **circumstances)
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            error = CauceError(f"{listener.name} awaited something that was cancelled")
            self._tell("failed", emission, listener.name, error)
            raise error from None
        except Exception as error:
            self._tell("failed", emission, listener.name, error)
            raise
        self._tell("handled", emission, listener.name)

    def _tell(
        self,
        what: Literal["published", "handled", "failed", "lost"],
        about: Emission | Envelope,
        listener: str = "",
        error: Exception | None = None,
    ) -> None:
        if self._observers:
            envelope = about if isinstance(about, Envelope) else about.envelope
            happening = Happening(what=what, service=self.name, envelope=envelope, listener=listener, error=error)
            for observer in list(self._observers):
                observer(happening)

    def _lost(self, envelopes: Iterable[Envelope]) -> None:
        for envelope in envelopes:
            self._count("lost")
            self.outage.lost(envelope.id)
            self._tell("lost", envelope)

    def _count(self, what: str) -> None:
        self.counters[what] += 1


def _is_integration_event(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, IntegrationEvent) and bool(thing.__dict__.get("__cauce__"))


def _no_integration_events(things: Iterable[object]) -> Iterator[str]:
    for thing in things:
        if not _is_integration_event(thing):
            label = thing.__name__ if isinstance(thing, type) else repr(thing)
            domain = isinstance(thing, type) and issubclass(thing, DomainEvent)
            why = "a domain event, which never leaves the service" if domain else "no integration event with a name"
            yield f"publishes=[…, {label}]: {label} is {why}; leave it out"


def _first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    first: Any = group
    while isinstance(first, BaseExceptionGroup):
        first = cast("tuple[BaseException, ...]", first.exceptions)[0]
    return first
