"""The loops of durable delivery in one process: lanes, relay, consumer, waiting room.

Composed by a Service whose store is durable and whose transport remembers. Every loop asks Ownership which lanes
are its own; two processes of one service share the lanes out and never handle the same key at the same time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from random import random
from typing import Literal, TypeVar

from cauce.concurrency.keyed_workers import KeyedWorkers
from cauce.concurrency.shared_lock import SharedLock
from cauce.delivery.inbox.attempts import Applying, Outcome
from cauce.delivery.inbox.gaps import Gaps
from cauce.delivery.lanes.ownership import Ownership
from cauce.delivery.outbox.alarms import Alarms, Watch
from cauce.delivery.outbox.relay import Relay
from cauce.delivery.pace import Pace
from cauce.delivery.retention import Keep, Pruning
from cauce.errors import ConfigurationError, DecodeError, TransportUnavailableError
from cauce.events.envelope import Emission, Envelope
from cauce.events.event import Event, IntegrationEvent
from cauce.formats.cloudevents import from_json
from cauce.formats.decoding import typed
from cauce.listeners.listener import Listener, consumer_name
from cauce.ports.inbox import WaitingDelivery
from cauce.ports.lanes import Epoch, Lane, MemberId, lane_of
from cauce.ports.message_store import MessageStore
from cauce.ports.transport import BrokerId, Delivery, DurableTransport, Status, Subscription, SupportsHealth
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["DurableDelivery"]

log = logging.getLogger("cauce.durable")

T = TypeVar("T")

_AT_ONCE = 8
_BOUND = 512
_POLL_FIRST_S = 0.05
_POLL_CAP_S = 1.0
_INFRASTRUCTURE_CAP_S = 5.0
_MARKS = 3
"""How often a delivery may be begun alone without an outcome."""


class _Reading:
    """The status of the subscription; while it is down, no read is under way."""

    def __init__(self, status: Status, ended: Callable[[], None]) -> None:
        self._status = status
        self._ended = ended

    def up(self) -> None:
        self._status.up()

    def down(self, reason: str, *, retry_in_s: float) -> None:
        self._ended()
        self._status.down(reason, retry_in_s=retry_in_s)


class _Job:
    __slots__ = ("delivery", "emission", "lane", "listeners", "suspect", "tenure", "waiting")

    def __init__(
        self,
        emission: Emission,
        listeners: Sequence[Listener],
        delivery: Delivery | None,
        waiting: WaitingDelivery | None,
        *,
        lane: Lane,
        tenure: int | None,
        suspect: bool,
    ) -> None:
        self.emission = emission
        self.listeners = listeners
        self.delivery = delivery
        self.waiting = waiting
        self.lane = lane
        self.tenure = tenure
        """The epoch of its lane under which it was found. Under another one it is found again, in its place."""
        self.suspect = suspect
        """Somebody may have died of it: it runs alone, and that it began is written down first."""

    @property
    def channel(self) -> str:
        return self.delivery.channel if self.delivery is not None else ""


class DurableDelivery:
    """One process's part in a service's durable delivery. `run` until cancelled."""

    def __init__(
        self,
        *,
        service: str,
        message_store: MessageStore,
        transport: DurableTransport | None,
        subscription: Subscription,
        starts: Mapping[str, Literal["retained", "now"]],
        adopted: Sequence[str],
        types: Mapping[str, type[Event]],
        listeners: Mapping[type[IntegrationEvent], Sequence[Listener]],
        by_name: Mapping[str, Listener],
        applying: Applying,
        status: Callable[[str], Status],
        count: Callable[[str, int], None],
        handled: Callable[[Emission, str], None],
        member: str,
        keep: Keep,
        pace: Pace,
        alarms: Alarms,
    ) -> None:
        """`types`: event classes by every name they are accepted under; `starts`: where a new subscription to a topic begins. `adopted`: the
        topics of others into which a bridge of this service puts events.

        `status` gives each loop that uses the broker a status of its own: ready means that all of them are. `handled` is told of
        an event and the name of the listener, once that is committed.
        """
        self._service = service
        self._message_store = message_store
        self._transport = transport
        self._subscription = subscription
        self._starts = starts
        self._types = types
        self._listeners: dict[type[Event], Sequence[Listener]] = {**listeners}
        self._by_name = {consumer_name(service, listener): listener for listener in by_name.values()}
        self._applying = applying
        self._hearing = status("subscription") if transport is not None and subscription else None
        self._local = status("database") if transport is None else None
        self._count = count
        self._handled = handled
        self._work: KeyedWorkers[_Job] = KeyedWorkers(
            self._settle, group=self._shares_with, at_once=_AT_ONCE, bound=_BOUND
        )
        self._taken: set[int | None] = set()
        """Positions of waiting deliveries that are being handled."""
        self._unreadable: set[int | None] = set()
        self._gaps = Gaps()
        self._apart = SharedLock()
        self._lanes_in_work: dict[Lane, int] = {}
        self._lanes_being_read: frozenset[Lane] = frozenset()
        self._lanes_swept: dict[Lane, Epoch] = {}
        """Lanes whose waiting deliveries have been looked at since we took them."""
        self._wake = asyncio.Event()
        self._trouble = DatabaseStatus(service, log)
        self.ownership = Ownership(
            message_store,
            MemberId(member),
            busy=self._busy,
            trouble=self._trouble,
            lease_s=pace.lease_s,
            beat_every_s=pace.beat_every_s,
        )
        topics = (service, *(topic for topic in adopted if topic != service))
        self._pruning = Pruning(
            topics=topics,
            message_store=message_store,
            transport=transport,
            ownership=self.ownership,
            keep=keep,
            trouble=self._trouble,
            count=count,
            every_s=pace.prune_every_s,
        )
        self.watch = Watch(
            alarms, message_store=message_store, ownership=self.ownership, count=count, every_s=pace.watch_every_s
        )
        self._relay = None
        if transport is not None:
            self._sending = status("relay")
            self._relay = Relay(
                topics=topics,
                message_store=message_store,
                transport=transport,
                ownership=self.ownership,
                status=self._sending,
                trouble=self._trouble,
                count=count,
                verify_every_s=pace.verify_every_s,
            )

    @property
    def unfinished(self) -> int:
        return self._work.unfinished

    def committed(self, *, to_send: bool, waiting: bool) -> None:
        """A transaction of this process wrote something for the broker, or for a durable listener here."""
        if to_send and self._relay is not None:
            self._relay.wake()
        if waiting:
            self._wake.set()

    async def fetch(self) -> None:
        """Find work for our lanes, until cancelled: beat, relay, read the broker, look into the waiting room."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.ownership.run())
            tasks.create_task(self._waiting_room())
            tasks.create_task(self._pruning.run())
            tasks.create_task(self.watch.run())
            if self._transport is None or self._relay is None:
                if self._local is not None:
                    self._local.up()
                return
            if isinstance(self._transport, SupportsHealth):
                await self._examine(self._transport, self._sending)
            tasks.create_task(self._relay.run())
            if self._hearing is not None:
                tasks.create_task(self._consume(self._transport, self._hearing))

    async def work(self) -> None:
        """Do what was fetched, until cancelled."""
        await self._work.run()

    def end(self) -> None:
        """Begin nothing new; what has not begun is left to whoever takes the lanes next."""
        self._work.end()

    async def leave(self) -> None:
        """Give the lanes back, so that others take them at once."""
        try:
            await self.ownership.leave()
        except Exception as error:  # they will be taken when the lease ends
            log.warning("the lanes could not be given back: %s", type(error).__name__)

    async def _examine(self, broker: SupportsHealth, status: Status) -> None:
        """Say what the broker may lose, once. Raises ConfigurationError if it throws away what it has confirmed."""
        while True:
            try:
                verdicts = await broker.health()
                break
            except TransportUnavailableError as error:
                pause_s = _POLL_CAP_S * (0.8 + 0.4 * random())
                status.down(str(error), retry_in_s=pause_s)
                await asyncio.sleep(pause_s)
        if refused := [f"{one.subject}: {one.fact}. → {one.fix}" for one in verdicts if one.refused]:
            raise ConfigurationError(refused, where="the broker")
        for one in verdicts:
            if one.state in ("weak", "bad"):
                log.warning("the broker: %s: %s. What it loses is sent again as long as it is kept. → %s",
                            one.subject, one.fact, one.fix)  # fmt: skip

    async def _consume(self, transport: DurableTransport, status: Status) -> None:
        since = await self._since(transport, status)
        await transport.consume(
            self._subscription,
            self.deliver,
            _Reading(status, self._nothing_is_read),
            group=self._service,
            lanes=self._lanes_to_read,
            since=since,
        )

    async def _since(self, transport: DurableTransport, status: Status) -> Mapping[str, BrokerId]:
        """Where our group begins in every topic, by the broker's clock where it begins now."""
        while True:
            try:
                return {topic: await self._since_in(topic, transport) for topic in sorted(self._subscription.topics)}
            except TransportUnavailableError as error:
                status.down(str(error), retry_in_s=_POLL_CAP_S)
            except Exception as error:
                self._trouble.down(error, retry_in_s=_POLL_CAP_S)
            await asyncio.sleep(_POLL_CAP_S * (0.8 + 0.4 * random()))

    async def _since_in(self, topic: str, transport: DurableTransport) -> BrokerId:
        begin = "0-0" if self._starts[topic] == "retained" else await transport.now(topic)
        return BrokerId(await self._message_store.since(topic, begin))

    async def deliver(self, delivery: Delivery) -> None:
        """Take an entry of the broker: to the listeners that hear it, or out of the way with its bytes kept."""
        self._count("received", 1)
        envelope = delivery.envelope
        if delivery.lost:
            # Nothing can be done here: the producer finds it missing when it verifies the lane, and sends it again.
            self._count("loss_detected", 1)
            log.error("%s: %s", delivery.channel, delivery.problem)
            await delivery.ack()
            return
        if envelope is None:
            await self._refuse_everywhere(delivery, None, delivery.problem or "not an event")
            return
        lane = delivery.lane if delivery.lane is not None else lane_of(envelope)
        self._look_for_gaps(envelope, delivery.tenure)
        event_type = self._types.get(envelope.name)
        if event_type is None:
            self._count("unheard", 1)
            await delivery.ack()
            return
        try:
            emission = typed(envelope, event_type)
        except DecodeError as error:
            await self._refuse_everywhere(delivery, envelope, f"{error.path}: {error.expectation}")
            return
        suspect = delivery.redelivered and self.ownership.left_by_the_dead(lane)
        listeners, tenure = self._listeners.get(event_type, ()), delivery.tenure
        await self._submit(_Job(emission, listeners, delivery, None, lane=lane, tenure=tenure, suspect=suspect))

    def _look_for_gaps(self, envelope: Envelope, tenure: int | None) -> None:
        if tenure is not None and (missing := self._gaps.missing_before(envelope, tenure)):
            self._count("gap_detected", missing)
            log.error(
                "%s: before event %s of key %s (number %s) %d of its key did not come: lost, or discarded at %s "
                "→ cauce outbox status, there",
                self._service, envelope.id, envelope.key, envelope.key_seq, missing, envelope.source,
            )  # fmt: skip

    async def _submit(self, job: _Job) -> None:
        envelope = job.emission.envelope
        self._lanes_in_work[job.lane] = self._lanes_in_work.get(job.lane, 0) + 1
        await self._work.submit((envelope.source, envelope.key if envelope.key is not None else envelope.id), job)

    def _nothing_is_read(self) -> None:
        self._lanes_being_read = frozenset()

    def _lanes_to_read(self) -> Mapping[Lane, Epoch]:
        lanes = self.ownership.lanes()
        self._lanes_being_read = frozenset(lanes)
        return lanes

    def _busy(self, lanes: Collection[Lane]) -> bool:
        # A read under way may still be given an entry: whoever owned the lane meanwhile would handle the next one first.
        return any(self._lanes_in_work.get(lane) or lane in self._lanes_being_read for lane in lanes)

    def _shares_with(self, job: _Job) -> Hashable | None:
        """Deliveries with the same answer may share a transaction."""
        first_time = job.delivery is not None and not job.delivery.redelivered
        if first_time and job.listeners and all(one.registration.shared_transaction for one in job.listeners):
            return type(job.emission.event)
        return None

    async def _settle(self, jobs: Sequence[_Job]) -> None:
        """Jobs of different keys; more than one only if they may share transactions."""
        ours = self.ownership.epochs()
        unshared = {job: job.listeners for job in jobs}
        if len(jobs) > 1 and all(ours.get(job.lane) == job.tenure for job in jobs):
            try:
                async with self._apart.shared():
                    unshared = dict.fromkeys(jobs, await self._settle_together(jobs))
            except Exception as error:  # each by itself finds out which one it is
                log.error("%d deliveries could not be settled together: %s", len(jobs), error, exc_info=error)
        for job, listeners in unshared.items():
            async with self._apart.exclusive() if job.suspect else self._apart.shared():
                await self._settle_alone(job, listeners)

    async def _settle_together(self, jobs: Sequence[_Job]) -> Sequence[Listener]:
        """Which of their listeners still have to be called, for each delivery by itself."""
        refused: list[Listener] = []
        deliveries = [(job.emission, job.channel) for job in jobs]
        for listener in jobs[0].listeners:
            outcomes = await self._persistently(lambda one=listener: self._applying.together(one, deliveries))
            if outcomes is None:
                refused.append(listener)
            for job, outcome in zip(jobs, outcomes or (), strict=False):
                self._tell(outcome, job, listener)
        return refused

    async def _settle_alone(self, job: _Job, listeners: Sequence[Listener]) -> None:
        """What is left to be done for one job; then it is acknowledged."""
        envelope, delivery = job.emission.envelope, job.delivery
        try:
            if self.ownership.epochs().get(job.lane) != job.tenure:
                # While it waited here the lane was lost, to somebody else or for a moment: it is found again, in order.
                if delivery is not None:
                    delivery.release()
                return
            for listener in listeners:
                outcome = await (self._suspiciously if job.suspect else self._apply)(job, listener)
                self._tell(outcome, job, listener)
            if delivery is not None:
                await delivery.ack()
        except Exception as error:  # the entry stays un-acknowledged, and comes again before what follows it
            log.error("%s %s could not be settled: %s", envelope.name, envelope.id, error, exc_info=error)
            self.ownership.drop(job.lane)
            if delivery is not None:
                delivery.release()
        finally:
            self._lanes_in_work[job.lane] -= 1
            if job.waiting is not None:
                self._taken.discard(job.waiting.position)
                self._wake.set()

    def _tell(self, outcome: Outcome, job: _Job, listener: Listener) -> None:
        self._count(outcome, 1)
        if outcome == "handled":
            self._handled(job.emission, listener.name)

    async def _suspiciously(self, job: _Job, listener: Listener) -> Outcome:
        """Not run any more once it was begun too often and never ended."""
        envelope, applying = job.emission.envelope, self._applying
        marks = await self._persistently(lambda: applying.mark_started(listener, envelope))
        if marks > _MARKS:
            outcome = await self._persistently(
                lambda: applying.crash_loop(listener, envelope, job.waiting, job.channel, marks)
            )
        else:
            outcome = await self._apply(job, listener)
        await self._persistently(lambda: applying.unmark_started(listener, envelope))
        return outcome

    async def _apply(self, job: _Job, listener: Listener) -> Outcome:
        waiting, emission = job.waiting, job.emission
        if waiting is not None:
            return await self._persistently(lambda: self._applying.again(listener, emission, waiting))
        repeated = job.delivery is not None and job.delivery.redelivered
        return await self._persistently(
            lambda: self._applying.first(listener, emission, job.channel, repeated=repeated)
        )

    async def _persistently(self, apply: Callable[[], Awaitable[T]]) -> T:
        """Until the outcome is committed: trouble with the infrastructure costs time, never an attempt."""
        pause_s = 0.1
        while True:
            try:
                return await apply()
            except Exception as error:
                if not self._applying.rules.is_infrastructure(error):
                    raise
                self._count("infrastructure", 1)
                self._trouble.down(error, retry_in_s=pause_s)
                await asyncio.sleep(pause_s * (0.8 + 0.4 * random()))
                pause_s = min(_INFRASTRUCTURE_CAP_S, pause_s * 2)

    async def _refuse_everywhere(self, delivery: Delivery, envelope: Envelope | None, why: str) -> None:
        """A dead letter for every listener it would have reached, then out of the broker."""
        event_type = self._types.get(envelope.name) if envelope else None
        heard_by = self._listeners.get(event_type, ()) if event_type else ()
        consumers = [consumer_name(self._service, listener) for listener in heard_by] or [self._service]
        version = f" {envelope.source_version}" if envelope and envelope.source_version else ""
        what = (
            f"{envelope.name} {envelope.id} · {why} · from {envelope.source}{version}"
            if envelope
            else f"{delivery.channel} · {why}"
        )
        pause_s = 0.1
        for consumer in consumers:
            while True:
                try:
                    await self._applying.refuse(consumer, envelope, delivery.channel, delivery.raw, why)
                    break
                except Exception as error:
                    self._trouble.down(error, retry_in_s=pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(_INFRASTRUCTURE_CAP_S, pause_s * 2)
            self._count("dead", 1)
        log.error("dead: %s · raw bytes kept (%d)", what, len(delivery.raw))
        await delivery.ack()

    async def _waiting_room(self) -> None:
        """Run what is due among the waiting deliveries of our lanes."""
        pause_s = _POLL_FIRST_S
        while True:
            worked = False
            try:
                lanes = self.ownership.lanes()
                new = {lane for lane, epoch in lanes.items() if self._lanes_swept.get(lane) != epoch}
                for waiting in await self._message_store.due(list(lanes), limit=_BOUND):
                    if waiting.position not in self._taken:
                        suspect = waiting.lane in new and self.ownership.left_by_the_dead(waiting.lane)
                        worked = await self._begin(waiting, lanes[waiting.lane], suspect=suspect) or worked
                self._lanes_swept = dict(lanes)
            except Exception as error:
                self._trouble.down(error, retry_in_s=pause_s)
            pause_s = _POLL_FIRST_S if worked else min(_POLL_CAP_S, pause_s * 2)
            try:
                async with asyncio.timeout(pause_s * (0.8 + 0.4 * random())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            finally:
                self._wake.clear()

    async def _begin(self, waiting: WaitingDelivery, tenure: Epoch, *, suspect: bool) -> bool:
        listener = self._by_name.get(waiting.consumer)
        if listener is None:
            return False  # another version of this service knows it; it waits
        name = "?"
        try:
            envelope = from_json(waiting.message)
            name = envelope.name
            event_type = self._types.get(name)
            if event_type is None:
                return False
            emission = typed(envelope, event_type)
        except DecodeError as error:
            await self._not_readable(waiting, name, error)
            return False
        self._taken.add(waiting.position)
        await self._submit(
            _Job(emission, (listener,), None, waiting, lane=waiting.lane, tenure=tenure, suspect=suspect)
        )
        return True

    async def _not_readable(self, waiting: WaitingDelivery, name: str, error: DecodeError) -> None:
        """A replay is refused again; anything else may be a later version's, and waits for it."""
        if waiting.position in self._unreadable:
            return
        why = f"{error.path}: {error.expectation}"
        if await self._applying.refuse_replay(waiting, name, why):
            self._count("dead", 1)
            log.error("dead: %s for %s was replayed and is refused again: %s", waiting.event_id, waiting.consumer, why)
        else:
            self._unreadable.add(waiting.position)
            log.error("waiting delivery %d cannot be read by this version: %s", waiting.position, error)
