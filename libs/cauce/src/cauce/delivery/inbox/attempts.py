"""One delivery, one listener, one transaction: inbox row, effect and what the listener publishes commit together.

Whatever happens, the delivery ends as one of four, each of them committed before the broker hears of it: applied,
a duplicate, waiting (a retry, or behind its key), or a dead letter. Trouble with the infrastructure is none of the
four: it costs no attempt, and the delivery is tried again when the trouble is over.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from random import random
from typing import Literal, Protocol

from cauce.delivery.inbox.decision_table import decide
from cauce.events.envelope import Emission, Envelope
from cauce.formats.cloudevents import to_json
from cauce.listeners.effects import AtMostOnce, EffectNotDoneError
from cauce.listeners.listener import Listener, consumer_name
from cauce.listeners.retry import Reject, RetryAfter
from cauce.ports.inbox import Arrival, Failure, Inbox, Reason, WaitingDelivery
from cauce.ports.lanes import Lane, lane_of
from cauce.publishing.transaction import Transaction
from cauce.telemetry.log_text import place_of

__all__ = ["Applying", "Outcome", "Rules"]

log = logging.getLogger("cauce.applying")

Outcome = Literal["handled", "duplicate", "waiting", "dead"]

_WRITE_AGAIN_FIRST_S = 0.1
_WRITE_AGAIN_CAP_S = 5.0

INBOX_RETENTION_S = 7 * 24 * 3600.0
_IDLE_BEYOND_S = 5.0
"""How much longer than a listener's own limit its transaction may do nothing before the database ends it."""


class CrashLoopError(Reject):
    """Whenever this event was handled, the process died."""

    def __init__(self, times: int) -> None:
        super().__init__(
            f"the process died {times} times while this was handled, the last times with no other delivery in progress"
        )


class Rules(Protocol):
    """What applying needs of its service."""

    name: str

    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...
    def inbox(self, tx: Transaction) -> Inbox: ...
    def is_infrastructure(self, error: BaseException) -> bool:
        """Whether the error is the database's or the broker's trouble rather than the listener's."""
        ...


