"""The inbox and what waits in it: the rows that cross the port, and what a listener's own transaction does with them."""

from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Literal, Protocol

from msgspec import Struct

from cauce.events.envelope import Envelope
from cauce.ports.lanes import Lane

__all__ = [
    "FURTHEST",
    "KEPT_BYTES",
    "Arrival",
    "Dead",
    "Failure",
    "Inbox",
    "Known",
    "Position",
    "Reason",
    "Refused",
    "Unhandled",
    "WaitingDelivery",
    "WaitingRoom",
    "Whole",
    "bounded",
    "letter_id",
    "letter_id_of",
    "sequence_of",
]


class Position(Struct, frozen=True):
    """The last event of one key that a listener has handled."""

    last_seq: int
    incarnation: str
    occurred_at: float | None = None
    """Its `occurred_on` in seconds since 1970, by its publisher's clock. None if an earlier version of Cauce handled it."""
    since_s: float = 0.0
    """How long ago it was handled, by the store's clock."""


FURTHEST = 1_000_000
"""How far a number may be above the last known of its key, or above zero: so many are never published or lost at once."""


def sequence_of(envelope: Envelope) -> int | None:
    """Its number among those of its key; None if it has none that could be compared."""
    return None if envelope.key is None or envelope.incarnation is None else envelope.key_seq


class Whole(Struct, frozen=True):
    """What is known of a message of which only the beginning is kept."""

    size: int
    sha256: str


class WaitingDelivery(Struct, frozen=True, kw_only=True):
    """A delivery that waits in this database for one listener: not yet tried, to be tried again, or behind its key."""

    position: int | None
    """In the waiting room; None if it is not there."""
    consumer: str
    source: str
    event_id: str
    lane: Lane
    key: str | None
    channel: str
    message: bytes
    attempts: int
    first_failed_at: float | None
    name: str | None = None
    """Of its event; None for a row that an earlier version of Cauce wrote."""
    whole: Whole | None = None
    """Of a message of which only the beginning is kept."""
    troubles: int = 0
    """How often it met trouble with this database while others were handled; none of it counted as an attempt."""


class Known(Struct, frozen=True, kw_only=True):
    """What the code of one process can handle: its listeners' consumer names, and the names of its event classes."""

    consumers: Collection[str]
    names: Collection[str]


class Unhandled(Struct, frozen=True, kw_only=True):
    """Waiting deliveries of one listener and one event, when one of the two is not in the code."""

    consumer: str
    name: str | None
    count: int


Refused = Literal["undecodable", "newer version", "wrong source"]
"""Why no listener is given a delivery."""

Reason = Literal[
    "exhausted",
    "rejected",
    "crash loop",
    "undecodable",
    "newer version",
    "wrong source",
    "late",
    "impossible number",
    "too old to dedupe",
    "uncertain",
]
"""Why a delivery is a dead letter: the word that is stored, shown and asked for."""

KEPT_BYTES = 256 * 1024
"""How much of a message a dead letter keeps: all that may be published, and the beginning of what is no event."""


class Failure(Struct, frozen=True, kw_only=True):
    """Why and when a delivery failed: fit to be stored and shown (no payload values beyond the error's own text)."""

    reason: Reason
    error: str
    stack: str | None
    attempts: int
    worker: str
    version: str | None
    """Of the code that failed."""


class Dead(Struct, frozen=True, kw_only=True):
    """A dead letter."""

    id: str
    consumer: str
    source: str
    event_id: str
    name: str
    lane: Lane
    key: str | None
    channel: str
    message: bytes
    reason: str
    error: str
    stack: str | None
    attempts: int
    first_at: float
    last_at: float
    worker: str
    whole: Whole | None = None


def bounded(message: bytes) -> tuple[bytes, Whole | None]:
    """As much of a message as a dead letter keeps; with its size and hash, if that is not all of it."""
    if len(message) <= KEPT_BYTES:
        return message, None
    return message[:KEPT_BYTES], Whole(len(message), sha256(message).hexdigest())


def letter_id(delivery: WaitingDelivery) -> str:
    """The id of its dead letter: 32 hexadecimal digits, always the same; whoever has noted it finds it again."""
    return letter_id_of(delivery.consumer, delivery.source, delivery.event_id)


def letter_id_of(consumer: str, source: str, event_id: str) -> str:
    """The same, of a row that was read in part."""
    return sha256("\0".join((consumer, source, event_id)).encode()).hexdigest()[:32]


class Arrival(Struct, frozen=True):
    """What was known when an event arrived for a listener."""

    known: bool
    position: Position | None = None
    """The last event of its key that this listener had handled before."""
    parked: bool = False
    """Events of its key wait already, so it must wait behind them."""
    elsewhere: int = 0
    """The last number of its key that another listener of this service has handled, where that was asked for: for a
    number that is impossible by `position` alone."""
    paused: bool = False
    """An operator has paused the listener, so it must wait."""


