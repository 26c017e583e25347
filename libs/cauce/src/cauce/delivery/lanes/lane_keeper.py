"""Which process owns which lane: a lease per process, an epoch per lane, a fair share for each. Sans-I/O.

A lane (partition) has one owner at a time, for the outbox and for every topic alike. The owner sends its pending rows
and handles its deliveries; any other process that tries finds another epoch and changes nothing. Every `beat` compares
with the database and returns what to do; Ownership does it.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from cauce.ports.lanes import LANES, Epoch, Lane, LaneRow, LanesSeen, MemberId

__all__ = ["Beat", "LaneKeeper"]


LEASE_S = 10.0
BEAT_EVERY_S = 3.0


class Beat(Struct, frozen=True):
    """What to do now. `take`: free lanes, with the epoch seen; `give_back`: lanes of ours beyond our share."""

    take: Mapping[Lane, Epoch] = field(default_factory=dict[Lane, Epoch])
    give_back: frozenset[Lane] = frozenset()
    lost: frozenset[Lane] = frozenset()
    abandoned: frozenset[Lane] = frozenset()
    """Lanes whose owner ended without giving them back: the event it was handling may be the cause."""
    ownerless: frozenset[Lane] = frozenset()
    """Lanes that no living process owns, those in `take` included."""
    next_lease_ends_in_s: float | None = None
    """When the next lease of another process ends: the moment to look again, since it may not be renewed."""


class LaneKeeper:
    """One process's view. `owned` are the lanes it may work on now, with their epochs."""

    def __init__(self, me: MemberId, *, lease_s: float = LEASE_S) -> None:
        self.me = me
        self._lease_s = lease_s
        self._owned: dict[Lane, Epoch] = {}
        self._good_until = 0.0
        self._leases_true_from = 0.0
        """After the database's clock was set, others have renewed or ended by then; until then leases say nothing."""

    def owned(self, now: float) -> Mapping[Lane, Epoch]:
        """Lanes we may work on at monotonic time `now`; none once our own lease may have expired."""
        return self._owned if now < self._good_until else {}

    def renewed(self, *, requested_at: float, now: float) -> None:
        """Record that our lease was renewed; `requested_at` is the monotonic time before the request: the safe side.

        If it had expired meanwhile, callers of `owned` got nothing and let go of what they held. So all lanes have to
        be taken again, under new epochs: what was started before must not mix with what comes after.
        """
        if now >= self._good_until:
            self._owned.clear()
        self._good_until = requested_at + self._lease_s

    def clock_was_set(self, *, now: float) -> None:
        """Record that the database's clock was set: for one lease, no lane is taken from a process that seems to have
        ended, since it could not have renewed its lease by the new clock yet."""
        self._leases_true_from = now + self._lease_s

    def beat(self, seen: LanesSeen, *, now: float) -> Beat:
        """Compare with the database, as it was seen at monotonic time `now`.

        A lane that is ours in the database and not here was let go of (see `renewed`), or taken in a transaction whose
        outcome is unknown: it is taken again.
        """
        rows, members = seen.rows, seen.members
        mine = {row.lane: row.epoch for row in rows if row.owner == self.me}
        lost = frozenset(lane for lane, epoch in self._owned.items() if mine.get(lane) != epoch)
        self._owned = {lane: epoch for lane, epoch in self._owned.items() if lane not in lost}
        share = _share(sorted(members).index(self.me) if self.me in members else 0, of=max(1, len(members)))
        excess = len(self._owned) - share
        room = max(0, -excess)
        forgotten = [row for row in rows if row.owner == self.me and row.lane not in self._owned]
        left = [row for row in rows if row.owner is None or (self._has_ended(row) and now >= self._leases_true_from)]
        free = forgotten + left
        too_many = sorted(self._owned)[-excess:] if excess > 0 else [row.lane for row in forgotten[room:]]
        ends = [row.lease_left_s for row in rows if row.owner not in (None, self.me) and row.owner_alive]
        return Beat(
            take={row.lane: row.epoch for row in free[:room]},
            give_back=frozenset(too_many),
            lost=lost,
            abandoned=frozenset(row.lane for row in rows if self._has_ended(row)),
            ownerless=frozenset(row.lane for row in rows if row.owner is None or not row.owner_alive),
            next_lease_ends_in_s=min(ends, default=None),
        )

    def _has_ended(self, row: LaneRow) -> bool:
        return row.owner not in (None, self.me) and not row.owner_alive

    def took(self, lane: Lane, epoch: Epoch) -> None:
        """Record that the database gave us the lane, under this epoch."""
        self._owned[lane] = epoch

    def gave_back(self, lanes: Iterable[Lane]) -> None:
        for lane in lanes:
            self._owned.pop(lane, None)


def _share(rank: int, *, of: int) -> int:
    """How many lanes the `rank`-th of `of` processes gets: the shares of all of them add up to every lane."""
    return LANES // of + (rank < LANES % of)
