"""Whether it is an event's turn among those of its key: the decision table, applied."""

import logging
import time
from collections.abc import Callable

from msgspec import Struct, field

from cauce.delivery.inbox.decision_table import Decision, decide
from cauce.delivery.inbox.failures import Failures, Outcome, delivery_of
from cauce.events.envelope import Envelope
from cauce.ports.inbox import Arrival, Inbox, Position, Reason
from cauce.telemetry.once_a_while import OnceAWhile

__all__ = ["Ordering"]

log = logging.getLogger("cauce.applying")


class Ordering(Struct, frozen=True, kw_only=True):
    """Applies the decision table. `retention_s`: how long the inbox remembers ids."""

    failures: Failures
    retention_s: float
    count: Callable[[str, int], None]
    _restarts: OnceAWhile = field(default_factory=OnceAWhile)

    async def in_turn(
        self,
        inbox: Inbox,
        consumer: str,
        envelope: Envelope,
        channel: str,
        found: Arrival,
        *,
        repeated_s: float | None = None,
    ) -> Outcome | None:
        """None if the event is to be handled now; otherwise its outcome, recorded in `inbox`.

        `found`: what the inbox knew when the event arrived. `repeated_s`: the broker delivered it before, and has had
        it so long.
        """
        decision = decide(
            id_known=found.known,
            key_seq=envelope.key_seq,
            incarnation=envelope.incarnation,
            position=found.position,
            age_s=_age_s(envelope, found.position),
            retention_s=self.retention_s,
            repeated_s=repeated_s,
            elsewhere=found.elsewhere,
        )
        if decision.do == "dead_letter":
            await self._write_dead_letter(inbox, consumer, envelope, channel, _why(decision, envelope, found))
            return "dead"
        if decision.do == "acknowledge":
            return "duplicate"
        if decision.why == "new_incarnation":
            self._sequence_restarted(consumer, envelope)
        if found.parked or found.paused:
            await inbox.keep(delivery_of(consumer, envelope, channel), delay_s=None, error=None)
            return "waiting"
        return None

    async def _write_dead_letter(
        self, inbox: Inbox, consumer: str, envelope: Envelope, channel: str, because: tuple[Reason, str]
    ) -> None:
        reason, why = because
        delivery = delivery_of(consumer, envelope, channel)
        await self.failures.write_dead_letter(inbox, delivery, envelope.name, reason, why)
        log.error("dead: %s %s for %s: %s", envelope.name, envelope.id, consumer, why)

    def _sequence_restarted(self, consumer: str, envelope: Envelope) -> None:
        """Count every key; log each restart once, however many keys it has, and one a minute of a flood of forged ones."""
        self.count("began_anew", 1)
        subject = (consumer, envelope.source)
        others = self._restarts.due(subject, envelope.incarnation or "", now=time.monotonic())
        if others is not None:
            log.warning(
                "%s: the database of %s was made anew or restored; the numbers of its keys start again%s",
                consumer, envelope.source,
                f" (and {others:,} more changes since the last such line: does a stranger write to its topic?)" if others else "",
            )  # fmt: skip


def _age_s(envelope: Envelope, last: Position | None) -> float:
    """How old it is at least, if it is an earlier event of its key: it was published before the last one, by so much on
    their publisher's clock, and that one was handled so long ago on ours. Whether the two clocks agree does not matter."""
    published_at = envelope.occurred_on.timestamp()
    if last is None or last.occurred_at is None:
        return time.time() - published_at
    return max(0.0, last.occurred_at - published_at) + last.since_s


def _why(decision: Decision, envelope: Envelope, found: Arrival) -> tuple[Reason, str]:
    if decision.why == "too_old":
        why = "it was delivered before, longer ago than the inbox remembers, and may have been handled"
        return "too old to dedupe", why
    if decision.why == "impossible":
        known = max(found.position.last_seq if found.position else 0, found.elsewhere)
        why = (
            f"number {envelope.key_seq} of key {envelope.key!r}, of which {known or 'none'} is the last known here; "
            "nothing was moved. If its publisher did say it: cauce dead replay, and the later ones follow"
        )
        return "impossible number", why
    last = found.position.last_seq if found.position else "?"
    return "late", f"sequence {envelope.key_seq} of key {envelope.key!r} came after {last}"