CallListener = Callable[[Listener, Emission, Transaction | None, int, bool, str], Awaitable[None]]
"""listener, emission, transaction (None for an effect outside the database), attempt, replayed, channel"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applying:
    """Applies deliveries to listeners. `worker` and `version` name this process and its code in dead letters."""

    rules: Rules
    call: CallListener
    count: Callable[[str, int], None]
    worker: str
    version: str | None
    random: Callable[[], float] = random
    retention_s: float = INBOX_RETENTION_S
    _anew: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])
    """Consumer, source and incarnation of every beginning that was told."""

    async def first(self, listener: Listener, emission: Emission, channel: str, *, repeated: bool = False) -> Outcome:
        """A delivery from the broker; `repeated`: not its first. Raises only infrastructure errors; then nothing is
        recorded."""
        if listener.registration.effect is not None:
            delivery = _of(consumer_name(self.rules.name, listener), emission.envelope, channel)
            return await self._effect(listener, emission, delivery, repeated=repeated)
        envelope = emission.envelope
        consumer = consumer_name(self.rules.name, listener)
        try:
            async with self.rules.transaction() as tx:
                inbox = self.rules.inbox(tx)
                (found,) = await inbox.arrive(consumer, [envelope], idle_s=_idle_s(listener))
                done = await self._in_its_turn(inbox, consumer, envelope, channel, found, repeated=repeated)
                if done is None:
                    await self.call(listener, emission, tx, 1, False, channel)
            return done or "handled"
        except Exception as error:
            if self.rules.is_infrastructure(error):
                raise
            return await self._failed_first(listener, envelope, channel, error, repeated=repeated)

    async def together(
        self, listener: Listener, deliveries: Sequence[tuple[Emission, str]]
    ) -> Sequence[Outcome] | None:
        """Deliveries of different keys, with their channels, in one transaction.

        None if one of them failed: nothing is recorded then, and each is to be handled by itself. Raises only
        infrastructure errors; then nothing is recorded either.
        """
        consumer = consumer_name(self.rules.name, listener)
        outcomes: list[Outcome] = []
        try:
            async with self.rules.transaction() as tx:
                inbox = self.rules.inbox(tx)
                arrivals = await inbox.arrive(
                    consumer, [emission.envelope for emission, _ in deliveries], idle_s=_idle_s(listener)
                )
                for (emission, channel), found in zip(deliveries, arrivals, strict=True):
                    done = await self._in_its_turn(inbox, consumer, emission.envelope, channel, found)
                    if done is None:
                        await self.call(listener, emission, tx, 1, False, channel)
                    outcomes.append(done or "handled")
        except Exception as error:
            if self.rules.is_infrastructure(error):
                raise
            return None
        return outcomes

    async def again(self, listener: Listener, emission: Emission, waiting: WaitingDelivery) -> Outcome:
        """A delivery from the waiting room, whose row is the token. Raises only infrastructure errors."""
        if listener.registration.effect is not None:
            return await self._effect(listener, emission, waiting)
        attempt = waiting.attempts + 1
        try:
            async with self.rules.transaction() as tx:
                inbox = self.rules.inbox(tx)
                if not await inbox.claim(waiting, idle_s=_idle_s(listener)):
                    return "duplicate"
                replayed = await inbox.remove_dead_letter(waiting)
                await inbox.release_next(waiting)
                if not waiting.channel:
                    # A durable domain event has not come by the broker; from here on it is known like one that has.
                    await inbox.first_time(waiting.consumer, waiting.source, waiting.event_id)
                await self.call(listener, emission, tx, attempt, replayed, waiting.channel)
            return "handled"
        except Exception as error:
            if self.rules.is_infrastructure(error):
                raise
            return await self._failed_again(listener, emission.envelope, waiting, error)

    async def mark_started(self, listener: Listener, envelope: Envelope) -> int:
        """Remember, committed, that handling begins; how often it was begun without an outcome, this time too."""
        async with self.rules.transaction() as tx:
            consumer = consumer_name(self.rules.name, listener)
            return await self.rules.inbox(tx).mark_started(consumer, envelope.source, envelope.id)

    async def unmark_started(self, listener: Listener, envelope: Envelope) -> None:
        async with self.rules.transaction() as tx:
            consumer = consumer_name(self.rules.name, listener)
            await self.rules.inbox(tx).unmark_started(consumer, envelope.source, envelope.id)

    async def crash_loop(
        self, listener: Listener, envelope: Envelope, waiting: WaitingDelivery | None, channel: str, times: int
    ) -> Outcome:
        """It killed the process too often: a dead letter, without running it again."""
        error = CrashLoopError(times)
        if listener.registration.effect is not None:
            delivery = waiting or _of(consumer_name(self.rules.name, listener), envelope, channel)
            async with self.rules.transaction() as tx:
                inbox = self.rules.inbox(tx)
                await inbox.end_effect(delivery.consumer, delivery.source, delivery.event_id)
                return await self._record(inbox, listener, envelope, replace(delivery, attempts=times), error)
        if waiting is not None:
            return await self._failed_again(listener, envelope, waiting, error)
        return await self._failed_first(listener, envelope, channel, error, attempts=times)

    async def _effect(
        self, listener: Listener, emission: Emission, delivery: WaitingDelivery, *, repeated: bool = False
    ) -> Outcome:
        """An effect outside the database: remembered before, done without a transaction, settled after."""
        envelope, attempt = emission.envelope, delivery.attempts + 1
        of = (delivery.consumer, delivery.source, delivery.event_id)
        known = delivery.position is not None
        at_most_once = isinstance(listener.registration.effect, AtMostOnce)
        replayed = False
        async with self.rules.transaction() as tx:
            inbox = self.rules.inbox(tx)
            if known:
                if not await inbox.lock(delivery):
                    return "duplicate"
                replayed = await inbox.remove_dead_letter(delivery)
            else:
                (found,) = await inbox.arrive(delivery.consumer, [envelope], idle_s=_idle_s(listener))
                if found.known and not await inbox.is_in_doubt(*of):
                    return "duplicate"
                if not found.known:
                    consumer, channel = delivery.consumer, delivery.channel
                    done = await self._in_its_turn(inbox, consumer, envelope, channel, found, repeated=repeated)
                    if done is not None:
                        return done
            state = await inbox.begin_effect(*of)
            if state == "in_doubt" and at_most_once:
                await inbox.end_effect(*of)
                why = "a process died while this effect was under way; it may have happened"
                return await self._leave_to_a_person(inbox, envelope, replace(delivery, attempts=attempt), why)
        try:
            await self.call(listener, emission, None, attempt, replayed, delivery.channel)
        except Exception as error:
            if self.rules.is_infrastructure(error):
                raise  # costs no attempt; the next try finds the effect in doubt
            failure, tried = error, replace(delivery, attempts=attempt)

            async def failed(inbox: Inbox) -> Outcome:
                await inbox.end_effect(*of)
                if at_most_once and not isinstance(failure, (EffectNotDoneError, Reject, RetryAfter)):
                    return await self._leave_to_a_person(inbox, envelope, tried, *_told(failure))
                return await self._record(inbox, listener, envelope, tried, failure)

            return await self._write_down(failed)

        async def happened(inbox: Inbox) -> Outcome:
            await inbox.end_effect(*of)
            if known:
                await inbox.claim(delivery, idle_s=_IDLE_BEYOND_S)
                await inbox.release_next(delivery)
            return "handled"

        return await self._write_down(happened)

    async def _write_down(self, outcome: Callable[[Inbox], Awaitable[Outcome]]) -> Outcome:
        """What an effect came to. It is over, so while the database is away the writing is repeated, and not the effect."""
        pause_s = _WRITE_AGAIN_FIRST_S
        while True:
            try:
                async with self.rules.transaction() as tx:
                    return await outcome(self.rules.inbox(tx))
            except Exception as error:
                if not self.rules.is_infrastructure(error):
                    raise
            await asyncio.sleep(pause_s * (0.8 + 0.4 * self.random()))
            pause_s = min(_WRITE_AGAIN_CAP_S, pause_s * 2)

    async def _leave_to_a_person(
        self, inbox: Inbox, envelope: Envelope, delivery: WaitingDelivery, why: str, stack: str | None = None
    ) -> Outcome:
        """An effect that may have happened and must not happen twice. Its key does not wait for it."""
        await inbox.remove(delivery)
        await inbox.release_next(delivery)
        failure = self._failure("uncertain", why, stack, delivery.attempts)
        await inbox.write_dead_letter(delivery, envelope.name, failure)
        log.error("dead: %s %s for %s: uncertain: %s", envelope.name, envelope.id, delivery.consumer, why)
        return "dead"

    async def refuse(self, consumer: str, envelope: Envelope | None, channel: str, raw: bytes, why: str) -> None:
        """What can never be handled, whatever the number of tries: a dead letter with its bytes."""
        async with self.rules.transaction() as tx:
            inbox = self.rules.inbox(tx)
            # Bytes that tell no id are known by themselves: delivered again, they are the same dead letter.
            event_id = envelope.id if envelope else sha256(channel.encode() + b"\0" + raw).hexdigest()[:32]
            source = envelope.source if envelope else ""
            if await inbox.first_time(consumer, source, event_id):
                name = envelope.name if envelope else "?"
                waiting = _waiting(consumer, source, event_id, envelope, channel, raw)
                await inbox.write_dead_letter(waiting, name, self._failure("undecodable", why, None, 1))

    async def refuse_replay(self, waiting: WaitingDelivery, name: str, why: str) -> bool:
        """A dead letter that is replayed and still does not fit its type: dead again. False if it is no replay."""
        async with self.rules.transaction() as tx:
            inbox = self.rules.inbox(tx)
            if not await inbox.lock(waiting) or not await inbox.remove_dead_letter(waiting):
                return False
            failure = self._failure("undecodable", why, None, waiting.attempts + 1)
            await inbox.write_dead_letter(waiting, name, failure)
            await inbox.remove(waiting)
            await inbox.release_next(waiting)
        return True

    async def _in_its_turn(
        self,
        inbox: Inbox,
        consumer: str,
        envelope: Envelope,
        channel: str,
        found: Arrival,
        *,
        repeated: bool = False,
    ) -> Outcome | None:
        """None if it is this event's turn among those of its key; otherwise what became of it."""
        decision = decide(
            id_known=found.known,
            key_seq=envelope.key_seq,
            incarnation=envelope.incarnation,
            position=found.position,
            age_s=(datetime.now(UTC) - envelope.occurred_on).total_seconds(),
            retention_s=self.retention_s,
            repeated=repeated,
        )
        if decision.do == "dead_letter":
            last = found.position.last_seq if found.position else "?"
            reason: Reason = "late"
            why = f"sequence {envelope.key_seq} of key {envelope.key!r} came after {last}"
            if decision.why == "too_old":
                reason = "too old to dedupe"
                why = "it was delivered before, longer ago than the inbox remembers, and may have been handled"
            waiting = _of(consumer, envelope, channel)
            await inbox.write_dead_letter(waiting, envelope.name, self._failure(reason, why, None, 0))
            log.error("dead: %s %s for %s: %s", envelope.name, envelope.id, consumer, why)
            return "dead"
        if decision.do == "acknowledge":
            return "duplicate"
        if decision.why == "new_incarnation":
            self._began_anew(consumer, envelope)
        if found.parked:
            await inbox.keep(_of(consumer, envelope, channel), delay_s=None, error=None)
            return "waiting"
        return None

    def _began_anew(self, consumer: str, envelope: Envelope) -> None:
        """Counted for each key; said once, however many keys there are."""
        self.count("began_anew", 1)
        beginning = (consumer, envelope.source, envelope.incarnation or "")
        if beginning not in self._anew:
            self._anew.add(beginning)
            log.warning(
                "%s: the database of %s was made anew or restored; the numbers of its keys start again",
                consumer, envelope.source,
            )  # fmt: skip

    async def _failed_first(
        self,
        listener: Listener,
        envelope: Envelope,
        channel: str,
        error: Exception,
        *,
        repeated: bool = False,
        attempts: int = 1,
    ) -> Outcome:
        consumer = consumer_name(self.rules.name, listener)
        async with self.rules.transaction() as tx:
            inbox = self.rules.inbox(tx)
            (found,) = await inbox.arrive(consumer, [envelope], idle_s=_idle_s(listener))
            done = await self._in_its_turn(inbox, consumer, envelope, channel, found, repeated=repeated)
            if done is not None:
                return done
            tried = replace(_of(consumer, envelope, channel), attempts=attempts)
            return await self._record(inbox, listener, envelope, tried, error)

    async def _failed_again(
        self, listener: Listener, envelope: Envelope, waiting: WaitingDelivery, error: Exception
    ) -> Outcome:
        async with self.rules.transaction() as tx:
            inbox = self.rules.inbox(tx)
            if not await inbox.lock(waiting):
                return "duplicate"  # somebody else finished it meanwhile
            tried = replace(waiting, attempts=waiting.attempts + 1)
            return await self._record(inbox, listener, envelope, tried, error)

    async def _record(
        self, inbox: Inbox, listener: Listener, envelope: Envelope, waiting: WaitingDelivery, error: Exception
    ) -> Outcome:
        retry = listener.registration.retry
        delay_s = retry.delay_s(waiting.attempts, error, random=self.random)
        text, stack = _told(error)
        name = f"{listener.name} failed on {envelope.name} {envelope.id}"
        place = f" · {found}" if (found := place_of(error)) else ""
        waits = "this event waits" if waiting.key is None else f"key {waiting.key} waits"
        if delay_s is not None:
            await inbox.keep(waiting, delay_s=delay_s, error=text)
            log.error(
                "%s (attempt %d of %d): %s%s · next try in %.1f s · only %s",
                name, waiting.attempts, retry.attempts, text, place, delay_s, waits,
                exc_info=error if waiting.attempts == 1 else None,
            )  # fmt: skip
            return "waiting"
        reason: Reason = "exhausted"
        if isinstance(error, Reject):
            reason = "crash loop" if isinstance(error, CrashLoopError) else "rejected"
        await inbox.write_dead_letter(waiting, envelope.name, self._failure(reason, text, stack, waiting.attempts))
        if waiting.key is None:
            await inbox.remove(waiting)
        else:
            # The key stays parked behind its head until a person replays or discards it.
            await inbox.keep(waiting, delay_s=None, error=text)
        log.error(
            "dead: %s (attempt %d of %d): %s%s · cauce dead list%s",
            name, waiting.attempts, retry.attempts, text, place, "" if waiting.key is None else f" · {waits}",
        )  # fmt: skip
        return "dead"

    def _failure(self, reason: Reason, error: str, stack: str | None, attempts: int) -> Failure:
        return Failure(
            reason=reason, error=error, stack=stack, attempts=attempts, worker=self.worker, version=self.version
        )


def _idle_s(listener: Listener) -> float:
    return listener.registration.limit_s + _IDLE_BEYOND_S


def _of(consumer: str, envelope: Envelope, channel: str) -> WaitingDelivery:
    return _waiting(consumer, envelope.source, envelope.id, envelope, channel, to_json(envelope))


def _waiting(
    consumer: str, source: str, event_id: str, envelope: Envelope | None, channel: str, raw: bytes
) -> WaitingDelivery:
    return WaitingDelivery(
        position=None,
        consumer=consumer,
        source=source,
        event_id=event_id,
        lane=lane_of(envelope) if envelope is not None else Lane(0),
        key=envelope.key if envelope is not None else None,
        channel=channel,
        message=raw,
        attempts=0,
        first_failed_at=None,
    )


def _told(error: Exception) -> tuple[str, str]:
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return text, "".join(traceback.format_tb(error.__traceback__))[-8000:]
