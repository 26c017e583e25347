"""What a broker holds of a system, for people: topics, groups, entries, and the two things that may be set right.

Not part of the transport: a running service needs none of it, and its user has none of these rights.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from cauce.events.envelope import Envelope
from cauce.ports.lanes import Lane
from cauce.ports.transport import Verdict

__all__ = ["ErasedEntries", "Group", "Inspectable", "Seen", "Topic"]


class Group(Struct, frozen=True, kw_only=True):
    """A service that hears a topic. Sums over the topic's sixteen lanes."""

    name: str
    registered: bool
    """Whether trimming waits for it."""
    lanes: int
    """On how many of the streams that exist it has its group."""
    lag: int
    """Entries it was never given."""
    pending: int
    """Entries it was given and has not acknowledged."""
    oldest_waiting_s: float | None
    """Age of the oldest entry of either kind."""
    idle_s: float | None = None
    """How long ago its service read last, or tried to; None if it never did."""
    foreign: tuple[str, ...] = ()
    """Readers in it that no service of ours is: what they take, the service does not get."""


class Topic(Struct, frozen=True, kw_only=True):
    """What one service has published, as far as the broker still holds it."""

    name: str
    streams: int
    entries: int
    oldest_s: float | None
    newest_s: float | None
    groups: tuple[Group, ...]
    marked_beyond: tuple[Lane, ...] = ()
    """Lanes in which more is marked as trimmed on purpose than there ever was: a loss there is taken for that."""


class ErasedEntries(Struct, frozen=True, kw_only=True):
    """Entries of one key in a topic."""

    topic: str
    erased: int
    unacknowledged: int
    """Left as they are: a group has not acknowledged them, so a service has still to handle them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An entry of a topic. `envelope` is None if it is no event, and then `problem` says why."""

    topic: str
    lane: Lane
    entry: str
    at: datetime
    """When the broker took it."""
    raw: bytes
    envelope: Envelope | None
    problem: str | None
    payload: Any
    """Of the event, for people; None if it is none."""


class Inspectable(Protocol):
    """A broker that can be looked at, and set right, from outside a service.

    Everything raises TransportUnavailableError when the broker does not answer or does not permit it.
    """

    @property
    def name(self) -> str:
        """What people call the broker: `Redis`."""
        ...

    @property
    def address(self) -> str:
        """Where it is, without a password."""
        ...

    async def now(self) -> datetime:
        """The broker's clock."""
        ...

    async def topics(self) -> Sequence[Topic]:
        """Every topic of the system, by name."""
        ...

    async def topic(self, name: str) -> Topic:
        """One of them. A topic that nobody has published to yet has no streams."""
        ...

    async def health(self) -> Sequence[Verdict]:
        """How well the broker keeps what it has confirmed, and how much room it has left."""
        ...

    async def forget(self, topic: str, group: str) -> bool:
        """Remove a group, what waits for it, and whose database it works with, for good; whether it was known."""
        ...

    async def databases(self, group: str) -> Mapping[str, str]:
        """By topic that it hears or sends to: the incarnation of the database with which this service is registered."""
        ...

    async def register_database(self, topic: str, group: str, database: str) -> None:
        """From now on the service has this database there; processes with another one are refused."""
        ...

    async def erase(self, topic: str, key: str, *, dry_run: bool) -> ErasedEntries:
        """Delete the entries of this key that every group has acknowledged; what a group may still need is counted."""
        ...

    async def set_back(self, topic: str, group: str, since: datetime) -> Mapping[Lane, int]:
        """Deliver to the group again what was appended since then. By lane, how many entries that is.

        What was trimmed does not come back. Lanes in which the group is not there are left out.
        """
        ...

    async def count_since(self, topic: str, since: datetime) -> int:
        """How many entries were appended since then, as far as they are held."""
        ...

    async def trimmed_since(self, topic: str, since: datetime) -> bool:
        """Whether younger entries were trimmed on purpose: only their publisher has them still."""
        ...

    def watch(
        self,
        topics: Sequence[str],
        *,
        since: datetime | None,
        follow: bool,
        trouble: Callable[[str | None], None],
    ) -> AsyncGenerator[Seen]:
        """Everything appended to these topics (to all, if none is named) since then, or from now on.

        No group's position moves. In the order of the broker's clock, as far as it was there when it was read. With
        `follow` it continues until it is closed, and through outages, which `trouble` is told (None: it is over);
        without, it ends with what is there.
        """
        ...
