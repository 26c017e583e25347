"""The outbox: the rows that cross the port."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from cauce.events.envelope import Envelope
from cauce.ports.lanes import Epoch, Lane, MemberId
from cauce.ports.transport import BrokerId

__all__ = ["BATCH", "Backlog", "KeepSent", "OutboxRow", "OutboxTable", "Outgoing", "Pruned"]


class Outgoing(Struct, frozen=True, kw_only=True):
    """An envelope published in a transaction, and for whom: the broker (`consumer` None) or a durable listener here.

    `message` is the event as it travels, before and after the number that the database gives it; it was checked when
    it was published. None: to be written from the envelope (`outgoing_around_number`).
    """

    envelope: Envelope
    consumer: str | None = None
    message: tuple[bytes, bytes] | None = None


class OutboxRow(Struct, frozen=True):
    """An event on its way to the broker. `message` is the envelope as CloudEvents JSON; `topic` is the service's own,
    or that of a producer whose event came over a bridge."""

    position: int
    event_id: str
    topic: str
    lane: Lane
    key: str | None
    message: bytes


class Backlog(Struct, frozen=True, kw_only=True):
    """What has piled up: events that are not sent (those set aside do not count), and the key that most events of one
    listener wait behind."""

    unsent: int
    oldest_unsent_s: float | None
    longest: int = 0
    longest_key: str = ""
    longest_consumer: str = ""
    newer_version: int = 0
    """Deliveries that wait for code which reads them: they are of a newer version than the code that met them."""


BATCH = 1000
"""How many rows are removed at once."""


class KeepSent(Struct, frozen=True, kw_only=True):
    """For how long sent rows are kept, and how many of them at most, and bytes of their messages."""

    seconds: float
    rows: int
    bytes: int


class Pruned(Struct, frozen=True, kw_only=True):
    """`capped`: rows went that were not too old."""

    rows: int = 0
    capped: bool = False
    more: bool = False


class OutboxTable(Protocol):
    """What is published and not sent, and what was sent, kept in case the broker forgets it."""

    @property
    def portion(self) -> int:
        """How many rows are best looked for, sent and marked at once."""
        ...

    async def pending(
        self,
        lanes: Sequence[Lane],
        *,
        limit: int,
        topics: Collection[str] | None = None,
        besides: Collection[int] = (),
    ) -> Sequence[OutboxRow]:
        """Unsent rows of these lanes that are due, in the order of their positions. Never a cursor.

        With `topics`, only rows of these: however many others there are, they take no place among `limit`. Rows set
        aside are not among them, nor those that follow one under its key, nor the positions `besides`, which are being
        marked meanwhile.
        """
        ...

    async def unsent_elsewhere(self, topics: Collection[str]) -> Mapping[str, int]:
        """Count the unsent rows of other topics than these, by topic: nothing sends them."""
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
        """The rows of a lane that were sent last, in the order of sending: what the broker must still know.

        Each by its number in that order, which is not its position.
        """
        ...

    async def mark_unsent(self, topic: str, lane: Lane, *, from_seq: int | None) -> int:
        """Mark what was sent in this place of the order and after it (None: all that is kept) unsent, because the broker
        lost it. Each row has the position that it had."""
        ...

    async def prune_sent(self, keep: "KeepSent", *, clock: float | None = None) -> "Pruned":
        """Delete sent rows that are older than `keep` allows by `clock`, or by the database's own, and the first sent of
        those that are too many or too large. An estimate of how many there are will do.

        A bounded portion of them: `more` says that there are others. A store may delete rows that were sent one after
        the other together, once the last of them is due, if that keeps them a quarter longer at most.
        """
        ...

    async def backlog(self) -> Backlog:
        """What waits to be sent, and what waits behind a key."""
        ...