class Inbox(Protocol):
    """The user's side for one listener, on the listener's own transaction."""

    async def arrive(self, consumer: str, envelopes: Sequence[Envelope], *, idle_s: float) -> Sequence[Arrival]:
        """Remember events of different keys, each as the last one of its key unless a later one is; what was known.

        One whose number is more than FURTHEST above all that is known of its key here does not move the position.

        A second copy of one waits here until the first one's outcome is known. Not for ever: after some seconds the
        database says that the lock was not to be had. And a process that is frozen keeps it for `idle_s` of doing
        nothing at most; then the database ends its transaction.
        """
        ...

    async def move(self, consumer: str, envelope: Envelope) -> None:
        """Remember the event as the last one of its key unless a later one is, however far above the last it is."""
        ...

    async def first_time(self, consumer: str, source: str, event_id: str) -> bool:
        """Remember the event; False if it was known. A second copy waits here until the first one's outcome is known."""
        ...

    async def mark_started(self, consumer: str, source: str, event_id: str) -> int:
        """Remember that handling is about to begin; how often that was remembered without an outcome, this time too."""
        ...

    async def unmark_started(self, consumer: str, source: str, event_id: str) -> None:
        """Clear the started mark: handling reached an outcome."""
        ...

    async def begin_effect(self, consumer: str, source: str, event_id: str) -> Literal["first", "in_doubt"]:
        """Note that an effect is about to happen. `in_doubt`: one was begun before, and nobody knows how it ended."""
        ...

    async def is_in_doubt(self, consumer: str, source: str, event_id: str) -> bool:
        """Whether an effect was begun, and nobody knows how it ended."""
        ...

    async def end_effect(self, consumer: str, source: str, event_id: str) -> None:
        """Record that the effect's outcome is known."""
        ...

    async def keep(
        self, delivery: WaitingDelivery, *, delay_s: float | None, error: str | None, place: str | None = None
    ) -> None:
        """Put a delivery into the waiting room, due after `delay_s` (None: when those before it are gone).

        `place`: where in the code `error` was raised.
        """
        ...

    async def postpone(self, delivery: WaitingDelivery, *, until_s: float, reason: Refused, error: str) -> None:
        """Put a delivery into the waiting room without an attempt: due `until_s` after it first was there, or when
        `look_again` is called for its lane."""
        ...

    async def waited_s(self, delivery: WaitingDelivery) -> float:
        """For how long it has been in the waiting room with a reason or an error; 0 if it is not there."""
        ...

    async def give_back(self, delivery: WaitingDelivery, *, delay_s: float, cause: str) -> None:
        """Put a delivery that met trouble with the database into the waiting room, or back; no attempt is counted.

        Due after `delay_s`. `delivery.troubles` counts this time, and `cause` says what it was.
        """
        ...

    async def claim(self, delivery: WaitingDelivery, *, idle_s: float) -> bool:
        """Take a delivery that is due out of the waiting room, as the token of handling it. `idle_s`: see `arrive`.

        False if it is not there as it was read: somebody has handled it, or tried to, meanwhile. False too while its
        listener is paused.
        """
        ...

    async def lock(self, delivery: WaitingDelivery) -> bool:
        """Whether the waiting delivery is still there as it was read; it is locked until the transaction ends."""
        ...

    async def is_paused(self, consumer: str) -> bool:
        """Whether an operator has paused this listener."""
        ...

    async def release_next(self, delivery: WaitingDelivery) -> None:
        """The head of a parked key is gone: the one behind it is due now."""
        ...

    async def remove_dead_letter(self, delivery: WaitingDelivery) -> bool:
        """Remove the dead letter of this delivery; whether there was one, so that this is a replay."""
        ...

    async def remove(self, delivery: WaitingDelivery) -> None:
        """Take a delivery out of the waiting room without handling it."""
        ...

    async def write_dead_letter(self, delivery: WaitingDelivery, name: str, failure: Failure) -> None:
        """Write a dead letter. Its id is that of the delivery for ever, also when it dies again after a replay."""
        ...


class WaitingRoom(Protocol):
    """Deliveries that wait for a listener, and those that were given up."""

    async def due(
        self,
        lanes: Sequence[Lane],
        *,
        limit: int,
        known: Known | None = None,
        in_trouble: bool = True,
    ) -> Sequence[WaitingDelivery]:
        """Heads of the waiting room that are due: un-keyed ones, and the first of each key; none of a paused listener.

        With `known`, only deliveries that this code can handle; rows of an earlier version, which do not name their
        event, are among them. Without `in_trouble`, those that have met trouble with the database are left out. However
        many are left out, they take no place among `limit`; they hold their key all the same.
        """
        ...

    async def unhandled(self, known: Known) -> Sequence[Unhandled]:
        """Count what waits for a listener, or for an event class, that this code does not have."""
        ...

    async def restart_delays(self) -> int:
        """Let the delays begin again that a later clock than the database's scheduled: it was set back meanwhile.

        Returns how many. Without that, a delivery due now would wait for as long as the clock was set back.
        """
        ...

    async def look_again(self, lanes: Sequence[Lane]) -> None:
        """What was postponed in these lanes is due now: another process has them, and its code may be another one."""
        ...

    async def dead(self, *, limit: int = 100) -> Sequence[Dead]: ...

    async def prune_dead(self, *, older_than_s: float, limit: int, clock: float | None = None) -> int:
        """Delete that many of the oldest dead letters that hold no key and are not being replayed, as `prune_inbox`."""
        ...

    async def prune_inbox(self, *, older_than_s: float, limit: int, clock: float | None = None) -> int:
        """Delete that many of the oldest handled events, older than that by `clock`, or by the database's own."""
        ...
