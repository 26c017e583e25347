"""Deliveries on their way through the workers: to listeners, or to be refused."""

from collections.abc import Awaitable, Callable, Hashable, Sequence

from msgspec import Struct

from cauce.delivery.inbox.failures import Outcome
from cauce.delivery.inbox.reading import Refusal
from cauce.events.envelope import Emission, Envelope
from cauce.listeners.listener import Listener
from cauce.ports.inbox import Inbox, WaitingDelivery
from cauce.ports.lanes import Lane
from cauce.ports.transport import Delivery

__all__ = ["Job", "RefusedJob", "queue_of"]


class Job(Struct, kw_only=True, eq=False):
    """A delivery and its listeners. From the broker it has a `delivery`, from the waiting room a `waiting`."""

    emission: Emission
    listeners: Sequence[Listener]
    """Those that are still to be called."""
    lane: Lane
    tenure: int | None
    """The epoch of its lane under which it was found. Under another epoch it is found again, in its place."""
    suspect: bool
    """It may have ended a process: it runs alone, and its start is recorded first."""
    delivery: Delivery | None = None
    waiting: WaitingDelivery | None = None
    left: Callable[[], None] | None = None
    """Called when the workers are done with it, settled or not."""

    troubled: bool = False
    """It met trouble with the database before, and waits for that here or in the waiting room."""
    unsettled: Callable[[Inbox], Awaitable[Outcome]] | None = None
    """What is left to commit of an effect that is over, for the first of its listeners."""

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
    """By which names the inbox knows those for whom it is still to be refused."""
    queue: Hashable
    """Whom it must not overtake: source and key, or what stands for itself."""
    lane: Lane
    tenure: int | None
    delivery: Delivery | None = None
    """Its bytes are in `kept`, if it is no event."""
    kept: WaitingDelivery | None = None
    waiting: WaitingDelivery | None = None
    troubled: bool = False
    left: Callable[[], None] | None = None


def queue_of(envelope: Envelope) -> Hashable:
    """The key of the event's queue: whatever has the same is settled one after the other."""
    return (envelope.source, envelope.key if envelope.key is not None else envelope.id)
