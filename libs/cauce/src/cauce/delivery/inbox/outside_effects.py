"""An effect outside the database: noted as begun, done without a transaction, then settled.

A process that dies in between leaves the effect in doubt. `AtLeastOnce` does it again; `AtMostOnce` leaves it to an
operator.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from msgspec.structs import replace

from cauce.delivery.inbox.failures import CrashLoopError, Outcome, delivery_of
from cauce.delivery.inbox.handling import Handling
from cauce.delivery.inbox.transactions import ListenerCall, OutOfListenerError
from cauce.events.envelope import Emission, Envelope
from cauce.listeners.effects import AtMostOnce, EffectNotDoneError
from cauce.listeners.listener import Listener
from cauce.listeners.retry import Reject, RetryAfter, decisive_error
from cauce.listeners.threads import ThreadStillRunsError
from cauce.ports.inbox import Inbox, WaitingDelivery
from cauce.telemetry.causes import leaves
from cauce.telemetry.storable import describe_error, stack_of

__all__ = ["OutsideEffects", "UnsettledError"]


class UnsettledError(Exception):
    """An effect is over, and the database did not take its outcome (`error`): `outcome` is all that is left to do."""

    def __init__(self, error: Exception, outcome: Callable[[Inbox], Awaitable[Outcome]]) -> None:
        super().__init__(type(error).__name__)
        self.error = error
        self.outcome = outcome


class OutsideEffects(Handling, frozen=True, kw_only=True):
    """Applies deliveries to listeners with `effect=…`, through the same methods as Attempts."""

    async def first(
        self, listener: Listener, emission: Emission, channel: str, *, repeated_s: float | None = None
    ) -> Outcome:
        """Handle a delivery from the broker; `repeated_s`: it delivered it before, and has had it so long.

        Raises only infrastructure errors, and UnsettledError.
        """
        delivery = delivery_of(self.transactions.consumer_name(listener), emission.envelope, channel)
        return await self._attempt(listener, emission, delivery, repeated_s=repeated_s)

    async def again(self, listener: Listener, emission: Emission, waiting: WaitingDelivery) -> Outcome:
        """Handle a delivery from the waiting room. Raises as `first` does."""
        return await self._attempt(listener, emission, waiting)

    async def crash_loop(
        self, listener: Listener, envelope: Envelope, waiting: WaitingDelivery | None, channel: str, times: int
    ) -> Outcome:
        """Write a dead letter without doing the effect: handling ended the process `times` times."""
        delivery = waiting or delivery_of(self.transactions.consumer_name(listener), envelope, channel)
        async with self.transactions.begin() as (_, inbox):
            await inbox.end_effect(*_event_of(delivery))
            tried = replace(delivery, attempts=times)
            return await self.failures.record(inbox, listener, envelope, tried, CrashLoopError(times))

    async def _attempt(
        self, listener: Listener, emission: Emission, delivery: WaitingDelivery, *, repeated_s: float | None = None
    ) -> Outcome:
        envelope, tried = emission.envelope, replace(delivery, attempts=delivery.attempts + 1)
        replayed = False
        async with self.transactions.begin() as (_, inbox):
            if delivery.position is None:
                done = await self._arrived(inbox, listener, envelope, delivery, repeated_s=repeated_s)
            elif not await inbox.is_paused(delivery.consumer) and await inbox.lock(delivery):
                replayed = await inbox.remove_dead_letter(delivery)
                if replayed:
                    await inbox.move(delivery.consumer, envelope)
                done = None
            else:
                done = "not_due"
            if done is None:
                done = await self._begun(inbox, listener, envelope, tried)
            if done is not None:
                return done
        try:
            with ListenerCall(listener):
                await self.call(listener, emission, None, tried.attempts, replayed, delivery.channel)
        except OutOfListenerError as error:
            if self.transactions.is_infrastructure(error) and not _at_most_once(listener):
                raise  # costs no attempt; the next one finds the effect in doubt
            return await self.settle(partial(self._failed, listener, envelope, tried, error.error))
        return await self.settle(partial(self._happened, delivery))

    async def _arrived_again(self, inbox: Inbox, delivery: WaitingDelivery) -> Outcome | None:
        """None if an earlier attempt left the effect in doubt: it is to be settled now."""
        if not await inbox.is_in_doubt(*_event_of(delivery)):
            return "duplicate"
        if not await inbox.is_paused(delivery.consumer):
            return None
        await inbox.keep(delivery, delay_s=None, error=None)
        return "waiting"

    async def _begun(
        self, inbox: Inbox, listener: Listener, envelope: Envelope, tried: WaitingDelivery
    ) -> Outcome | None:
        """Note that the effect begins; "dead" if it may have happened already and must not happen twice."""
        state = await inbox.begin_effect(*_event_of(tried))
        if state == "first" or not _at_most_once(listener):
            return None
        await inbox.end_effect(*_event_of(tried))
        why = "a process died, or lost its database, before it had noted how this effect ended; it may have happened"
        return await self.failures.record_uncertain(inbox, envelope, tried, why)

    async def settle(self, outcome: Callable[[Inbox], Awaitable[Outcome]]) -> Outcome:
        """Commit the outcome of an effect. UnsettledError while the database does not take it: only this is repeated."""
        try:
            async with self.transactions.begin() as (_, inbox):
                return await outcome(inbox)
        except Exception as error:
            if not self.transactions.is_infrastructure(error):
                raise
            raise UnsettledError(error, outcome) from error

    async def _nothing_happened(self, inbox: Inbox, listener: Listener, delivery: WaitingDelivery) -> None:
        if not _at_most_once(listener):
            await inbox.end_effect(*_event_of(delivery))

    async def _failed(
        self, listener: Listener, envelope: Envelope, tried: WaitingDelivery, error: Exception, inbox: Inbox
    ) -> Outcome:
        await inbox.end_effect(*_event_of(tried))
        if _at_most_once(listener) and not _surely_not_done(error):
            cause = decisive_error(error)
            return await self.failures.record_uncertain(inbox, envelope, tried, describe_error(cause), stack_of(cause))
        return await self.failures.record(inbox, listener, envelope, tried, error)

    async def _happened(self, delivery: WaitingDelivery, inbox: Inbox) -> Outcome:
        await inbox.end_effect(*_event_of(delivery))
        if delivery.position is not None:
            await inbox.remove(delivery)  # also if an operator has changed the row, or paused the listener, meanwhile
            await inbox.release_next(delivery)
        return "handled"


def _at_most_once(listener: Listener) -> bool:
    return isinstance(listener.registration.effect, AtMostOnce)


def _surely_not_done(error: Exception) -> bool:
    """Whether every error says so: one of a group that does not leaves the effect in doubt."""
    known = (EffectNotDoneError, Reject, RetryAfter, ThreadStillRunsError)
    return all(isinstance(one, known) for one in leaves(error))


def _event_of(delivery: WaitingDelivery) -> tuple[str, str, str]:
    return delivery.consumer, delivery.source, delivery.event_id
