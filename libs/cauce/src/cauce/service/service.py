"""The composition: modules, a store and a transport as one running service.

service = Service("mailing-ms", modules=[welcome], store=SqlAlchemyStore(engine), transport=RedisPubSub(url))
async with service: ...                       # alone
app = FastAPI(lifespan=service.lifespan)      # or beside a web application
"""

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, cast, overload
from uuid import uuid4

import msgspec

from cauce.concurrency.cancellation import being_cancelled, to_the_end
from cauce.delivery.durable import DurableDelivery
from cauce.delivery.inbox.attempts import Applying
from cauce.delivery.nestjs_bridge import Inward, NestBridge
from cauce.delivery.outbox.alarms import Alarms
from cauce.delivery.pace import Pace
from cauce.delivery.retention import Keep
from cauce.delivery.volatile.consumer import VolatileConsumer
from cauce.delivery.volatile.queue import AfterCommitQueue
from cauce.errors import (
    CauceError,
    CommitUnknownError,
    ConfigurationError,
    ListenersFailedError,
    PublishError,
    TransportUnavailableError,
    did_you_mean,
)
from cauce.events.envelope import Clock, Emission, Envelope, NewId, current_emission, current_envelope, new_id, utc_now
from cauce.events.event import DomainEvent, Event, IntegrationEvent, check_fields, describe
from cauce.events.names import is_pattern
from cauce.listeners.calling import call_listener, log_failure
from cauce.listeners.catalog import collect, in_order, known_events, problems_between
from cauce.listeners.dependencies import Dependencies, Factory, Resolver
from cauce.listeners.listener import Listener, consumer_name
from cauce.ports.inbox import Inbox
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import Outgoing
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import DurableStore, Store
from cauce.ports.transport import Delivery, DurableTransport, Status, Subscription, Transport
from cauce.publishing.bus import DomainEventBus, IntegrationEventBus, not_an_event
from cauce.publishing.pending import AfterCommit, Pending, Plan
from cauce.publishing.transaction import Transaction
from cauce.service.description import describe_service
from cauce.stores.memory.store import MemoryStore
from cauce.telemetry.connectivity import BrokerStatus
from cauce.telemetry.happenings import Happening, Observer
from cauce.telemetry.outage_log import Kept

__all__ = ["Service"]

log = logging.getLogger("cauce.service")


_FIRST_ANSWER_S = 2.0
"""How long a start waits for the broker's first answer; a broker that is down does not stop a service."""


