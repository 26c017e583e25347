"""The composition: modules, a store and a transport as one running service.

service = Service("mailing-ms", modules=[welcome], store=SqlAlchemyStore(engine), transport=RedisPubSub(url))
async with service: ...                       # alone
app = FastAPI(lifespan=service.lifespan)      # or beside a web application
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self, overload

from cauce.concurrency.cancellation import to_the_end
from cauce.delivery.durable import Policy
from cauce.delivery.lookout import DatabaseSeen
from cauce.delivery.nestjs_bridge import NestBridge
from cauce.delivery.outbox.alarms import Alarms
from cauce.delivery.pace import Pace
from cauce.delivery.retention import Keep
from cauce.errors import CauceError, PublishError
from cauce.events.envelope import Clock, NewId, new_id, utc_now
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe
from cauce.listeners.dependencies import Dependencies
from cauce.listeners.listener import Listener
from cauce.ports.store import Store
from cauce.ports.transport import DurableTransport, Transport
from cauce.publishing.bus import DomainEventBus, IntegrationEventBus
from cauce.publishing.dispatcher import Dispatcher
from cauce.publishing.rules import PublishingRules
from cauce.publishing.transaction import Outlet, Transaction
from cauce.publishing.units_of_work import UnitsOfWork
from cauce.service.outlet import NotRunning, outbox_rows
from cauce.service.run import Run, RunOptions
from cauce.service.wiring import Start, Wiring
from cauce.stores.memory.store import MemoryStore
from cauce.telemetry.happenings import Happenings, Observer

__all__ = ["LIFESPAN_STATE", "Service"]

LIFESPAN_STATE = "cauce_service"
"""The key of a service in the state of its lifespan; with its name behind it, it stays beside that of another one."""

log = logging.getLogger("cauce.service")

_LEFT_AFTER_S = 5.0
"""How long a part that was cancelled, or told to close, may take to end."""


class Service:
    """A running part of a system, with its own state, that tells others what happened.

    `version`: of its code; it stands in its events and dead letters, for whoever looks for the cause. `modules`: modules,
    decorated functions, or objects with decorated methods. `publishes`: the integration events it
    may publish. `retired`: names of listeners that are gone on purpose, so that a new one may listen to their events
    without taking over their past. `provide`: what listeners need, by type, made per transaction, `lambda tx: …`, or
    without one, `lambda: …`; `resolver` asks a container for the rest. `bridge`: NestJS services that take part beside a
    durable transport. `clock` and `new_id` are for tests.

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
        start: Start | None = None,
        keep: Keep | None = None,
        pace: Pace | None = None,
        alarms: Alarms | None = None,
        publishes: Sequence[type[IntegrationEvent]] = (),
        retired: Sequence[str] = (),
        provide: Mapping[type[Any], Callable[[Transaction], object] | Callable[[], object]] | None = None,
        resolver: Callable[[type[Any], Transaction], object | Awaitable[object]] | None = None,
        clock: Clock = utc_now,
        new_id: NewId = new_id,
        drain_limit_s: float = 15.0,
    ) -> None:
        self.name = name
        self.version = version
        self.store: Store = store if store is not None else MemoryStore()
        self.transport = transport
        self._bridge = bridge
        dependencies: Dependencies[Transaction] = Dependencies(
            provide or {},
            resolver,
            transaction_types=(Transaction, DomainEventBus, IntegrationEventBus),
            session_type=self.store.session_type,
        )
        self._wiring = Wiring(
            name,
            modules=modules,
            given=store,
            store=self.store,
            transport=transport,
            bridge=bridge,
            start=start,
            publishes=publishes,
            retired=retired,
            dependencies=dependencies,
        )
        self._options = RunOptions(
            version=version,
            policy=Policy(keep=keep or Keep(), pace=pace or Pace(), alarms=alarms or Alarms()),
            drain_limit_s=drain_limit_s,
        )
        self._happenings = Happenings(name)
        self._rules = PublishingRules(
            name,
            version=version,
            listeners=self._wiring.listeners,
            known=self._wiring.known,
            publishes=self._wiring.publishes,
            clock=clock,
            new_id=new_id,
            wires=self._wiring.wires,
        )
        self._units_of_work = UnitsOfWork(
            self.store,
            self._rules,
            dependencies,
            self._happenings,
            outgoing=outbox_rows(self._wiring),
            outlet=self._current_outlet,
        )
        self._dispatcher = Dispatcher(self._units_of_work)
        self._not_running = NotRunning(name)
        self._run: Run | None = None
        """The run that is on, or the last one."""
        self._entered = False
        self._end_by: float | None = None

    # Running

    async def __aenter__(self) -> Self:
        """Start. Returns once the tables are there and the broker has acknowledged every subscription, or has been
        found unavailable.

        May be started again after it has stopped, also in another event loop. Raises what made it crash at once.
        """
        if self._entered:
            raise CauceError(f"the service {self.name} is running already")
        run = Run(self._wiring, self._units_of_work, self._dispatcher, self._happenings, self._options)
        self._run, self._entered = run, True
        try:
            await run.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        if run.crash is not None:
            await self.__aexit__(None, None, None)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Drain: stop hearing, finish what runs, send what is committed (for `drain_limit_s` at most), give the
        connections back. What does not end when it is cancelled is left behind five seconds later, and logged."""
        loop = asyncio.get_running_loop()
        end_by, self._end_by = self._end_by or loop.time() + self._options.drain_limit_s + 2 * _LEFT_AFTER_S, None
        rest_s = min(_LEFT_AFTER_S, max(0.0, end_by - loop.time()) / 4)
        try:
            if self._run is not None:
                self._run.stop(drain_limit_s=max(0.0, end_by - 2 * rest_s - loop.time()))
                await to_the_end(self._run.left(limit_s=rest_s))
            await to_the_end(self._close(limit_s=rest_s))
        finally:
            self._entered = False
        if self._run is not None and self._run.crash is not None:
            raise self._run.crash

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[dict[str, Any]]:
        """The service as the lifespan of an ASGI application: `FastAPI(lifespan=service.lifespan)`.

        A lifespan of your own hands on the state that this one yields; the states of several services can be merged.
        """
        async with self:
            yield {LIFESPAN_STATE: self, f"{LIFESPAN_STATE} {self.name}": self}

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Everything that hears something here, as registered."""
        return self._wiring.listeners

    @property
    def publishes(self) -> tuple[type[IntegrationEvent], ...]:
        """The integration events it may publish."""
        return self._wiring.publishes

    @property
    def hears(self) -> frozenset[str]:
        """The canonical names and the patterns of the integration events it listens to."""
        names = {describe(one).name for one in self._wiring.listeners_by_event}
        return frozenset({*names, *self._wiring.subscription.patterns})

    @property
    def accepts(self) -> frozenset[str]:
        """Every name, earlier ones too, under which an integration event reaches a listener here."""
        return frozenset(self._wiring.accepted)

    @property
    def counters(self) -> Counter[str]:
        """What it has done with events since it was made."""
        return self._happenings.counters

    async def stopped(self) -> None:
        """Wait until the service has stopped, by being told to or by a crash."""
        if self._entered and self._run is not None:
            await self._run.ended()

    @property
    def running(self) -> bool:
        run = self._run
        return self._entered and run is not None and not run.stopping and run.crash is None

    @property
    def crash(self) -> BaseException | None:
        """What made it stop by itself, since its last start."""
        return self._run.crash if self._run is not None else None

    def readiness(self) -> dict[str, str]:
        """What is not ready, and why; empty when the service can do its whole work."""
        run = self._run
        if run is None:
            return {self.name: "not started"}
        if run.crash is not None:
            return {self.name: f"crashed: {type(run.crash).__name__}"}
        if not self.running:
            return {self.name: "stopping"}
        return run.not_ready()

    def database_seen(self) -> DatabaseSeen | None:
        """Whether the database answered a moment ago, as a service with durable delivery knows without being asked. None
        if it does not: ask the store."""
        return self._run.database_seen() if self._run is not None and self.running else None

    async def check(self) -> dict[str, str]:
        """Readiness, and the database asked (within two seconds)."""
        found = self.readiness()
        if problem := await self.store.problem():
            found["database"] = problem
        return found

    async def idle(self, *, limit_s: float = 5.0) -> None:
        """Wait until nothing accepted is unfinished: for tests and for the drain. TimeoutError after `limit_s`."""
        if self._run is not None:
            await self._run.idle(limit_s=limit_s)

    @property
    def unfinished(self) -> int:
        return self._run.unfinished if self._run is not None else 0

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Be told what happens in this service, until the returned function is called. Must not block or raise."""
        return self._happenings.observe(observer)

    def end_within(self, limit_s: float) -> None:
        """Bound the end that comes next, of all its parts together, whatever `drain_limit_s` says: for hosts that are
        given so much time themselves. Call it in the event loop of the service."""
        self._end_by = asyncio.get_running_loop().time() + limit_s

    async def _close(self, *, limit_s: float) -> None:
        """Close all connections at once; what hangs is left behind. Raises the first error."""
        parts: list[NestBridge | Transport | DurableTransport | Store] = [self.store]
        parts += [one for one in (self.transport, self._bridge) if one is not None]
        closing = {asyncio.get_running_loop().create_task(one.close()): one for one in parts}
        _, hanging = await asyncio.wait(closing, timeout=limit_s)
        for task in hanging:
            task.cancel()
            log.error(
                "%s: %s did not close within %.3g s; it is left behind", self.name, _name_of(closing[task]), limit_s
            )
        for task in closing:
            if task not in hanging:
                task.result()

    def _current_outlet(self) -> Outlet:
        return self._run.outlet if self._run is not None else self._not_running

    # Publishing

    def transaction(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """One unit of work: commits when the block ends, rolls back when an exception leaves it.

        Raises CommitUnknownError if the connection broke while committing; then no after-commit listener has run.
        """
        return self._units_of_work.transaction(read_only=read_only)

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
            await self._dispatcher.publish_outside(event)
        elif isinstance(event, IntegrationEvent):
            if not outside:
                raise PublishError(
                    f"publish({type(event).__name__}) ran outside a transaction, so it could be sent for a change that "
                    "rolls back. Wrap it: async with service.transaction() as tx: await tx.publish(…), or say outside=True"
                )
            async with self.transaction() as tx:
                await tx.publish(event)
        else:
            raise self._rules.not_an_event(event)


def _name_of(part: object) -> str:
    return str(getattr(part, "name", None) or type(part).__name__)
