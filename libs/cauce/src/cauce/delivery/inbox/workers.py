"""Settle deliveries: one at a time for a key, several keys at once, each acknowledged after its outcome is committed."""

import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from cauce.concurrency.backoff import Backoff
from cauce.concurrency.keyed_workers import KeyedWorkers
from cauce.concurrency.shared_lock import SharedLock
from cauce.delivery.inbox.attempts import Attempts
from cauce.delivery.inbox.failures import Failures, Outcome
from cauce.delivery.inbox.outside_effects import OutsideEffects
from cauce.delivery.inbox.reading import Refusal
from cauce.delivery.inbox.refusals import Refusals
from cauce.delivery.inbox.transactions import InboxTransactions
from cauce.delivery.lanes.ownership import Ownership
from cauce.events.envelope import Emission, Envelope
from cauce.listeners.listener import Listener
from cauce.ports.inbox import WaitingDelivery
from cauce.ports.lanes import Lane
from cauce.ports.transport import Delivery
from cauce.telemetry.connectivity import DatabaseStatus
from cauce.telemetry.storable import describe_error, loggable

__all__ = ["BOUND", "Job", "RefusedJob", "Workers", "queue_of"]

log = logging.getLogger("cauce.durable")

T = TypeVar("T")

BOUND = 512
"""How many deliveries are accepted and not settled at most."""
_AT_ONCE = 8
_INFRASTRUCTURE_FIRST_S = 0.1
_INFRASTRUCTURE_CAP_S = 5.0
_MARKS = 3
"""How often a suspect delivery may be started without an outcome."""


class Job(Struct, kw_only=True, eq=False):
    """A delivery and its listeners. From the broker it has a `delivery`, from the waiting room a `waiting`."""

    emission: Emission
    listeners: Sequence[Listener]
    lane: Lane
    tenure: int | None
    """The epoch of its lane under which it was found. Under another epoch it is found again, in its place."""
    suspect: bool
    """It may have ended a process: it runs alone, and its start is recorded first."""
    delivery: Delivery | None = None
    waiting: WaitingDelivery | None = None
    left: Callable[[], None] | None = None
    """Called when the workers are done with it, settled or not."""

    @property
    def channel(self) -> str:
        return self.delivery.channel if self.delivery is not None else ""

    @property
    def queue(self) -> Hashable:
        """Whom it must not overtake."""
        return queue_of(self.emission.envelope)


class RefusedJob(Struct, kw_only=True, eq=False):
    """A delivery that no listener can be given, to be refused in its place among those of its key.

    From the broker it has a `delivery`, from the waiting room a `waiting`. Without an `envelope` it is no event.
    """

    envelope: Envelope | None
    refusal: Refusal
    consumers: Sequence[str]
    """By which names the inbox knows those for whom it is refused."""
    queue: Hashable
    """Whom it must not overtake: source and key, or what stands for itself."""
    lane: Lane
    tenure: int | None
    delivery: Delivery | None = None
    """Its bytes are in `kept`, if it is no event."""
    kept: WaitingDelivery | None = None
    waiting: WaitingDelivery | None = None
    left: Callable[[], None] | None = None


