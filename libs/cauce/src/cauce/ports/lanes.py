"""Lanes: which one an event belongs to, and the rows by which processes share them out."""

from collections.abc import Collection, Mapping, Sequence
from typing import NewType, Protocol
from zlib import crc32

from msgspec import Struct

from cauce.events.envelope import Envelope

__all__ = [
    "LANES",
    "Epoch",
    "Lane",
    "LaneRow",
    "LaneTable",
    "LanesSeen",
    "MemberId",
    "hash_of",
    "hash_of_key",
    "lane_of",
    "lane_of_key",
]


Lane = NewType("Lane", int)

_SIGN = 1 << 31


LANES = 16
"""A power of two."""


def lane_of(envelope: Envelope) -> Lane:
    """The lane of an envelope: same key, same lane, for ever; without a key, the lane of its id."""
    return lane_of_key(envelope.key if envelope.key is not None else envelope.id)


def lane_of_key(key: str) -> Lane:
    """The lane of all events of a key."""
    return Lane(hash_of_key(key) & (LANES - 1))


def hash_of(envelope: Envelope) -> int:
    """What decides the lane, however many lanes there are: 32 bits of the key, or without one of the id.

    As a column of four bytes holds them, so it may be negative; the lane is its last bits.
    """
    return hash_of_key(envelope.key if envelope.key is not None else envelope.id)


def hash_of_key(key: str) -> int:
    return (crc32(key.encode()) ^ _SIGN) - _SIGN


MemberId = NewType("MemberId", str)


Epoch = NewType("Epoch", int)


class LaneRow(Struct, frozen=True):
    """A lane as the database has it. `lease_left_s`: how long its owner's lease still lasts, by the database's clock."""

    lane: Lane
    owner: MemberId | None
    epoch: Epoch
    lease_left_s: float

    @property
    def owner_alive(self) -> bool:
        return self.lease_left_s > 0


class LanesSeen(Struct, frozen=True):
    """The lanes and the members as the database has them. `clock`: its time at that moment, in seconds.

    A lease holds when it has not ended and does not end later than it lasts. One that does was written before the clock
    was set back: its member is in `ahead`, and either renews it soon or has ended.
    """

    rows: Sequence[LaneRow]
    members: Collection[MemberId]
    """Those whose lease holds, this one included."""
    clock: float
    ahead: Collection[MemberId] = ()


class LaneTable(Protocol):
    """Which process owns which lane: one lease per process, one epoch per lane."""

    async def beat(self, me: MemberId, *, lease_s: float) -> LanesSeen:
        """Renew our lease (or join), and read all lanes and the members with a lease."""
        ...

    async def take(self, me: MemberId, wanted: Mapping[Lane, Epoch]) -> Mapping[Lane, Epoch]:
        """Take those lanes that still have the epoch seen; returns the new epochs of those we got."""
        ...

    async def give_back(self, me: MemberId, lanes: Sequence[Lane]) -> None: ...

    async def leave(self, me: MemberId) -> None:
        """Give everything back and end the lease: others need not wait for it."""
        ...
