"""The records of what failed: a retry, a parked key or a dead letter. Crash loops too."""

import logging
from collections.abc import Callable
from hashlib import sha256
from random import random
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from cauce.delivery.inbox.transactions import InboxTransactions
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import to_json
from cauce.listeners.listener import Listener
from cauce.listeners.retry import Reject, decisive_error
from cauce.ports.inbox import Failure, Inbox, Reason, WaitingDelivery, bounded
from cauce.ports.lanes import Lane, lane_of
from cauce.telemetry.causes import find_error
from cauce.telemetry.log_text import place_of
from cauce.telemetry.storable import describe_error, loggable, stack_of

__all__ = ["CrashLoopError", "Failures", "Outcome", "delivery_of", "delivery_of_bytes"]

log = logging.getLogger("cauce.applying")

Outcome = Literal["handled", "duplicate", "waiting", "dead", "not_due"]
"""`not_due`: the waiting delivery is not there as it was read, so nothing was done; it is counted where it is settled."""


class CrashLoopError(Reject):
    """Whenever this event was handled, the process died, or was blocked until its outcome was unknown."""

    def __init__(self, times: int) -> None:
        super().__init__(
            f"the process died, or did nothing else for longer than the database allows, {times} times while this was "
            "handled, the last times with no other delivery in progress"
        )


class Failures(Struct, frozen=True, kw_only=True):
    """Records failures. `worker` and `version` name this process and its code in dead letters."""

    transactions: InboxTransactions
    worker: str
    version: str | None
    random: Callable[[], float] = random

    async def record(
        self, inbox: Inbox, listener: Listener, envelope: Envelope, delivery: WaitingDelivery, error: Exception
    ) -> Outcome:
        """Record a failed attempt: a retry while the listener's policy allows one, then a dead letter.

        `delivery.attempts` counts this one. Either way, later events of its key wait.
        """
        retry = listener.registration.retry
        delay_s = retry.delay_s(delivery.attempts, error, random=self.random)
        cause = decisive_error(error)
        text = describe_error(cause)
        where = place_of(cause) or None
        place = f" · {where}" if where else ""
        failed = (
            f"{listener.name} failed on {envelope.name} {envelope.id} "
            f"(attempt {delivery.attempts} of {retry.attempts}): {text}{place}"
        )
        if delay_s is not None:
            await inbox.keep(delivery, delay_s=delay_s, error=text, place=where)
            waits = "this event waits" if delivery.key is None else f"key {delivery.key} waits"
            first = delivery.attempts == 1
            log.error(
                "%s · next try in %.1f s · only %s", failed, delay_s, waits, exc_info=loggable(error) if first else None
            )
            return "waiting"
        await self.write_dead_letter(inbox, delivery, envelope.name, _reason(error), text, stack_of(cause))
        if delivery.key is None:
            await inbox.remove(delivery)
        else:
            # The key stays parked behind its head until an operator replays or discards it.
            await inbox.keep(delivery, delay_s=None, error=text, place=where)
        waits = "" if delivery.key is None else f" · key {delivery.key} waits"
        log.error("dead: %s · cauce dead list%s", failed, waits)
        return "dead"

    async def record_again(
        self, listener: Listener, envelope: Envelope, waiting: WaitingDelivery, error: Exception
    ) -> Outcome:
        """Record that a delivery from the waiting room failed, in a transaction of its own."""
        async with self.transactions.begin() as (_, inbox):
            if not await inbox.lock(waiting):
                return "not_due"  # another process finished it meanwhile
            tried = replace(waiting, attempts=waiting.attempts + 1)
            return await self.record(inbox, listener, envelope, tried, error)

    async def record_uncertain(
        self, inbox: Inbox, envelope: Envelope, delivery: WaitingDelivery, why: str, stack: str | None = None
    ) -> Outcome:
        """Leave to an operator an effect that may have happened and must not happen twice. Its key does not wait."""
        await inbox.remove(delivery)
        await inbox.release_next(delivery)
        await self.write_dead_letter(inbox, delivery, envelope.name, "uncertain", why, stack)
        log.error("dead: %s %s for %s: uncertain: %s", envelope.name, envelope.id, delivery.consumer, why)
        return "dead"

    async def mark_started(self, listener: Listener, envelope: Envelope) -> int:
        """Commit that handling begins; return how often it began without an outcome, this time included."""
        async with self.transactions.begin() as (_, inbox):
            consumer = self.transactions.consumer_name(listener)
            return await inbox.mark_started(consumer, envelope.source, envelope.id)

    async def unmark_started(self, listener: Listener, envelope: Envelope) -> None:
        """Clear the started mark: handling reached an outcome."""
        async with self.transactions.begin() as (_, inbox):
            consumer = self.transactions.consumer_name(listener)
            await inbox.unmark_started(consumer, envelope.source, envelope.id)

    async def write_dead_letter(
        self, inbox: Inbox, delivery: WaitingDelivery, name: str, reason: Reason, why: str, stack: str | None = None
    ) -> None:
        """Write a dead letter that names this process and its code. `delivery.attempts` counts all attempts."""
        failure = Failure(
            reason=reason,
            error=why,
            stack=stack,
            attempts=delivery.attempts,
            worker=self.worker,
            version=self.version,
        )
        await inbox.write_dead_letter(delivery, name, failure)


def delivery_of(consumer: str, envelope: Envelope, channel: str) -> WaitingDelivery:
    """A delivery from the broker as the waiting room would keep it; no attempt has been made."""
    return WaitingDelivery(
        position=None,
        consumer=consumer,
        source=envelope.source,
        event_id=envelope.id,
        lane=lane_of(envelope),
        key=envelope.key,
        channel=channel,
        message=to_json(envelope),
        attempts=0,
        first_failed_at=None,
        name=envelope.name,
    )


def delivery_of_bytes(consumer: str, channel: str, lane: Lane, raw: bytes) -> WaitingDelivery:
    """An entry of the broker that is no event, as its dead letter keeps it. Bytes without an id are known by their hash:
    delivered again, they are the same dead letter."""
    message, whole = bounded(raw)
    return WaitingDelivery(
        position=None,
        consumer=consumer,
        source="",
        event_id=sha256(channel.encode(errors="backslashreplace") + b"\0" + raw).hexdigest()[:32],
        lane=lane,
        key=None,
        channel=channel,
        message=message,
        attempts=1,
        first_failed_at=None,
        whole=whole,
    )


def _reason(error: Exception) -> Reason:
    if isinstance(error, CrashLoopError):
        return "crash loop"
    return "rejected" if find_error(error, Reject) is not None else "exhausted"
