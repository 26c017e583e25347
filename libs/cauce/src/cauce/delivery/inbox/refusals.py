"""What no listener can be given, put aside in its place: the refusal of an event is a job in its key's queue.

An undecodable event is a dead letter that holds its key, as one that failed for good does: the later ones wait until it
was replayed (by a class that reads it) or discarded. One of a newer version than the code's waits, and is looked at again
by every process that takes its lane over. Whatever has no true place among the events of a key (no event at all, or one
of a service that has no business saying it) is a dead letter without a key, and holds nobody.

What is written is little, and nothing of it comes from the event's own text: recording a refusal must not fail where
handling did.
"""

import logging

from msgspec import Struct
from msgspec.structs import replace

from cauce.delivery.inbox.failures import Failures, Outcome, delivery_of, delivery_of_bytes
from cauce.delivery.inbox.ordering import Ordering
from cauce.delivery.inbox.reading import Refusal
from cauce.delivery.inbox.transactions import IDLE_BEYOND_S, InboxTransactions
from cauce.events.envelope import Envelope
from cauce.ports.inbox import Inbox, WaitingDelivery
from cauce.ports.lanes import Lane
from cauce.telemetry.log_text import one_line

__all__ = ["Refusals"]

log = logging.getLogger("cauce.applying")


class Refusals(Struct, frozen=True, kw_only=True):
    """Records refusals. `newer_s`: how long a delivery of a newer version waits for the code that reads it."""

    transactions: InboxTransactions
    ordering: Ordering
    failures: Failures
    newer_s: float

    async def first(
        self,
        consumer: str,
        envelope: Envelope,
        refusal: Refusal,
        channel: str,
        raw: bytes,
        *,
        repeated_s: float | None = None,
    ) -> Outcome:
        """Refuse an event from the broker, for one listener; `raw` is what is kept. Raises only infrastructure errors."""
        delivery = replace(delivery_of(consumer, envelope, channel), message=raw, attempts=1)
        async with self.transactions.begin() as (_, inbox):
            if refusal.reason == "wrong source":
                return await self._without_a_place(inbox, delivery, envelope, refusal)
            (found,) = await inbox.arrive(consumer, [envelope], idle_s=IDLE_BEYOND_S)
            # An effect that an earlier process left in doubt stays so, until a replay can say what to do about it.
            in_doubt = found.known and await inbox.is_in_doubt(consumer, envelope.source, envelope.id)
            if not in_doubt:
                done = await self.ordering.in_turn(inbox, consumer, envelope, channel, found, repeated_s=repeated_s)
                if done is not None:
                    return done
            return await self._record(inbox, delivery, envelope, refusal)

    async def again(self, waiting: WaitingDelivery, envelope: Envelope | None, refusal: Refusal) -> Outcome:
        """Refuse a delivery from the waiting room. Raises only infrastructure errors."""
        async with self.transactions.begin() as (_, inbox):
            if not await inbox.lock(waiting):
                return "not_due"  # another process finished it meanwhile
            return await self._record(inbox, replace(waiting, attempts=waiting.attempts + 1), envelope, refusal)

    async def no_event(self, kept: WaitingDelivery, refusal: Refusal) -> Outcome:
        """Keep the bytes of an entry that is no event of its topic. Raises only infrastructure errors."""
        async with self.transactions.begin() as (_, inbox):
            if not await inbox.first_time(kept.consumer, kept.source, kept.event_id):
                return "duplicate"
            await self.failures.write_dead_letter(inbox, kept, "?", refusal.reason, refusal.why)
        size = len(kept.message) if kept.whole is None else kept.whole.size
        log.error(
            "%s", one_line(f"dead: {kept.channel} · {refusal.why} · raw bytes kept ({len(kept.message)} of {size})")
        )
        return "dead"

    async def plainly(self, consumer: str, message: bytes, trouble: Exception) -> Outcome:
        """Keep the bytes where the refusal itself could not be recorded: without key, name and words of others."""
        return await self.no_event(delivery_of_bytes(consumer, "?", Lane(0), message), _plain(trouble))

    async def again_plainly(self, waiting: WaitingDelivery, trouble: Exception) -> Outcome:
        """The same for a delivery from the waiting room, which holds its key all the same."""
        return await self.again(waiting, None, _plain(trouble))

    async def _without_a_place(
        self, inbox: Inbox, delivery: WaitingDelivery, envelope: Envelope, refusal: Refusal
    ) -> Outcome:
        """No position is moved and no key held: the event is not one of those that its key's numbers count."""
        if not await inbox.first_time(delivery.consumer, delivery.source, delivery.event_id):
            return "duplicate"
        await self._write(inbox, replace(delivery, key=None), envelope, refusal)
        return "dead"

    async def _record(
        self, inbox: Inbox, tried: WaitingDelivery, envelope: Envelope | None, refusal: Refusal
    ) -> Outcome:
        """`tried.attempts` counts this refusal, which is no attempt for one that waits for a newer version."""
        if refusal.reason == "newer version" and (waited_s := await inbox.waited_s(tried)) < self.newer_s:
            untried = replace(tried, attempts=tried.attempts - 1)
            await inbox.postpone(untried, until_s=self.newer_s, reason=refusal.reason, error=refusal.why)
            if not waited_s:  # not when it is looked at once more
                log.warning("%s", _line("waits", tried, envelope, refusal))
            return "waiting"
        await self._write(inbox, tried, envelope, refusal)
        if tried.key is None or refusal.reason == "wrong source":
            await inbox.remove(tried)
            await inbox.release_next(tried)
        else:
            await inbox.keep(tried, delay_s=None, error=refusal.why)
        return "dead"

    async def _write(
        self, inbox: Inbox, delivery: WaitingDelivery, envelope: Envelope | None, refusal: Refusal
    ) -> None:
        name = "?" if envelope is None else envelope.name
        await self.failures.write_dead_letter(inbox, delivery, name, refusal.reason, refusal.why)
        log.error("%s", _line("dead", delivery, envelope, refusal))


def _line(what: str, delivery: WaitingDelivery, envelope: Envelope | None, refusal: Refusal) -> str:
    name = "?" if envelope is None else envelope.name
    version = f" {envelope.source_version}" if envelope is not None and envelope.source_version else ""
    waits = "" if delivery.key is None else f" · key {delivery.key} waits"
    dead = " · cauce dead list" if what == "dead" else ""
    return one_line(
        f"{what}: {name} {delivery.event_id} for {delivery.consumer} · {refusal.reason}: {refusal.why} · from "
        f"{delivery.source}{version}{dead}{waits}"
    )


def _plain(trouble: Exception) -> Refusal:
    return Refusal("undecodable", f"its refusal could not be recorded ({ascii(type(trouble).__name__)[1:-1]})")
