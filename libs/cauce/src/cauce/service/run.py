"""One run of a service, from its start until it is drained: the loops, and what they share in one event loop."""

import asyncio
import logging
import os
import socket
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast
from uuid import uuid4

from msgspec import Struct

from cauce.concurrency.still_running import still_running
from cauce.delivery.durable import DurableDelivery, Policy, Process, Reports
from cauce.delivery.inbox.listening import Listening
from cauce.delivery.lookout import DatabaseSeen
from cauce.delivery.nestjs_bridge import Inward, NestBridge
from cauce.delivery.volatile.consumer import VolatileConsumer
from cauce.delivery.volatile.queue import AfterCommitQueue
from cauce.errors import CauceError, ConfigurationError
from cauce.events.envelope import Envelope
from cauce.listeners.threads import too_few_threads
from cauce.ports.lanes import Lane, lane_of
from cauce.ports.store import DurableStore
from cauce.ports.transport import Status, Transport
from cauce.publishing.dispatcher import Dispatcher
from cauce.publishing.units_of_work import UnitsOfWork
from cauce.service.description import introduce, introduce_as_volatile
from cauce.service.outlet import RunOutlet
from cauce.service.wiring import Wiring
from cauce.telemetry.connectivity import BrokerStatus
from cauce.telemetry.happenings import Happenings
from cauce.telemetry.outage_log import Kept

__all__ = ["Run", "RunOptions"]

log = logging.getLogger("cauce.service")

_FIRST_ANSWER_S = 2.0
"""How long a start waits for the broker's first answer; a broker that is down does not stop a service."""


class RunOptions(Struct, frozen=True, kw_only=True):
    """How a service runs: arguments of Service that concern no listener."""

    version: str | None
    policy: Policy
    drain_limit_s: float