class Service:
    """A running part of a system, with its own state, that tells others what happened.

    `version`: of its code; it stands in its events and dead letters, for whoever looks for the cause. `modules`: modules,
    decorated functions, or objects with decorated methods. `publishes`: the integration events it
    may publish. `provide`: what listeners need, by type, made per transaction; `resolver` asks a container for the
    rest. `bridge`: NestJS services that take part beside a durable transport. `clock` and `new_id` are for tests.

    Raises ConfigurationError with everything that is wrong. Nothing is connected before `async with service`.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str | None = None,
        modules: Sequence[object] = (),
        store: Store | None = None,
        transport: Transport | DurableTransport | None = None,
        bridge: NestBridge | None = None,
        start: Literal["retained", "now"] | None = None,
        keep: Keep | None = None,
        pace: Pace | None = None,
        alarms: Alarms | None = None,
        publishes: Sequence[type[IntegrationEvent]] = (),
        provide: Mapping[type[Any], Factory[Transaction]] | None = None,
        resolver: Resolver[Transaction] | None = None,
        clock: Clock = utc_now,
        new_id: NewId = new_id,
        drain_limit_s: float = 15.0,
    ) -> None:
        self.name = name
        self.version = version
        self.store: Store = store if store is not None else MemoryStore()
        self.transport = transport
        # Asked once: such a question about a protocol takes as long as encoding an event.
        self.durable_store = self.store if isinstance(self.store, DurableStore) else None
        self._remembering = transport if isinstance(transport, DurableTransport) else None
        self._volatile = None if isinstance(transport, DurableTransport) else transport
        self.clock = clock
        self.new_id = new_id
        self.counters: Counter[str] = Counter()
        self.dependencies: Dependencies[Transaction] = Dependencies(
            provide or {},
            resolver,
            transaction_types=(Transaction, DomainEventBus, IntegrationEventBus),
            session_type=self.store.session_type,
        )
        problems: list[str] = []
        self._bridge = bridge
        if bridge is not None and publishes:
            modules = [*modules, bridge.outward(publishes)]
        self.listeners: tuple[Listener, ...] = tuple(collect(modules, problems))
        problems.extend(_no_integration_events(publishes))
        self.publishes: tuple[type[IntegrationEvent], ...] = tuple(filter(_is_integration_event, publishes))
        self._known = known_events(modules, self.listeners, self.publishes)
        self._start: Literal["retained", "now"] | None = start
        self._keep = keep or Keep()
        self._pace = pace or Pace()
        self._alarms = alarms or Alarms()
        problems.extend(self._problems())
        problems.extend(self._not_written_down(store))
        if problems:
            raise ConfigurationError(problems, where=f"the service {name!r}")
        self._plans: dict[type[DomainEvent], Plan] = {}
        self._observers: list[Observer] = []
        self._drain_limit_s = drain_limit_s
        self._loops: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._prepared = asyncio.Event()
        self._crash: BaseException | None = None
        heard = self._heard_integration_events()
        self._heard = {one: in_order(self.listeners, one) for one in heard}
        self._subscription = self._subscribe(heard)
        own = {one: tuple(filter(_is_the_users, listeners)) for one, listeners in self._heard.items()}
        self._heard_by_users = {one: listeners for one, listeners in own.items() if listeners}
        self._by_name = {listener.name: listener for listener in self.listeners}
        self._types = {name: one for one in heard for name in (describe(one).name, *describe(one).earlier_names)}
        self._renew()

    # Running

    async def __aenter__(self) -> Self:
        """Start. Returns once the tables are there and the broker has acknowledged every subscription, or has been
        found unavailable.

        May be started again after it has stopped, also in another event loop. Raises what made it crash at once.
        """
        if self._loops is not None:
            raise CauceError(f"the service {self.name} is running already")
        self._stop = asyncio.Event()
        self._prepared = asyncio.Event()
        self._crash = None
        self._renew()
        self._queue.open()
        loop = asyncio.get_running_loop()
        self._loops = loop.create_task(self._run(), name=f"cauce {self.name}")
        reported = loop.create_task(self._first_report())
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
        if self._durable is not None and (problem := self._durable.ownership.problem()):
            return {"lanes": problem}
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
        durable = self._durable.unfinished if self._durable is not None else 0
        return self._queue.unfinished + self._consumer.unfinished + durable

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
                durable=tuple(one for one in heard if one.registration.when == "durable"),
            )
        return plan

    @property
    def publishable(self) -> Sequence[type[Event]]:
        """The event classes known here that this service may publish."""
        return (*(one for one in self._known if issubclass(one, DomainEvent)), *self.publishes)

    def check_running(self, event_type: type[Event]) -> None:
        """PublishError if what waits for the commit would wait for ever; OutboxFullError if too much waits already."""
        if not self._queue.is_open:
            raise PublishError(
                f"{self.name} is not running, so {event_type.__name__} would be heard by nobody after the commit. "
                "Publish inside: async with service: …"
            )
        if self._durable is not None and issubclass(event_type, IntegrationEvent):
            self._durable.watch.check_room()

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
        hears = any(
            listener.registration.kind is IntegrationEvent and _is_the_users(listener) for listener in self.listeners
        )
        if self._bridge is not None and self._remembering is None:
            yield "a bridge joins NestJS to a durable transport, and there is none: transport=RedisStreams(url)"
        if self.transport is None and (self.publishes or hears):
            yield "it hears or publishes integration events and has no transport: transport=RedisStreams(url)"
        if hears and self._remembering is not None and self._start is None:
            yield (
                'where does a new subscription begin? start="retained" (with everything the broker still holds) or '
                'start="now" (with what comes after the first start)'
            )

    def _not_written_down(self, given: Store | None) -> Iterator[str]:
        """What is durable and would not be. A store in memory is taken if it is asked for and nothing outlives it."""
        durable = any(listener.registration.when == "durable" for listener in self.listeners)
        if not durable and self._remembering is None:
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
        topics = {source for one in heard if (source := describe(one).source) is not None}
        return Subscription(names=frozenset(names), patterns=patterns, topics=frozenset(topics))

    def _renew(self) -> None:
        """What one run uses; queues belong to one event loop, and leftovers of a run are no part of the next."""
        kept = self._kept if self.durable_store is not None and self._remembering is not None else None
        self.outage = BrokerStatus(self.name, log, kept=kept, sent=lambda: self.counters["sent"])
        hears_nestjs = self._bridge is not None and self._heard_by_users
        self._nestjs = self.outage.part("NestJS's events") if hears_nestjs else None
        self._queue = AfterCommitQueue(
            transport=self._volatile, run_listeners=self._run_after_commit, lost=self._lost, count=self._count
        )
        self._consumer = VolatileConsumer(
            service=self.name,
            types=self._types,
            listeners=self._heard,
            handle=self._handle,
            count=self._count,
        )
        self._durable = self._new_durable()

    async def _introduce(self, store: DurableStore) -> None:
        """Say in the database who we are, for those who look at it with `cauce status` and the like."""
        described = describe_service(
            self.name,
            listeners=self.listeners,
            known=self._known,
            publishes=self.publishes,
            transport=self.transport,
            start=self._start,
            keep=self._keep,
        )
        durable = [one.consumer for one in described.listeners if one.when in ("arrival", "durable")]
        await store.message_store().introduce(self.name, msgspec.json.encode(described).decode(), durable)

    async def _introduce_as_volatile(self, store: DurableStore) -> None:
        """It was durable once: whoever looks into its database must not believe that it still is."""
        try:
            await self._introduce(store)
        except Exception as error:
            log.warning("%s: its database still calls it durable (%s)", self.name, type(error).__name__)

    def _new_durable(self) -> DurableDelivery | None:
        """The loops of durable delivery, if the store is durable and there is anything durable to do."""
        transport = self._remembering
        listens = any(listener.registration.when == "durable" for listener in self.listeners)
        if self.durable_store is None or (transport is None and not listens):
            return None
        return DurableDelivery(
            service=self.name,
            message_store=self.durable_store.message_store(),
            transport=transport,
            subscription=self._subscription,
            starts={topic: self._start_of(topic) for topic in self._subscription.topics},
            adopted=sorted(self._subscribe(list(self._heard_by_users)).topics) if self._bridge is not None else (),
            types=self._every_type(),
            listeners={one: tuple(heard) for one, heard in self._heard.items()},
            by_name=self._by_name,
            applying=Applying(
                rules=self,
                call=self._call_durably,
                count=self._count,
                worker=_worker(),
                version=self.version,
                retention_s=self._keep.inbox_s,
            ),
            status=self.outage.part,
            count=self._count,
            handled=lambda emission, listener: self._tell("handled", emission, listener),
            member=f"{_worker()}:{uuid4().hex[:12]}",
            keep=self._keep,
            pace=self._pace,
            alarms=self._alarms,
        )

    async def _kept(self) -> Kept:
        """What waits in the outbox while the broker is away."""
        assert self.durable_store is not None  # noqa: S101  # only then asked
        backlog = await self.durable_store.message_store().backlog()
        return Kept(backlog.unsent, backlog.oldest_unsent_s)

    def _every_type(self) -> dict[str, type[Event]]:
        """Event classes by every name they are accepted under."""
        return {name: one for one in self._known for name in (describe(one).name, *describe(one).earlier_names)}

    def _start_of(self, topic: str) -> Literal["retained", "now"]:
        """A bridge that is switched on tells NestJS what happens from now on, not what happened yesterday."""
        if topic in self._subscribe(list(self._heard_by_users)).topics:
            return self._start or "retained"
        return "now"

    async def _hear_nestjs(self, bridge: NestBridge, message_store: MessageStore, status: Status) -> None:
        async def adopt(envelope: Envelope, known_to: Sequence[str]) -> bool:
            new = await message_store.adopt(envelope, known_to=known_to)
            if new and self._durable is not None:
                self._durable.committed(to_send=True, waiting=False)
            return new

        inward = Inward(
            service=self.name,
            types=self._every_type(),
            consumers={
                one: [consumer_name(self.name, listener) for listener in listeners]
                for one, listeners in self._heard_by_users.items()
            },
            adopt=adopt,
            is_infrastructure=self.is_infrastructure,
            count=self._count,
        )
        subscription = self._subscribe(list(self._heard_by_users))
        await bridge.inward(subscription, inward, status)

    async def _run(self) -> None:
        """Every loop of the service, until it is told to stop; a loop that crashes takes the service down, loudly."""
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [tasks.create_task(self._consumer.run()), tasks.create_task(self._queue.run())]
                hearing = [tasks.create_task(self.outage.run())]
                if self._durable is not None and self.durable_store is not None:
                    await self.durable_store.prepare()
                    await self._introduce(self.durable_store)
                    hearing.append(tasks.create_task(self._durable.fetch()))
                    loops.append(tasks.create_task(self._durable.work()))
                    if self._bridge is not None and self._nestjs is not None:
                        message_store = self.durable_store.message_store()
                        hearing.append(tasks.create_task(self._hear_nestjs(self._bridge, message_store, self._nestjs)))
                elif self.durable_store is not None and await self.durable_store.prepared():
                    await self._introduce_as_volatile(self.durable_store)
                self._prepared.set()
                if self._volatile is not None:
                    # Also when it only publishes: readiness names the broker.
                    hearing.append(tasks.create_task(self._hear(self._volatile)))
                await self._stop.wait()
                for loop in hearing:
                    loop.cancel()
                if self._durable is not None:
                    self._durable.end()
                try:
                    await self.idle(limit_s=self._drain_limit_s)
                except TimeoutError:
                    durable = self._durable.unfinished if self._durable is not None else 0
                    if volatile := self.unfinished - durable:
                        log.error("%s: %d events were still being handled; they are lost", self.name, volatile)
                    if durable:
                        log.warning("%s: %d events were still being handled; they come again", self.name, durable)
                for loop in loops:
                    loop.cancel()
            if self._durable is not None:
                await self._durable.leave()
        except BaseExceptionGroup as group:
            self._crash = _first_of(group)
            self.outage.stopped()
            if not isinstance(self._crash, ConfigurationError):  # that one goes to whoever starts the service
                log.critical("%s: crashed: %r", self.name, self._crash, exc_info=self._crash)
        finally:
            self._queue.close()

    async def _first_report(self) -> None:
        await self._prepared.wait()
        await self.outage.first_report(limit_s=_FIRST_ANSWER_S if self.transport else 0.0)

    async def _hear(self, transport: Transport) -> None:
        await transport.run(self._subscription, self._consumer.deliver, self.outage)
        raise CauceError(f"the transport {transport.name!r} stopped by itself, without an error")

    async def _close(self) -> None:
        try:
            if self._bridge is not None:
                await self._bridge.close()
            if self.transport is not None:
                await self.transport.close()
        finally:
            await self.store.close()

    @asynccontextmanager
    async def _transaction(self, *, read_only: bool) -> AsyncGenerator[Transaction]:
        levels: Savepoints[Pending] = Savepoints()
        outgoing = self._outgoing if self._durable is not None else None
        work = self.store.begin(levels, read_only=read_only, outgoing=outgoing)
        tx = Transaction(self, work, levels, read_only=read_only)
        try:
            yield tx
        except BaseException:
            await to_the_end(self._roll_back(tx))
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
        if not known:
            return
        if self._durable is None:
            self._queue.accept(pending)
            return
        self._queue.accept([item for item in pending if isinstance(item, AfterCommit)])
        self._durable.committed(
            to_send=any(isinstance(item, Envelope) for item in pending),
            waiting=any(isinstance(item, AfterCommit) and item.durable for item in pending),
        )

    def _outgoing(self, pending: Sequence[Pending]) -> Sequence[Outgoing]:
        """What a transaction has to write down about its events."""
        rows: list[Outgoing] = []
        for item in pending:
            if isinstance(item, Envelope):
                if self._remembering is not None:
                    rows.append(Outgoing(envelope=item))
            else:
                rows += [
                    Outgoing(envelope=item.emission.envelope, consumer=consumer_name(self.name, listener))
                    for listener in item.durable
                ]
        return rows

    # What applying asks its service (applying.Rules)

    def inbox(self, tx: Transaction) -> Inbox:
        if self.durable_store is None:
            raise CauceError(f"{self.name} has no message_store")
        return self.durable_store.inbox(tx.work)

    def is_infrastructure(self, error: BaseException) -> bool:
        if isinstance(error, (CommitUnknownError, TransportUnavailableError)):
            return True
        return self.durable_store is not None and self.durable_store.is_infrastructure(error)

    async def _call_durably(
        self,
        listener: Listener,
        emission: Emission,
        tx: Transaction | None,
        attempt: int,
        replayed: bool,
        channel: str,
    ) -> None:
        circumstances: dict[str, Any] = {"attempt": attempt, "replayed": replayed, "channel": channel}
        token = current_emission.set(emission)
        try:
            async with asyncio.timeout(listener.registration.limit_s):
                await call_listener(listener, emission, self.dependencies, tx, **circumstances)
        except (asyncio.CancelledError, SystemExit) as gone:
            # Neither may end the worker that called it, unless it is the worker that is being ended.
            if isinstance(gone, asyncio.CancelledError) and being_cancelled():
                raise
            did = (
                "awaited something that was cancelled" if isinstance(gone, asyncio.CancelledError) else f"said {gone!r}"
            )
            error = CauceError(f"{listener.name} {did}")
            self._tell("failed", emission, listener.name, error)
            raise error from gone
        except Exception as error:
            self._tell("failed", emission, listener.name, error)
            raise
        finally:
            current_emission.reset(token)

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
            for listener in (*plan.in_transaction, *plan.after_commit, *plan.durable):
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

    def _count(self, what: str, times: int = 1) -> None:
        self.counters[what] += times


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


def _first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    first: Any = group
    while isinstance(first, BaseExceptionGroup):
        first = cast("tuple[BaseException, ...]", first.exceptions)[0]
    return first


def _worker() -> str:
    """This process, for people: host and pid."""
    return f"{socket.gethostname()}:{os.getpid()}"
