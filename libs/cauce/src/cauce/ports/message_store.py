"""The port to what Cauce keeps in a service's database for itself: outbox, lanes, waiting deliveries, dead letters.

Two sides. The *user's side* runs in the transaction of the business change, on its session: what is published, what a
listener has handled. The *relay's side* has connections of its own and holds a transaction for milliseconds only.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

from cauce.delivery.inbox.decision_table import Position
from cauce.delivery.lanes.lane_keeper import Epoch, LaneRow, MemberId
from cauce.errors import ConfigurationError
from cauce.events.envelope import Envelope
from cauce.ports.transport import BrokerId, Lane

__all__ = [
    "Arrival",
    "Backlog",
    "Dead",
    "Failure",
    "Inbox",
    "Journal",
    "OutboxRow",
    "Outgoing",
    "Reason",
    "Waiting",
    "belongs_to_another",
    "letter_id",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """An envelope published in a transaction, and for whom: the broker (`consumer` None) or a durable listener here."""

    envelope: Envelope
    consumer: str | None = None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event on its way to the broker. `message` is the envelope as CloudEvents JSON; `topic` is the service's own,
    or that of a producer whose event came over a bridge."""

    position: int
    event_id: str
    topic: str
    lane: Lane
    key: str | None
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A delivery that waits in this database for one listener: not yet tried, to be tried again, or behind its key."""

    position: int
    consumer: str
    source: str
    event_id: str
    lane: Lane
    key: str | None
    channel: str
    message: bytes
    attempts: int
    first_failed_at: float | None


Reason = Literal["exhausted", "rejected", "crash loop", "undecodable", "late", "too old to dedupe", "uncertain"]
"""Why a delivery is a dead letter: the word that is stored, shown and asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why and when a delivery failed: fit to be stored and shown (no payload values beyond the error's own text)."""

    reason: Reason
    error: str
    stack: str | None
    attempts: int
    worker: str
    version: str | None
    """Of the code that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What has piled up: events that are not sent (those set aside do not count), and the key that most events of one
    listener wait behind."""

    unsent: int
    oldest_unsent_s: float | None
    longest: int = 0
    longest_key: str = ""
    longest_consumer: str = ""


def belongs_to_another(running: str, service: str) -> ConfigurationError:
    """Two services run on one database."""
    problem = (
        f"the service {running!r} runs on it, and lanes, outbox and inbox are one service's: give {service!r} a "
        "database of its own. If it is the same service under a new name, stop the old one first"
    )
    return ConfigurationError([problem], where="the database")


def letter_id(delivery: Waiting) -> str:
    """The id of its dead letter: 32 hexadecimal digits, always the same; whoever has noted it finds it again."""
    words = (delivery.consumer, delivery.source, delivery.event_id)
    return sha256("\0".join(words).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Arrival:
    """What was known when an event arrived for a listener."""

    known: bool
    position: Position | None = None
    """The last event of its key that this listener had handled before."""
    parked: bool = False
    """Events of its key wait already, so it must wait behind them."""


class Inbox(Protocol):
    """The user's side for one listener, on the listener's own transaction."""

    async def arrive(self, consumer: str, envelopes: Sequence[Envelope], *, idle_s: float) -> Sequence[Arrival]:
        """Remember events of different keys, each as the last one of its key unless a later one is; what was known.

        A second copy of one waits here until the first one's outcome is known. Not for ever: after some seconds the
        database says that the lock was not to be had. And a process that is frozen keeps it for `idle_s` of doing
        nothing at most; then the database ends its transaction.
        """
        ...

    async def first_time(self, consumer: str, source: str, event_id: str) -> bool:
        """Remember the event; False if it was known. A second copy waits here until the first one's outcome is known."""
        ...

    async def mark_started(self, consumer: str, source: str, event_id: str) -> int:
        """Remember that handling is about to begin; how often that was remembered without an outcome, this time too."""
        ...

    async def unmark_started(self, consumer: str, source: str, event_id: str) -> None:
        """There is an outcome."""
        ...

    async def begin_effect(self, consumer: str, source: str, event_id: str) -> Literal["first", "in_doubt"]:
        """Note that an effect is about to happen. `in_doubt`: one was begun before, and nobody knows how it ended."""
        ...

    async def is_in_doubt(self, consumer: str, source: str, event_id: str) -> bool:
        """Whether an effect was begun, and nobody knows how it ended."""
        ...

    async def end_effect(self, consumer: str, source: str, event_id: str) -> None:
        """It is known how the effect ended."""
        ...

    async def wait(self, delivery: Waiting, *, delay_s: float | None, error: str | None) -> None:
        """Put a delivery into the waiting room, due after `delay_s` (None: when those before it are gone)."""
        ...

    async def claim(self, delivery: Waiting, *, idle_s: float) -> bool:
        """Take a delivery that is due out of the waiting room, as the token of handling it. `idle_s`: see `arrive`.

        False if it is not there as it was read: somebody has handled it, or tried to, meanwhile.
        """
        ...

    async def holds(self, delivery: Waiting) -> bool:
        """Whether the waiting delivery is still there as it was read; it is locked until the transaction ends."""
        ...

    async def release_next(self, delivery: Waiting) -> None:
        """The head of a parked key is gone: the one behind it is due now."""
        ...

    async def exhume(self, delivery: Waiting) -> bool:
        """Remove the dead letter of this delivery; whether there was one, so that this is a replay."""
        ...

    async def forget(self, delivery: Waiting) -> None:
        """Take a delivery out of the waiting room without handling it."""
        ...

    async def bury(self, delivery: Waiting, name: str, failure: Failure) -> None:
        """Write a dead letter. Its id is that of the delivery for ever, also when it dies again after a replay."""
        ...


class Journal(Protocol):
    """The relay's side. Every method is one short transaction; infrastructure errors are the driver's own."""

    async def beat(self, me: MemberId, *, lease_s: float) -> tuple[Sequence[LaneRow], Collection[MemberId]]:
        """Renew our lease (or join), and read all lanes and the members with a lease."""
        ...

    async def take(self, me: MemberId, wanted: Mapping[Lane, Epoch]) -> Mapping[Lane, Epoch]:
        """Take those lanes that still have the epoch seen; returns the new epochs of those we got."""
        ...

    async def give_back(self, me: MemberId, lanes: Sequence[Lane]) -> None: ...
    async def leave(self, me: MemberId) -> None:
        """Give everything back and end the lease: others need not wait for it."""
        ...

    async def pending(self, lanes: Sequence[Lane], *, limit: int, besides: Collection[int] = ()) -> Sequence[OutboxRow]:
        """Unsent rows of these lanes that are due, in the order of their positions. Never a cursor.

        Rows set aside are not among them, nor those that follow one under its key, nor the positions `besides`, which
        are being marked meanwhile.
        """
        ...

    async def set_aside(self, position: int, problem: str) -> None:
        """A row that the broker will never take: it stays, with the reason, and its key waits behind it."""
        ...

    async def mark_sent(self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]) -> bool:
        """Mark rows sent. False, and nothing changed, if one of `owned` is not ours under its epoch any more."""
        ...

    async def adopt(self, envelope: Envelope, *, known_to: Sequence[str]) -> bool:
        """Write down an event that another kind of producer published, to be relayed into the topic of its source.

        False, and nothing changed, if it is known: it was adopted before, it is an event of this service, or one of
        the consumers `known_to` has met it.
        """
        ...

    async def newest_sent(self, topic: str, lane: Lane, *, limit: int) -> Sequence[tuple[int, BrokerId]]:
        """The rows of a lane that were sent last, in the order of sending: what the broker must still know."""
        ...

    async def unsend(self, topic: str, lane: Lane, *, from_position: int | None) -> int:
        """The broker forgot: this row and those sent after it (None: all that are kept) are to be sent again."""
        ...

    async def since(self, topic: str, start: str) -> str:
        """Where this service's group begins in a topic; the first answer is kept for ever."""
        ...

    async def prune_sent(self, *, older_than_s: float, limit: int) -> int:
        """Delete sent rows that are older, lowest first; returns how many, at most `limit`."""
        ...

    async def sent_over(self, *, rows: int, size: int) -> bool:
        """Whether more sent rows, or more bytes of them, are kept than that. An estimate will do."""
        ...

    async def backlog(self) -> Backlog:
        """What waits to be sent, and what waits behind a key."""
        ...

    async def prune_inbox(self, *, older_than_s: float, limit: int) -> int: ...

    async def dead(self, *, limit: int = 100) -> Sequence[Dead]: ...

    async def due(self, lanes: Sequence[Lane], *, limit: int) -> Sequence[Waiting]:
        """Heads of the waiting room that are due: un-keyed ones, and the first of each key."""
        ...

    async def incarnation(self) -> str: ...
    async def introduce(self, service: str, description: str, consumers: Sequence[str]) -> None:
        """Leave word of who uses this database: the service, what it says about itself, and its listeners.

        Raises ConfigurationError, and changes nothing, while another service runs on it: lanes, outbox and inbox are
        one service's.
        """
        ...