class Workers:
    """Settles deliveries in the order of their key."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        attempts: Attempts,
        effects: OutsideEffects,
        refusals: Refusals,
        failures: Failures,
        transactions: InboxTransactions,
        trouble: DatabaseStatus,
        count: Callable[[str, int], None],
        handled: Callable[[Emission, str], None],
    ) -> None:
        """`handled` is told of an event and the name of the listener, once that is committed."""
        self._ownership = ownership
        self._attempts = attempts
        self._effects = effects
        self._refusals = refusals
        self._failures = failures
        self._transactions = transactions
        self._trouble = trouble
        self._count = count
        self._handled = handled
        self._work: KeyedWorkers[Job | RefusedJob] = KeyedWorkers(
            self._settle, group=_shares_with, at_once=_AT_ONCE, bound=BOUND
        )
        self._suspects = SharedLock()
        self._lanes_in_work: dict[Lane, int] = {}

    @property
    def unfinished(self) -> int:
        return self._work.unfinished

    async def run(self) -> None:
        """Settle what was submitted, until cancelled."""
        await self._work.run()

    def end(self) -> None:
        """Start no further job; the next owner of the lanes finds what has not started."""
        self._work.end()

    def busy(self, lane: Lane) -> bool:
        """Whether a delivery of the lane is not settled yet."""
        return bool(self._lanes_in_work.get(lane))

    async def submit(self, job: Job | RefusedJob) -> None:
        """Accept a job; waits while there is no room."""
        self._lanes_in_work[job.lane] = self._lanes_in_work.get(job.lane, 0) + 1
        await self._work.submit(job.queue, job)

    async def _settle(self, given: Sequence[Job | RefusedJob]) -> None:
        """Settle jobs of different keys; more than one only if they may share transactions."""
        jobs = [job for job in given if isinstance(job, Job)]
        for job in given:
            if isinstance(job, RefusedJob):
                async with self._suspects.shared():
                    await self._settle_refused(job)
        ours = self._ownership.epochs()
        unshared = {job: job.listeners for job in jobs}
        if len(jobs) > 1 and all(ours.get(job.lane) == job.tenure for job in jobs):
            try:
                async with self._suspects.shared():
                    unshared = dict.fromkeys(jobs, await self._settle_together(jobs))
            except Exception as error:  # settling them one by one finds out which of them failed
                log.error("%d deliveries could not be settled together: %s", len(jobs), error, exc_info=error)
        for job, listeners in unshared.items():
            async with self._suspects.exclusive() if job.suspect else self._suspects.shared():
                await self._settle_alone(job, listeners)

    async def _settle_together(self, jobs: Sequence[Job]) -> Sequence[Listener]:
        """Return which of their listeners are still to be called, for each delivery alone."""
        refused: list[Listener] = []
        deliveries = [(job.emission, job.channel) for job in jobs]
        for listener in jobs[0].listeners:
            outcomes = await self._persistently(lambda one=listener: self._attempts.together(one, deliveries))
            if outcomes is None:
                refused.append(listener)
            for job, outcome in zip(jobs, outcomes or (), strict=False):
                self._report(outcome, job, listener)
        return refused

    async def _settle_alone(self, job: Job, listeners: Sequence[Listener]) -> None:
        """Call the listeners that are left for one job, then acknowledge it."""
        envelope, delivery = job.emission.envelope, job.delivery
        try:
            if self._ownership.epochs().get(job.lane) != job.tenure:
                # While it waited here the lane was lost, if only for a moment: the delivery is found again, in order.
                if delivery is not None:
                    delivery.release()
                return
            for listener in listeners:
                outcome = await (self._apply_suspect if job.suspect else self._apply)(job, listener)
                self._report(outcome, job, listener)
            if delivery is not None:
                await delivery.ack()
        except Exception as error:  # the entry stays unacknowledged, and is redelivered before what follows it
            log.error("%s %s could not be settled: %s", envelope.name, envelope.id, error, exc_info=error)
            self._ownership.drop(job.lane)
            if delivery is not None:
                delivery.release()
        finally:
            self._lanes_in_work[job.lane] -= 1
            if job.left is not None:
                job.left()

    async def _settle_refused(self, job: RefusedJob) -> None:
        """Record the refusal for each listener, then acknowledge it."""
        delivery = job.delivery
        try:
            if self._ownership.epochs().get(job.lane) != job.tenure:
                if delivery is not None:
                    delivery.release()
                return
            for consumer in job.consumers:
                outcome = await self._refuse(job, consumer)
                if outcome != "not_due":
                    self._count(outcome, 1)
            if delivery is not None:
                await delivery.ack()
        except Exception as error:  # as for every other delivery
            log.error("a refusal could not be settled: %s", describe_error(error), exc_info=loggable(error))
            self._ownership.drop(job.lane)
            if delivery is not None:
                delivery.release()
        finally:
            self._lanes_in_work[job.lane] -= 1
            if job.left is not None:
                job.left()

    async def _refuse(self, job: RefusedJob, consumer: str) -> Outcome:
        try:
            return await self._persistently(lambda: self._refused(job, consumer))
        except Exception as error:  # not the infrastructure's: what was to be written cannot be
            trouble = error
            log.error("a refusal could not be recorded: %s", describe_error(error), exc_info=loggable(error))
        return await self._persistently(lambda: self._refused_plainly(job, consumer, trouble))

    async def _refused(self, job: RefusedJob, consumer: str) -> Outcome:
        if job.waiting is not None:
            return await self._refusals.again(job.waiting, job.envelope, job.refusal)
        if job.envelope is None or job.delivery is None:
            assert job.kept is not None  # noqa: S101  # made so by the consumer
            return await self._refusals.no_event(replace(job.kept, consumer=consumer), job.refusal.why)
        return await self._refusals.first(
            consumer,
            job.envelope,
            job.refusal,
            job.delivery.channel,
            job.delivery.raw,
            repeated=job.delivery.redelivered,
        )

    async def _refused_plainly(self, job: RefusedJob, consumer: str, trouble: Exception) -> Outcome:
        if job.waiting is not None:
            return await self._refusals.again_plainly(job.waiting, trouble)
        return await self._refusals.plainly(consumer, b"" if job.delivery is None else job.delivery.raw, trouble)

    def _report(self, outcome: Outcome, job: Job, listener: Listener) -> None:
        if outcome != "not_due":
            self._count(outcome, 1)
        if outcome == "handled":
            self._handled(job.emission, listener.name)

    async def _apply_suspect(self, job: Job, listener: Listener) -> Outcome:
        """Apply it unless it was started too often without an outcome; then it is a dead letter."""
        envelope, by = job.emission.envelope, self._by(listener)
        marks = await self._persistently(lambda: self._failures.mark_started(listener, envelope))
        if marks > _MARKS:
            outcome = await self._persistently(
                lambda: by.crash_loop(listener, envelope, job.waiting, job.channel, marks)
            )
        else:
            outcome = await self._apply(job, listener)
        await self._persistently(lambda: self._failures.unmark_started(listener, envelope))
        return outcome

    async def _apply(self, job: Job, listener: Listener) -> Outcome:
        waiting, emission, by = job.waiting, job.emission, self._by(listener)
        if waiting is not None:
            return await self._persistently(lambda: by.again(listener, emission, waiting))
        repeated = job.delivery is not None and job.delivery.redelivered
        return await self._persistently(lambda: by.first(listener, emission, job.channel, repeated=repeated))

    def _by(self, listener: Listener) -> Attempts | OutsideEffects:
        return self._attempts if listener.registration.effect is None else self._effects

    async def _persistently(self, apply: Callable[[], Awaitable[T]]) -> T:
        """Repeat until the outcome is committed: infrastructure errors cost time, never an attempt."""
        backoff = Backoff(_INFRASTRUCTURE_FIRST_S, _INFRASTRUCTURE_CAP_S)
        while True:
            try:
                return await apply()
            except Exception as error:
                if not self._transactions.is_infrastructure(error):
                    raise
                self._count("infrastructure", 1)
                self._trouble.down(error, retry_in_s=backoff.pause_s)
                await backoff.pause()
                backoff.grow()


def queue_of(envelope: Envelope) -> Hashable:
    """The key of the event's queue: whatever has the same is settled one after the other."""
    return (envelope.source, envelope.key if envelope.key is not None else envelope.id)


def _shares_with(job: Job | RefusedJob) -> Hashable | None:
    """Jobs with the same answer may share a transaction."""
    if isinstance(job, RefusedJob):
        return None
    first_time = job.delivery is not None and not job.delivery.redelivered
    if first_time and job.listeners and all(one.registration.shared_transaction for one in job.listeners):
        return type(job.emission.event)
    return None
