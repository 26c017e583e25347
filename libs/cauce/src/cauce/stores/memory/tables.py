"""The rows of the store in memory: dictionaries, and layers of changes that become visible when they are merged."""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any, Generic, Literal, TypeVar
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from cauce.events.envelope import Envelope
from cauce.ports.inbox import Dead, Position, WaitingDelivery
from cauce.ports.lanes import LANES, Epoch, Lane, MemberId, lane_of
from cauce.ports.outbox import OutboxRow
from cauce.stores.identities import Registered

__all__ = ["Clock", "Due", "Event", "Kept", "Layer", "Tables", "add_unsent", "add_waiting", "by_position", "event_of"]

K = TypeVar("K")
V = TypeVar("V")
Clock = Callable[[], float]
Event = tuple[str, str, str]
"""Consumer, source, event id."""


class Layer(MutableMapping[K, V], Generic[K, V]):
    """A mapping over another one, which gets the changes when they are merged."""

    def __init__(self, below: MutableMapping[K, V]) -> None:
        self._below = below
        self._changes: dict[K, V | None] = {}

    def __getitem__(self, key: K) -> V:
        found = self._changes[key] if key in self._changes else self._below[key]
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: K, value: V) -> None:
        self._changes[key] = value

    def __delitem__(self, key: K) -> None:
        _ = self[key]
        self._changes[key] = None

    def __iter__(self) -> Iterator[K]:
        yield from (key for key in self._below if key not in self._changes)
        yield from (key for key, value in self._changes.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def merge(self) -> None:
        for key, value in self._changes.items():
            if value is None:
                self._below.pop(key, None)
            else:
                self._below[key] = value


class Kept(Struct, frozen=True):
    """A row of the outbox: unsent, set aside with its problem, or sent and kept."""

    row: OutboxRow
    created_at: float
    problem: str | None = None
    sent_at: float = 0.0
    sent_seq: int = 0
    broker_id: str = ""


class Due(Struct, frozen=True):
    """A delivery in the waiting room, and when it is due (None: when those before it are gone)."""

    position: int
    delivery: WaitingDelivery
    next_at: float | None
    reason: str | None = None
    """Why it is postponed, if it is."""

    @property
    def place(self) -> tuple[str, str, str | None]:
        return self.delivery.consumer, self.delivery.source, self.delivery.key


@dataclass(frozen=True, slots=True)
class Tables:
    """All rows of the store, as one transaction sees them. Rows are never changed, only replaced."""

    unsent: MutableMapping[int, Kept] = field(default_factory=dict[int, Kept])
    sent: MutableMapping[int, Kept] = field(default_factory=dict[int, Kept])
    key_head: MutableMapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    inbox: MutableMapping[Event, tuple[float, Literal["done", "sending"]]] = field(
        default_factory=dict[Event, tuple[float, Literal["done", "sending"]]]
    )
    started: MutableMapping[Event, tuple[int, float]] = field(default_factory=dict[Event, tuple[int, float]])
    positions: MutableMapping[Event, tuple[Position, float]] = field(
        default_factory=dict[Event, tuple[Position, float]]
    )
    waiting: MutableMapping[int, Due] = field(default_factory=dict[int, Due])
    dead: MutableMapping[Event, Dead] = field(default_factory=dict[Event, Dead])
    members: MutableMapping[MemberId, float] = field(default_factory=dict[MemberId, float])
    lanes: MutableMapping[Lane, tuple[MemberId | None, Epoch]] = field(
        default_factory=lambda: {Lane(lane): (None, Epoch(0)) for lane in range(LANES)}
    )
    listeners: MutableMapping[str, Registered] = field(default_factory=dict[str, Registered])
    meta: MutableMapping[str, str] = field(default_factory=lambda: {"incarnation": str(uuid4())})
    sent_order: Iterator[int] = field(default_factory=lambda: count(1))
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """A position stands for one row permanently, also for one that was rolled back."""

    def over(self) -> "Tables":
        """Make tables whose changes are seen here only after `merge`."""
        own: dict[str, Any] = {name: Layer(getattr(self, name)) for name in _NAMES}
        return Tables(**own, numbers=self.numbers, sent_order=self.sent_order)

    def merge(self) -> None:
        """Make the changes in the tables below."""
        for name in _NAMES:
            getattr(self, name).merge()

    def waiting_as(self, consumer: str, source: str, event_id: str) -> Due | None:
        wanted = (consumer, source, event_id)
        return next((one for one in self.waiting.values() if event_of(one.delivery) == wanted), None)

    def waiting_at(self, consumer: str, source: str, key: str | None) -> Sequence[Due]:
        """Return the waiting deliveries of one key, the first of them first."""
        here = (one for one in self.waiting.values() if key is not None and one.place == (consumer, source, key))
        return sorted(here, key=by_position)


_NAMES = tuple(one.name for one in fields(Tables) if one.name not in ("numbers", "sent_order"))


def add_unsent(rows: Tables, envelope: Envelope, message: bytes, now: float) -> None:
    position = next(rows.numbers)
    row = OutboxRow(position, envelope.id, envelope.source, lane_of(envelope), envelope.key, message)
    rows.unsent[position] = Kept(row, created_at=now)


def add_waiting(rows: Tables, delivery: WaitingDelivery, *, next_at: float | None) -> None:
    position = next(rows.numbers)
    rows.waiting[position] = Due(position, replace(delivery, position=position), next_at)


def by_position(one: Due) -> int:
    return one.position


def event_of(delivery: WaitingDelivery) -> Event:
    return delivery.consumer, delivery.source, delivery.event_id
