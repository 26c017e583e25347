"""What both ways to handle a delivery share: a delivery that met trouble with our database is given back, or charged."""

from msgspec import Struct
from msgspec.structs import replace

from cauce.delivery.inbox.failures import Failures, Outcome
from cauce.delivery.inbox.ordering import Ordering
from cauce.delivery.inbox.transactions import CallListener, InboxTransactions, idle_limit_s, origin_of
from cauce.events.envelope import Envelope
from cauce.listeners.listener import Listener
from cauce.ports.inbox import Inbox, WaitingDelivery

__all__ = ["Handling"]


class Handling(Struct, frozen=True, kw_only=True):
    """Handles deliveries: Attempts where the whole effect is in the database, OutsideEffects elsewhere."""

    transactions: InboxTransactions
    ordering: Ordering
    failures: Failures
    call: CallListener

    async def give_back(
        self, listener: Listener, envelope: Envelope, delivery: WaitingDelivery, delay_s: float, cause: str
    ) -> Outcome:
        """Let a delivery that met trouble with the database wait there, with its attempts as they were."""
        async with self.transactions.begin() as (_, inbox):
            done = await self._settled_already(inbox, listener, envelope, delivery)
            if done is None:
                await self._nothing_happened(inbox, listener, delivery)
                await inbox.give_back(delivery, delay_s=delay_s, cause=cause)
            return done or "waiting"

    async def charge(
        self, listener: Listener, envelope: Envelope, delivery: WaitingDelivery, error: Exception
    ) -> Outcome:
        """Record trouble with the database as a failed attempt after all."""
        async with self.transactions.begin() as (_, inbox):
            done = await self._settled_already(inbox, listener, envelope, delivery)
            if done is not None:
                return done
            await self._nothing_happened(inbox, listener, delivery)
            tried = replace(delivery, attempts=delivery.attempts + 1)
            return await self.failures.record(inbox, listener, envelope, tried, origin_of(error))

    async def _settled_already(
        self, inbox: Inbox, listener: Listener, envelope: Envelope, delivery: WaitingDelivery
    ) -> Outcome | None:
        """What has become of it meanwhile, by a commit whose outcome was unknown or another process; None if nothing."""
        if delivery.position is not None:
            return None if await inbox.lock(delivery) else "not_due"
        return await self._arrived(inbox, listener, envelope, delivery, repeated_s=None)

    async def _arrived(
        self,
        inbox: Inbox,
        listener: Listener,
        envelope: Envelope,
        delivery: WaitingDelivery,
        *,
        repeated_s: float | None,
    ) -> Outcome | None:
        """Let a delivery from the broker arrive; None if it is to be handled now."""
        (found,) = await inbox.arrive(delivery.consumer, [envelope], idle_s=idle_limit_s(listener))
        if found.known:
            return await self._arrived_again(inbox, delivery)
        consumer, channel = delivery.consumer, delivery.channel
        return await self.ordering.in_turn(inbox, consumer, envelope, channel, found, repeated_s=repeated_s)

    async def _arrived_again(self, inbox: Inbox, delivery: WaitingDelivery) -> Outcome | None:
        """What becomes of an event that the inbox knows; None if it is to be handled all the same."""
        return "duplicate"

    async def _nothing_happened(self, inbox: Inbox, listener: Listener, delivery: WaitingDelivery) -> None:
        """Note that the attempt has left no effect, where that is known."""
