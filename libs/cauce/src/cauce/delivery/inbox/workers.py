"""Settle deliveries: one at a time for a key, several keys at once, each acknowledged after its outcome is committed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from cauce.concurrency.keyed_workers import KeyedWorkers
from cauce.concurrency.shared_lock import SharedLock
from cauce.delivery.inbox.attempts import Attempts
from cauce.delivery.inbox.failures import Failures, Outcome, delivery_of
from cauce.delivery.inbox.jobs import Job, RefusedJob
from cauce.delivery.inbox.outside_effects import OutsideEffects, UnsettledError
from cauce.delivery.inbox.refusals import Refusals
from cauce.delivery.inbox.transactions import InboxTransactions, OutlastedError, origin_of
from cauce.delivery.inbox.troubles import Trouble, Troubles
from cauce.delivery.lanes.ownership import Ownership
from cauce.events.envelope import Emission, Envelope
from cauce.listeners.listener import Listener
from cauce.listeners.threads import ThreadStillRunsError
from cauce.ports.lanes import Lane
from cauce.ports.transport import Delivery
from cauce.telemetry.connectivity import DatabaseStatus
from cauce.telemetry.storable import describe_error, loggable

__all__ = ["BOUND", "Workers"]

log = logging.getLogger("cauce.durable")

T = TypeVar("T")

BOUND = 512
"""How many deliveries are accepted and not settled at most."""
_AT_ONCE = 8
_TROUBLED_AT_ONCE = 4
"""How many workers may be busy with events that have met trouble before: the others are for those that have not."""
_THREAD_AGAIN_S = 1.0
"""How soon a thread that outlived its call is looked at again."""
_MARKS = 3
"""How often a suspect delivery may be started without an outcome."""


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
        troubles: Troubles,
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
        self._troubles = troubles
        self._count = count
        self._handled = handled
        self._work: KeyedWorkers[Job | RefusedJob] = KeyedWorkers(
            self._settle,
            group=_shares_with,
            at_once=_AT_ONCE,
            bound=BOUND,
            restrained=lambda job: job.troubled and not self._troubles.outage,
            restrained_at_once=_TROUBLED_AT_ONCE,
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

    async def _settle(self, given: Sequence[Job | RefusedJob]) -> Mapping[Job | RefusedJob, float]:
        """Settle jobs of different keys; more than one only if they may share transactions.

        Those that could not be settled for now are returned, with the time after which to try again.
        """
        jobs = [job for job in given if isinstance(job, Job)]
        if len(jobs) > 1 and all(map(self._still_ours, jobs)):
            try:
                async with self._suspects.shared():
                    await self._settle_together(jobs)
            except Exception as error:  # settling them one by one finds out which of them failed
                log.error(
                    "%d deliveries could not be settled together: %s", len(jobs), describe_error(origin_of(error))
                )
        again = {job: await self._take_up(job) for job in given}
        return {job: pause_s for job, pause_s in again.items() if pause_s is not None}

    async def _settle_together(self, jobs: Sequence[Job]) -> None:
        """Call their listeners for all of them at once. Those that refuse are left to each job."""
        left: list[Listener] = []
        deliveries = [(job.emission, job.channel) for job in jobs]
        for listener in jobs[0].listeners:
            outcomes = await self._attempts.together(listener, deliveries)
            if outcomes is None:
                left.append(listener)
            for job, outcome in zip(jobs, outcomes or (), strict=False):
                self._report(outcome, job, listener)
                job.listeners = [one for one in job.listeners if one is not listener]

    async def _take_up(self, job: Job | RefusedJob) -> float | None:
        """Settle one job; seconds after which to go on with it if it could not be settled."""
        again_s: float | None = None
        try:
            if isinstance(job, RefusedJob):
                async with self._suspects.shared():
                    again_s = await self._settle_refused(job)
            else:
                async with self._suspects.exclusive() if job.suspect else self._suspects.shared():
                    again_s = await self._settle_alone(job)
        finally:
            if again_s is None:
                self._lanes_in_work[job.lane] -= 1
                if job.left is not None:
                    job.left()
        return again_s

    async def _settle_alone(self, job: Job) -> float | None:
        """Call the listeners that are left for one job, then acknowledge it."""
        envelope, delivery = job.emission.envelope, job.delivery
        try:
            if job.unsettled is None and not self._still_ours(job):
                # While it waited here the lane was lost, if only for a moment: the delivery is found again, in order.
                if delivery is not None:
                    delivery.release()
                return None
            while job.listeners:
                listener = job.listeners[0]
                outcome = await (self._apply_suspect if job.suspect else self._apply)(job, listener)
                self._report(outcome, job, listener)
                job.listeners = job.listeners[1:]
            if delivery is not None:
                await delivery.ack()
        except _AgainError as again:
            return again.pause_s
        except Exception as error:  # the entry stays unacknowledged, and is redelivered before what follows it
            log.error("%s %s could not be settled: %s", envelope.name, envelope.id, error, exc_info=error)
            self._ownership.drop(job.lane)
            if delivery is not None:
                delivery.release()
        return None

    async def _settle_refused(self, job: RefusedJob) -> float | None:
        """Record the refusal for each listener, then acknowledge it."""
        delivery = job.delivery
        try:
            if not self._still_ours(job):
                if delivery is not None:
                    delivery.release()
                return None
            while job.consumers:
                outcome = await self._refuse(job, job.consumers[0])
                if outcome != "not_due":
                    self._count(outcome, 1)
                job.consumers = job.consumers[1:]
            if delivery is not None:
                await delivery.ack()
        except _AgainError as again:
            return again.pause_s
        except Exception as error:  # as for every other delivery
            log.error("a refusal could not be settled: %s", describe_error(error), exc_info=loggable(error))
            self._ownership.drop(job.lane)
            if delivery is not None:
                delivery.release()
        return None

    async def _refuse(self, job: RefusedJob, consumer: str) -> Outcome:
        try:
            return await self._commit(job, lambda: self._refused(job, consumer))
        except _AgainError:
            raise
        except Exception as error:  # not the infrastructure's: what was to be written cannot be
            trouble = error
            log.error("a refusal could not be recorded: %s", describe_error(error), exc_info=loggable(error))
        return await self._commit(job, lambda: self._refused_plainly(job, consumer, trouble))

    async def _refused(self, job: RefusedJob, consumer: str) -> Outcome:
        if job.waiting is not None:
            return await self._refusals.again(job.waiting, job.envelope, job.refusal)
        if job.envelope is None or job.delivery is None:
            assert job.kept is not None  # noqa: S101  # made so by the consumer
            return await self._refusals.no_event(replace(job.kept, consumer=consumer), job.refusal)
        return await self._refusals.first(
            consumer,
            job.envelope,
            job.refusal,
            job.delivery.channel,
            job.delivery.raw,
            repeated_s=_repeated_s(job.delivery),
        )

    async def _refused_plainly(self, job: RefusedJob, consumer: str, trouble: Exception) -> Outcome:
        if job.waiting is not None:
            return await self._refusals.again_plainly(job.waiting, trouble)
        return await self._refusals.plainly(consumer, b"" if job.delivery is None else job.delivery.raw, trouble)

    def _still_ours(self, job: Job | RefusedJob) -> bool:
        # What has met trouble is not waited for when its lane is to be given back.
        lanes = self._ownership.lanes() if job.troubled else self._ownership.epochs()
        return lanes.get(job.lane) == job.tenure

    def _report(self, outcome: Outcome, job: Job, listener: Listener) -> None:
        if outcome != "not_due":
            self._count(outcome, 1)
        if outcome == "handled":
            self._handled(job.emission, listener.name)

    async def _apply_suspect(self, job: Job, listener: Listener) -> Outcome:
        """Apply it unless it was started too often without an outcome; then it is a dead letter."""
        envelope, by = job.emission.envelope, self._by(listener)
        marks = 0 if job.unsettled else await self._commit(job, lambda: self._failures.mark_started(listener, envelope))
        if marks > _MARKS:
            outcome = await self._commit(
                job, lambda: by.crash_loop(listener, envelope, job.waiting, job.channel, marks)
            )
        else:
            outcome = await self._apply(job, listener)
        await self._unmark(listener, envelope)
        return outcome

    async def _unmark(self, listener: Listener, envelope: Envelope) -> None:
        try:
            await self._failures.unmark_started(listener, envelope)
        except Exception as error:  # the outcome is committed, and so the mark stands for nothing any more
            log.warning("the mark of %s for %s could not be removed: %s", envelope.id, listener.name, error)

    async def _apply(self, job: Job, listener: Listener) -> Outcome:
        """Make one attempt, or see to what was in its way."""
        try:
            outcome = await self._attempt(job, listener)
        except OutlastedError as error:
            log.error(
                "%s blocked its process for %.0f s (its limit: %.0f s), and whether %s %s was handled is unknown: %s · "
                "it is handled alone from now on, three times at most",
                listener.name, error.took_s, listener.registration.limit_s, job.emission.envelope.name,
                job.emission.envelope.id, origin_of(error),
            )  # fmt: skip
            job.suspect = True
            self._ownership.distrust(job.lane)
            raise _AgainError(0.0) from error
        except UnsettledError as error:
            job.unsettled = error.outcome
            return await self._in_trouble(job, listener, error.error)
        except Exception as error:
            if isinstance(origin_of(error), ThreadStillRunsError):
                return await self._wait_for_thread(job, listener, str(origin_of(error)))
            if not self._transactions.is_infrastructure(error):
                raise
            return await self._in_trouble(job, listener, error)
        job.unsettled = None
        self._troubles.settled(listener.name, job.emission.envelope, handled=outcome == "handled")
        return outcome

    async def _attempt(self, job: Job, listener: Listener) -> Outcome:
        if job.unsettled is not None:
            return await self._effects.settle(job.unsettled)
        waiting, emission, by = job.waiting, job.emission, self._by(listener)
        if waiting is not None:
            return await by.again(listener, emission, waiting)
        return await by.first(listener, emission, job.channel, repeated_s=_repeated_s(job.delivery))

    async def _wait_for_thread(self, job: Job, listener: Listener, why: str) -> Outcome:
        """Let the event wait, its attempts as they were, until the thread of the earlier one has ended."""
        envelope, by = job.emission.envelope, self._by(listener)
        delivery = job.waiting or delivery_of(self._transactions.consumer_name(listener), envelope, job.channel)
        return await self._commit(
            job, lambda: by.give_back(listener, envelope, delivery, _THREAD_AGAIN_S, f"trouble: {why}")
        )

    async def _in_trouble(self, job: Job, listener: Listener, error: Exception) -> Outcome:
        """Give the event back to the database: it waits there, and no attempt is counted. Or, if the database serves
        others all the time, count one after all. While it takes neither, the job is taken up again later."""
        self._count("infrastructure", 1)
        envelope, by = job.emission.envelope, self._by(listener)
        before = 0 if job.waiting is None else job.waiting.troubles
        trouble = self._troubles.met(listener.name, envelope, job.lane, origin_of(error), before=before)
        delay_s = self._troubles.delay_s(trouble)
        try:
            if job.unsettled is not None:
                raise error
            consumer = self._transactions.consumer_name(listener)
            delivery = replace(job.waiting or delivery_of(consumer, envelope, job.channel), troubles=trouble.times)
            if trouble.charged:
                outcome = await by.charge(listener, envelope, delivery, error)
                self._troubles.charged(trouble)
            else:
                outcome = await by.give_back(listener, envelope, delivery, delay_s, trouble.shown)
                self._troubles.given_back(trouble, delay_s)
        except Exception as refused:
            if not self._transactions.is_infrastructure(refused):
                raise
            return await self._not_taken(job, trouble, refused, delay_s)
        return outcome

    async def _not_taken(self, job: Job, trouble: Trouble, error: Exception, delay_s: float) -> Outcome:
        """The database takes nothing now, or nothing of this event. Leave it alone for a moment, then others first."""
        job.troubled = True
        pause_s = self._troubles.outage_pause_s()
        self._trouble.down(origin_of(error), retry_in_s=pause_s)
        await asyncio.sleep(pause_s)
        raise _AgainError(delay_s if self._troubles.serves_others(trouble) else 0.0)

    async def _commit(self, job: Job | RefusedJob, write: Callable[[], Awaitable[T]]) -> T:
        """Have something written for a job, now or when it is taken up again."""
        try:
            return await write()
        except Exception as error:
            if not self._transactions.is_infrastructure(error):
                raise
            self._count("infrastructure", 1)
            job.troubled = True
            pause_s = self._troubles.outage_pause_s()
            self._trouble.down(error, retry_in_s=pause_s)
            await asyncio.sleep(pause_s)
            raise _AgainError(0.0) from error

    def _by(self, listener: Listener) -> Attempts | OutsideEffects:
        return self._attempts if listener.registration.effect is None else self._effects


class _AgainError(Exception):
    """A job is not settled, and is to be taken up again."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(pause_s)
        self.pause_s = pause_s


def _repeated_s(delivery: Delivery | None) -> float | None:
    """How long the broker has had a delivery that it gave to us before."""
    return delivery.age_s if delivery is not None and delivery.redelivered else None


def _shares_with(job: Job | RefusedJob) -> Hashable | None:
    """Jobs with the same answer may share a transaction."""
    if isinstance(job, RefusedJob):
        return None
    first_time = job.delivery is not None and not job.delivery.redelivered and not job.troubled
    if first_time and job.listeners and all(one.registration.shared_transaction for one in job.listeners):
        return type(job.emission.event)
    return None