class Run:
    """One run. Queues belong to one event loop, and leftovers of a run are no part of the next."""

    def __init__(
        self,
        wiring: Wiring,
        units_of_work: UnitsOfWork,
        dispatcher: Dispatcher,
        happenings: Happenings,
        options: RunOptions,
    ) -> None:
        self._wiring = wiring
        self._units_of_work = units_of_work
        self._dispatcher = dispatcher
        self._happenings = happenings
        self._options = options
        self._name = wiring.service
        self._drain_limit_s = options.drain_limit_s
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._prepared = asyncio.Event()
        self.crash: BaseException | None = None
        durable = wiring.durable_store is not None and wiring.durable_transport is not None
        self.broker = BrokerStatus(
            self._name, log, kept=self._kept if durable else None, sent=lambda: happenings.counters["sent"]
        )
        hears_nestjs = wiring.bridge is not None and wiring.users_listeners_by_event
        self._nestjs = self.broker.part("NestJS's events") if hears_nestjs else None
        self._queue = AfterCommitQueue(
            transport=wiring.volatile_transport,
            run_listeners=dispatcher.call_after_commit,
            lost=self._lost,
            count=happenings.count,
        )
        self._consumer = VolatileConsumer(
            service=self._name,
            types=wiring.accepted,
            listeners=wiring.listeners_by_event,
            handle=dispatcher.call_once,
            count=happenings.count,
        )
        self._durable = self._durable_delivery()
        self.outlet = RunOutlet(self._name, queue=self._queue, durable=self._durable)

    # Lifecycle

    async def start(self) -> None:
        """Return once the tables are there and the broker has answered, or has been found unavailable, or it crashed."""
        self._queue.open()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name=f"cauce {self._name}")
        reported = loop.create_task(self._first_report())
        try:
            await asyncio.wait({self._task, reported}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reported.cancel()

    def stop(self, *, drain_limit_s: float | None = None) -> None:
        """Begin to stop: hear nothing new, finish what runs, for the drain's own limit or a shorter one."""
        if drain_limit_s is not None:
            self._drain_limit_s = min(self._drain_limit_s, drain_limit_s)
        self._stop.set()

    async def left(self, *, limit_s: float) -> None:
        """Wait until every loop has ended. What has not after the drain and `limit_s` is left behind, and logged."""
        if self._task is None or self._task.done():
            return
        await asyncio.wait({self._task}, timeout=self._drain_limit_s + limit_s)
        if not self._task.done():
            where = still_running(asyncio.get_running_loop())
            log.error("%s: cancelled and still running after %.3g s: %s; it is left behind", self._name, limit_s, where)
            self._queue.close()

    async def ended(self) -> None:
        """Wait until every loop has ended, by being told to or by a crash."""
        if self._task is not None and not self._task.done():  # its event loop may be gone by now
            await asyncio.wait({self._task})

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def unfinished(self) -> int:
        """Events accepted and not handled yet."""
        return self._queue.unfinished + self._consumer.unfinished + self._unfinished_durable

    @property
    def _unfinished_durable(self) -> int:
        return self._durable.unfinished if self._durable is not None else 0

    async def idle(self, *, limit_s: float) -> None:
        """Wait until nothing accepted is unfinished. TimeoutError after `limit_s`."""
        async with asyncio.timeout(limit_s):
            while self.unfinished:  # noqa: ASYNC110  # three queues; only the drain and tests wait for all of them
                await asyncio.sleep(0.001)

    def not_ready(self) -> dict[str, str]:
        """What keeps a running service from doing its whole work, and why."""
        transport = self._wiring.transport
        if transport is not None and self.broker.reason is not None:
            return {transport.name: self.broker.reason}
        if self._durable is not None and (problem := self._durable.ownership.problem()):
            return {"lanes": problem}
        if (problem := too_few_threads()) is not None:
            return {"threads": f"{problem} → restart the process"}
        if self._durable is not None and (problem := self._durable.problem()):
            return {"events": problem}
        return {}

    def database_seen(self) -> DatabaseSeen | None:
        """Whether the database answered when durable delivery asked it last; None while it does not ask."""
        return self._durable.lookout.seen if self._durable is not None else None

    def lanes(self) -> Collection[Lane]:
        """The lanes this process owns now."""
        return self._durable.ownership.epochs().keys() if self._durable is not None else ()

    def _lost(self, envelopes: Iterable[Envelope]) -> None:
        for envelope in envelopes:
            self._happenings.count("lost")
            self.broker.lost(envelope.id)
            self._happenings.tell("lost", envelope)

    # The loops

    async def _run(self) -> None:
        """Run every loop until told to stop; a loop that crashes takes the service down, loudly."""
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(self._consumer.run()), tasks.create_task(self._queue.run())]
                sending: list[asyncio.Task[None]] = []
                hearing = [tasks.create_task(self.broker.run())]
                if self._durable is not None and self._wiring.durable_store is not None:
                    await self._wiring.durable_store.prepare()
                    await introduce(self._wiring, self._options.policy.keep, self._wiring.durable_store)
                    await self._durable.report_left_behind()
                    hearing.append(tasks.create_task(self._durable.fetch()))
                    sending.append(tasks.create_task(self._durable.send()))
                    working.append(tasks.create_task(self._durable.work()))
                    if self._wiring.bridge is not None and self._nestjs is not None:
                        nestjs = self._hear_nestjs(
                            self._wiring.bridge, self._durable, self._wiring.durable_store, self._nestjs
                        )
                        hearing.append(tasks.create_task(nestjs))
                elif self._wiring.durable_store is not None and await self._wiring.durable_store.prepared():
                    await introduce_as_volatile(self._wiring, self._options.policy.keep, self._wiring.durable_store)
                self._prepared.set()
                if self._wiring.volatile_transport is not None:
                    # Also when it only publishes: readiness names the broker.
                    hearing.append(tasks.create_task(self._hear(self._wiring.volatile_transport)))
                await self._stop.wait()
                await self._drain(hearing, [*sending, *working])
            if self._durable is not None:
                await self._durable.leave()
        except BaseExceptionGroup as group:
            self.crash = _first_of(group)
            self.broker.stopped()
            if self._durable is not None and self._prepared.is_set() and _is_refusal(self.crash):
                await self._durable.leave()  # its database must not go on calling it running
            if not _is_refusal(self.crash):  # that one goes to whoever starts the service
                log.critical("%s: crashed: %r", self._name, self.crash, exc_info=self.crash)
        finally:
            self._queue.close()

    async def _drain(self, hearing: Iterable[asyncio.Task[None]], working: Iterable[asyncio.Task[None]]) -> None:
        for loop in hearing:
            loop.cancel()
        if self._durable is not None:
            self._durable.end()
        end_by = asyncio.get_running_loop().time() + self._drain_limit_s
        try:
            await self.idle(limit_s=self._drain_limit_s)
        except TimeoutError:
            durable = self._unfinished_durable
            if volatile := self.unfinished - durable:
                log.error("%s: %d events were still being handled; they are lost", self._name, volatile)
            if durable:
                log.warning("%s: %d events were still being handled; they come again", self._name, durable)
        if self._durable is not None:
            await self._durable.flush(limit_s=max(0.0, end_by - asyncio.get_running_loop().time()))
        for loop in working:
            loop.cancel()

    async def _first_report(self) -> None:
        await self._prepared.wait()
        await self.broker.first_report(limit_s=_FIRST_ANSWER_S if self._wiring.transport else 0.0)

    async def _hear(self, transport: Transport) -> None:
        await transport.run(self._wiring.subscription, self._consumer.deliver, self.broker)
        raise CauceError(f"the transport {transport.name!r} stopped by itself, without an error")

    async def _hear_nestjs(
        self, bridge: NestBridge, durable: DurableDelivery, store: DurableStore, status: Status
    ) -> None:
        message_store = store.message_store()

        async def adopt(envelope: Envelope, known_to: Sequence[str]) -> bool:
            new = await message_store.adopt(envelope, known_to=known_to)
            if new:
                durable.committed(to_send=[lane_of(envelope)])
            return new

        inward = Inward(
            service=self._name,
            types=self._wiring.types,
            consumers={
                one: self._wiring.identities.consumers(listeners)
                for one, listeners in self._wiring.users_listeners_by_event.items()
            },
            adopt=adopt,
            is_infrastructure=durable.transactions.is_infrastructure,
            count=self._happenings.count,
        )
        await bridge.inward(self._wiring.users_subscription, inward, status)

    # Durable delivery

    def _durable_delivery(self) -> DurableDelivery | None:
        """The loops of durable delivery, if there are any."""
        wiring, options = self._wiring, self._options
        if wiring.durable_store is None or not wiring.is_durable:
            return None
        listening = Listening(
            service=self._name,
            subscription=wiring.subscription,
            starts={topic: wiring.start_of(topic) for topic in wiring.subscription.topics},
            sends_to=wiring.sends_to,
            types=wiring.types,
            listeners={**wiring.listeners_by_event},
            identities=wiring.identities,
        )
        return DurableDelivery(
            listening,
            store=wiring.durable_store,
            transport=wiring.durable_transport,
            units_of_work=self._units_of_work,
            call=self._dispatcher.call_in,
            process=Process(worker=_worker(), version=options.version, member=f"{_worker()}:{uuid4().hex[:12]}"),
            reports=Reports(
                status=self.broker.part,
                count=self._happenings.count,
                handled=lambda emission, listener: self._happenings.tell("handled", emission, listener),
            ),
            policy=options.policy,
        )

    async def _kept(self) -> Kept:
        """What waits in the outbox while the broker is away."""
        assert self._wiring.durable_store is not None  # noqa: S101  # only then asked
        backlog = await self._wiring.durable_store.message_store().backlog()
        return Kept(backlog.unsent, backlog.oldest_unsent_s)


def _first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    first: Any = group
    while isinstance(first, BaseExceptionGroup):
        first = cast("tuple[BaseException, ...]", first.exceptions)[0]
    return first


def _is_refusal(crash: BaseException) -> bool:
    return isinstance(crash, ConfigurationError)


def _worker() -> str:
    """This process, for people: host and pid."""
    return f"{socket.gethostname()}:{os.getpid()}"
