"""The loops of durable delivery in one process: lanes, relay, consumer, waiting room, pruning, alarms.

Composed by a Service with a durable store and a durable transport. Every loop asks Ownership which lanes are its own:
the processes of a service share the lanes, and never handle the same key at the same time.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from msgspec import Struct

from cauce.concurrency.backoff import Backoff
from cauce.delivery.inbox.attempts import Attempts
from cauce.delivery.inbox.consumer import DurableConsumer
from cauce.delivery.inbox.failures import Failures
from cauce.delivery.inbox.listening import Listening
from cauce.delivery.inbox.ordering import Ordering
from cauce.delivery.inbox.outside_effects import OutsideEffects
from cauce.delivery.inbox.refusals import Refusals
from cauce.delivery.inbox.transactions import CallListener, InboxTransactions
from cauce.delivery.inbox.troubles import Troubles
from cauce.delivery.inbox.waiting_room import WaitingRoom
from cauce.delivery.inbox.workers import Workers
from cauce.delivery.lanes.ownership import Ownership
from cauce.delivery.left_behind import report_left_behind
from cauce.delivery.lookout import Lookout
from cauce.delivery.outbox.alarms import Alarms, Watch
from cauce.delivery.outbox.relay import Relay
from cauce.delivery.outbox.tail import TailCheck
from cauce.delivery.pace import Pace
from cauce.delivery.registration import Registration
from cauce.delivery.retention import Keep, Pruning
from cauce.delivery.wakeups import WakeUps
from cauce.errors import ConfigurationError, TransportUnavailableError
from cauce.events.envelope import Emission
from cauce.ports.hints import Hint, SupportsHints
from cauce.ports.lanes import Lane, MemberId
from cauce.ports.store import DurableStore
from cauce.ports.transport import DurableTransport, RegistersDatabases, Status, SupportsHealth
from cauce.publishing.units_of_work import UnitsOfWork
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["DurableDelivery", "Policy", "Process", "Reports"]

log = logging.getLogger("cauce.durable")

_EXAMINE_AGAIN_S = 1.0
_FLUSHED_LOOK_S = 0.02


class Process(Struct, frozen=True, kw_only=True):
    """Who does the work. `worker` and `version` name the process and its code in dead letters, `member` its lease."""

    worker: str
    version: str | None
    member: str


class Reports(Struct, frozen=True, kw_only=True):
    """Where the loops report.

    `status` gives each loop that uses the broker a status of its own: the service is ready when all of them are up.
    `handled` gets an event and the name of the listener, once that is committed.
    """

    status: Callable[[str], Status]
    count: Callable[[str, int], None]
    handled: Callable[[Emission, str], None]


class Policy(Struct, frozen=True, kw_only=True):
    """How long rows are kept, how fast the loops turn, and when an operator is alarmed."""

    keep: Keep
    pace: Pace
    alarms: Alarms


class DurableDelivery:
    """One process's part in a service's durable delivery: run `fetch`, `send` and `work` until cancelled, then `leave`.

    To stop: cancel `fetch`, `end`, let what runs finish, `flush`, cancel the others.
    """

    def __init__(
        self,
        listening: Listening,
        *,
        store: DurableStore,
        transport: DurableTransport | None,
        units_of_work: UnitsOfWork,
        call: CallListener,
        process: Process,
        reports: Reports,
        policy: Policy,
    ) -> None:
        """`units_of_work` are those of `store`. Without a `transport`, only domain events are delivered."""
        self._name = listening.service
        self._transport = transport
        self._message_store = store.message_store()
        self._reports = reports
        self._policy = policy
        self._trouble = DatabaseStatus(listening.service, log)
        self._troubles = Troubles(listening.service)
        subscribed = transport is not None and listening.subscription
        self._subscription = reports.status("subscription") if subscribed else None
        self._local = reports.status("database") if transport is None else None
        self.transactions = InboxTransactions(listening.identities, units_of_work, store)
        self.ownership = self._new_ownership(MemberId(process.member))
        failures = Failures(transactions=self.transactions, worker=process.worker, version=process.version)
        self._registration = self._new_registration(listening, store)
        self._workers = self._new_workers(failures, call)
        self._consumer = self._new_consumer(listening)
        self._waiting_room = self._new_waiting_room(listening)
        self._listening = listening
        self._examined = asyncio.Event()
        topics = listening.sends_to
        self._pruning = self._new_pruning(topics)
        self.watch = self._new_watch()
        self._wake_ups = WakeUps(
            self.ownership, hints=store.hints() if isinstance(store, SupportsHints) else None, woken=self._woken
        )
        self.lookout = Lookout(
            message_store=self._message_store,
            ownership=self.ownership,
            trouble=self._trouble,
            to_send=lambda: self._woken(Hint.TO_SEND),
            due=lambda: self._woken(Hint.WAITING),
        )
        self._relay = None
        if transport is not None:
            self._sending = self._watched(reports.status("relay"), first=self._subscription is None)
            self._relay = self._new_relay(topics, transport, self._sending)

    @property
    def unfinished(self) -> int:
        return self._workers.unfinished

    def problem(self) -> str | None:
        """Why some events of our lanes do not move, in one line; None while all do."""
        return self._troubles.problem(self.ownership.epochs())

    def committed(self, *, to_send: Collection[Lane] = (), waiting: Collection[Lane] = ()) -> None:
        """A transaction of this process wrote something for the broker, or for a durable listener, in these lanes."""
        if to_send and self._relay is not None:
            self._wake_ups.tell(Hint.TO_SEND, to_send)
        if waiting:
            self._wake_ups.tell(Hint.WAITING, waiting)

    def _woken(self, hint: Hint) -> None:
        if Hint.TO_SEND in hint and self._relay is not None:
            self._relay.wake()
        if Hint.WAITING in hint:
            self._waiting_room.wake()

    async def report_left_behind(self) -> None:
        """Log what waits in this database and will not be handled or sent by this code."""
        await report_left_behind(self._listening, self._message_store)

    async def fetch(self) -> None:
        """Find work for our lanes, until cancelled: read the broker, look into the waiting room, prune."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._waiting_room.run())
            tasks.create_task(self._pruning.run())
            tasks.create_task(self.watch.run())
            if self._transport is not None and self._subscription is not None:
                await self._examined.wait()
                tasks.create_task(self._consumer.run(self._transport, self._watched(self._subscription)))

    async def send(self) -> None:
        """Own lanes, and send what is committed, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.ownership.run())
            tasks.create_task(self._wake_ups.run())
            tasks.create_task(self.lookout.run())
            if self._transport is None or self._relay is None:
                if self._local is not None:
                    self._local.up()
                return
            if isinstance(self._transport, SupportsHealth):
                await self._examine(self._transport, self._sending)
            if self._registration is not None:
                await self._registration.begin()
                tasks.create_task(self._registration.keep())
            self._examined.set()
            tasks.create_task(self._relay.run())

    async def flush(self, *, limit_s: float) -> None:
        """Send the events that are committed by now, while the broker takes them and for `limit_s` at most; log how
        many are left. They stay in the outbox."""
        if self._relay is None:
            return
        try:
            async with asyncio.timeout(2 * limit_s):  # the database is given time to say how many are left
                with suppress(TimeoutError):
                    async with asyncio.timeout(limit_s):
                        await self._sent_until_now(self._relay)
                left = (await self._message_store.backlog()).unsent
        except Exception as error:  # they are as safe as before
            log.warning("%s: what is left to be sent could not be counted: %s", self._name, type(error).__name__)
            return
        if left:
            log.warning(
                "%s: %d events are not sent yet; they wait in its outbox until a process of %s runs and reaches the "
                "broker → cauce outbox status", self._name, left, self._name,
            )  # fmt: skip

    async def _sent_until_now(self, relay: Relay) -> None:
        """Return when what was unsent at the time of the call is sent, or cannot be: broker away, lanes of others."""
        unsent, sent = (await self._message_store.backlog()).unsent, relay.sent
        relay.wake()
        while not relay.broker_is_down and relay.sent - sent < unsent:
            lanes = [*self.ownership.lanes()]
            if self.ownership.has_begun and not await self._message_store.pending(lanes, limit=1):
                return
            await asyncio.sleep(_FLUSHED_LOOK_S)

    async def work(self) -> None:
        """Handle what was fetched, until cancelled."""
        await self._workers.run()

    def end(self) -> None:
        """Start nothing new; the next owner of the lanes finds what has not started."""
        self._workers.end()

    async def leave(self) -> None:
        """Give the lanes back, so that others take them at once."""
        try:
            await self.ownership.leave()
        except Exception as error:  # they will be taken when the lease ends
            log.warning("the lanes could not be given back: %s", type(error).__name__)

    def _busy(self, lanes: Collection[Lane]) -> bool:
        # A read under way may still be given an entry: another owner of the lane would handle the next one first.
        return any(self._workers.busy(lane) or self._consumer.reads(lane) for lane in lanes)

    def _may_read(self) -> bool:
        return self._registration is None or self._registration.stands

    def _watched(self, status: Status, *, first: bool = True) -> Status:
        """The status of the loop that is the first to notice an outage of the broker: the one that reads, if any."""
        return status if self._registration is None or not first else self._registration.watched(status)

    def _new_registration(self, listening: Listening, store: DurableStore) -> Registration | None:
        """None where nothing can be mixed up: what is in memory ends with its process, and begins empty."""
        if not store.durable or not isinstance(self._transport, RegistersDatabases):
            return None
        return Registration(
            listening.service,
            {*listening.subscription.topics, *listening.sends_to},
            broker=self._transport,
            message_store=self._message_store,
            status=self._reports.status("registration"),
            trouble=self._trouble,
            confirm_every_s=self._policy.pace.verify_every_s,
        )

    def _new_ownership(self, me: MemberId) -> Ownership:
        pace = self._policy.pace
        return Ownership(
            self._message_store,
            me,
            busy=self._busy,
            trouble=self._trouble,
            lease_s=pace.lease_s,
            beat_every_s=pace.beat_every_s,
        )

    def _new_workers(self, failures: Failures, call: CallListener) -> Workers:
        retention_s = self._policy.keep.inbox_s
        ordering = Ordering(failures=failures, retention_s=retention_s, count=self._reports.count)
        transactions = self.transactions
        return Workers(
            ownership=self.ownership,
            attempts=Attempts(transactions=transactions, ordering=ordering, failures=failures, call=call),
            effects=OutsideEffects(transactions=transactions, ordering=ordering, failures=failures, call=call),
            refusals=Refusals(transactions=transactions, ordering=ordering, failures=failures, newer_s=retention_s),
            failures=failures,
            transactions=transactions,
            trouble=self._trouble,
            troubles=self._troubles,
            count=self._reports.count,
            handled=self._reports.handled,
        )

    def _new_consumer(self, listening: Listening) -> DurableConsumer:
        return DurableConsumer(
            listening,
            message_store=self._message_store,
            ownership=self.ownership,
            workers=self._workers,
            trouble=self._trouble,
            count=self._reports.count,
            may_read=self._may_read,
        )

    def _new_waiting_room(self, listening: Listening) -> WaitingRoom:
        return WaitingRoom(
            listening,
            message_store=self._message_store,
            ownership=self.ownership,
            workers=self._workers,
            trouble=self._trouble,
        )

    def _new_pruning(self, topics: Sequence[str]) -> Pruning:
        return Pruning(
            topics=topics,
            message_store=self._message_store,
            transport=self._transport,
            ownership=self.ownership,
            keep=self._policy.keep,
            trouble=self._trouble,
            count=self._reports.count,
            every_s=self._policy.pace.prune_every_s,
        )

    def _new_watch(self) -> Watch:
        return Watch(
            self._policy.alarms,
            message_store=self._message_store,
            ownership=self.ownership,
            count=self._reports.count,
            every_s=self._policy.pace.watch_every_s,
        )

    def _new_relay(self, topics: Sequence[str], transport: DurableTransport, status: Status) -> Relay:
        tail = TailCheck(
            topics,
            outbox=self._message_store,
            transport=transport,
            count=self._reports.count,
            verify_every_s=self._policy.pace.verify_every_s,
        )
        return Relay(
            tail,
            message_store=self._message_store,
            transport=transport,
            ownership=self.ownership,
            status=status,
            trouble=self._trouble,
            count=self._reports.count,
        )

    async def _examine(self, broker: SupportsHealth, status: Status) -> None:
        """Log what the broker may lose, once. Raises ConfigurationError if it discards what it has confirmed."""
        backoff = Backoff(_EXAMINE_AGAIN_S, _EXAMINE_AGAIN_S)
        while True:
            try:
                verdicts = await broker.health()
                break
            except TransportUnavailableError as error:
                status.down(str(error), retry_in_s=backoff.pause_s)
                await backoff.pause()
                backoff.grow()
        if refused := [f"{one.subject}: {one.fact}. → {one.fix}" for one in verdicts if one.refused]:
            raise ConfigurationError(refused, where="the broker")
        for one in verdicts:
            if one.state in ("weak", "bad"):
                kept = "" if one.subject == "connection" else ". What it loses is sent again as long as it is kept"
                log.warning("the broker: %s: %s%s. → %s", one.subject, one.fact, kept, one.fix)
