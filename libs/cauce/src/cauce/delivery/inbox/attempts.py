"""Apply deliveries to a listener: inbox row, listener and the events it publishes commit together.

Every delivery ends as one of four outcomes, committed before the broker learns of it: handled, a duplicate, waiting (a
retry, or behind its key), or a dead letter. A waiting delivery that was settled elsewhere since it was read is
`not_due`. An infrastructure error is none of these: it costs no attempt, and the delivery is tried again once the
infrastructure is back.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from cauce.delivery.inbox.failures import CrashLoopError, Outcome, delivery_of
from cauce.delivery.inbox.handling import Handling
from cauce.delivery.inbox.transactions import ListenerCall, idle_limit_s, origin_of
from cauce.events.envelope import Emission, Envelope
from cauce.listeners.listener import Listener
from cauce.ports.inbox import WaitingDelivery

__all__ = ["Attempts"]


class Attempts(Handling, frozen=True, kw_only=True):
    """Applies deliveries to listeners whose whole effect is in the database."""

    async def first(
        self, listener: Listener, emission: Emission, channel: str, *, repeated_s: float | None = None
    ) -> Outcome:
        """Handle a delivery from the broker; `repeated_s`: it delivered it before, and has had it so long.

        Raises only infrastructure errors; then nothing is recorded. OutlastedError if the listener brought it about.
        """
        envelope, call = emission.envelope, ListenerCall(listener)
        delivery = delivery_of(self.transactions.consumer_name(listener), envelope, channel)
        try:
            async with self.transactions.begin() as (tx, inbox):
                done = await self._arrived(inbox, listener, envelope, delivery, repeated_s=repeated_s)
                if done is None:
                    with call:
                        await self.call(listener, emission, tx, 1, False, channel)
            return done or "handled"
        except Exception as error:
            if self.transactions.is_infrastructure(error):
                call.judge(error)
                raise
            return await self._failed_first(listener, envelope, channel, origin_of(error), repeated_s=repeated_s)

    async def together(
        self, listener: Listener, deliveries: Sequence[tuple[Emission, str]]
    ) -> Sequence[Outcome] | None:
        """Handle deliveries of different keys, with their channels, in one transaction.

        None if one of them failed: nothing is recorded then, and each is to be handled alone. Raises only
        infrastructure errors; then nothing is recorded either.
        """
        consumer, call = self.transactions.consumer_name(listener), ListenerCall(listener)
        outcomes: list[Outcome] = []
        try:
            async with self.transactions.begin() as (tx, inbox):
                arrivals = await inbox.arrive(
                    consumer, [emission.envelope for emission, _ in deliveries], idle_s=idle_limit_s(listener)
                )
                for (emission, channel), found in zip(deliveries, arrivals, strict=True):
                    done = await self.ordering.in_turn(inbox, consumer, emission.envelope, channel, found)
                    if done is None:
                        with call:
                            await self.call(listener, emission, tx, 1, False, channel)
                    outcomes.append(done or "handled")
        except Exception as error:
            if self.transactions.is_infrastructure(error):
                raise
            return None
        return outcomes

    async def again(self, listener: Listener, emission: Emission, waiting: WaitingDelivery) -> Outcome:
        """Handle a delivery from the waiting room, whose row is the token. Raises as `first` does."""
        call = ListenerCall(listener)
        try:
            async with self.transactions.begin() as (tx, inbox):
                if not await inbox.claim(waiting, idle_s=idle_limit_s(listener)):
                    return "not_due"
                replayed = await inbox.remove_dead_letter(waiting)
                if replayed:
                    await inbox.move(waiting.consumer, emission.envelope)  # its number was impossible, and is none now
                await inbox.release_next(waiting)
                if not waiting.channel:
                    # A durable domain event did not come from the broker; from here on the inbox knows it all the same.
                    await inbox.first_time(waiting.consumer, waiting.source, waiting.event_id)
                with call:
                    await self.call(listener, emission, tx, waiting.attempts + 1, replayed, waiting.channel)
            return "handled"
        except Exception as error:
            if self.transactions.is_infrastructure(error):
                call.judge(error)
                raise
            return await self.failures.record_again(listener, emission.envelope, waiting, origin_of(error))

    async def crash_loop(
        self, listener: Listener, envelope: Envelope, waiting: WaitingDelivery | None, channel: str, times: int
    ) -> Outcome:
        """Write a dead letter without calling the listener: handling ended the process `times` times."""
        error = CrashLoopError(times)
        if waiting is not None:
            return await self.failures.record_again(listener, envelope, waiting, error)
        return await self._failed_first(listener, envelope, channel, error, attempts=times)

    async def _failed_first(
        self,
        listener: Listener,
        envelope: Envelope,
        channel: str,
        error: Exception,
        *,
        repeated_s: float | None = None,
        attempts: int = 1,
    ) -> Outcome:
        """Record the failure in a new transaction, in which the event arrives once more."""
        consumer = self.transactions.consumer_name(listener)
        async with self.transactions.begin() as (_, inbox):
            (found,) = await inbox.arrive(consumer, [envelope], idle_s=idle_limit_s(listener))
            # An attempt that was made is recorded, even if the listener was paused meanwhile.
            found = replace(found, paused=False)
            done = await self.ordering.in_turn(inbox, consumer, envelope, channel, found, repeated_s=repeated_s)
            if done is not None:
                return done
            tried = replace(delivery_of(consumer, envelope, channel), attempts=attempts)
            return await self.failures.record(inbox, listener, envelope, tried, error)
