"""Who owns which lane: a lease per process, an epoch per lane, a fair share for everybody. Sans-I/O.

A lane is owned by one process at a time, for the outbox and for every topic alike. The process that owns it sends its
pending rows and handles its deliveries; whoever else tries finds another epoch and changes nothing. Every `beat` reads
what the database says and answers what to do; the shell around it does it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cauce.ports.lanes import LANES, Epoch, Lane, LaneRow, MemberId

__all__ = ["Beat", "LaneKeeper"]


LEASE_S = 10.0
BEAT_EVERY_S = 3.0


@dataclass(frozen=True, slots=True)
class Beat:
    """What to do now. `take`: lanes with the epoch seen; `give_back`: lanes of ours that others should have."""

    take: Mapping[Lane, Epoch] = field(default_factory=dict[Lane, Epoch])
    give_back: frozenset[Lane] = frozenset()
    lost: frozenset[Lane] = frozenset()
    orphans: frozenset[Lane] = frozenset()
    """Lanes whose owner went without giving them back: what he was doing may be what he died of."""
    ownerless: frozenset[Lane] = frozenset()
    """Lanes that no living process owns, those among them that are now taken."""
    next_lease_ends_in_s: float | None = None
    """When the next lease of somebody else would end: the moment to look again, since he may not renew it."""


class LaneKeeper:
    """One process's view. `owned` are the lanes it may work on now, with their epochs."""

    def __init__(self, me: MemberId, *, lease_s: float = LEASE_S) -> None:
        self.me = me
        self._lease_s = lease_s
        self._owned: dict[Lane, Epoch] = {}
        self._good_until = 0.0

    def owned(self, now: float) -> Mapping[Lane, Epoch]:
        """Lanes we may work on at monotonic time `now`; none once our own lease may have expired."""
        return self._owned if now < self._good_until else {}

    def renewed(self, *, requested_at: float, now: float) -> None:
        """Our lease was renewed; `requested_at` is the monotonic time before we asked, so we err to the safe side.

        If it had run out meanwhile, whoever asked was told that nothing is ours, and let go of what he held. So all
        lanes have to be taken anew, under other epochs: what was begun before must not be mixed with what comes after.
        """
        if now >= self._good_until:
            self._owned.clear()
        self._good_until = requested_at + self._lease_s

    def beat(self, rows: Iterable[LaneRow], *, members: Collection[MemberId]) -> Beat:
        """Compare with the database. `members`: processes with a lease, ourselves among them.

        A lane that is ours in the database and not here was let go of (see `renewed`), or taken in a transaction whose
        outcome we never learnt: it is taken anew.
        """
        rows = list(rows)
        mine = {row.lane: row.epoch for row in rows if row.owner == self.me}
        lost = frozenset(lane for lane, epoch in self._owned.items() if mine.get(lane) != epoch)
        self._owned = {lane: epoch for lane, epoch in self._owned.items() if lane not in lost}
        share = _share(sorted(members).index(self.me) if self.me in members else 0, of=max(1, len(members)))
        excess = len(self._owned) - share
        room = max(0, -excess)
        forgotten = [row for row in rows if row.owner == self.me and row.lane not in self._owned]
        free = forgotten + [row for row in rows if row.owner != self.me and (row.owner is None or not row.owner_alive)]
        too_many = sorted(self._owned)[-excess:] if excess > 0 else [row.lane for row in forgotten[room:]]
        ends = [row.lease_left_s for row in rows if row.owner not in (None, self.me) and row.owner_alive]
        return Beat(
            take={row.lane: row.epoch for row in free[:room]},
            give_back=frozenset(too_many),
            lost=lost,
            orphans=frozenset(row.lane for row in rows if row.owner not in (None, self.me) and not row.owner_alive),
            ownerless=frozenset(row.lane for row in rows if row.owner is None or not row.owner_alive),
            next_lease_ends_in_s=min(ends, default=None),
        )

    def took(self, lane: Lane, epoch: Epoch) -> None:
        """The database says the lane is ours, under this epoch."""
        self._owned[lane] = epoch

    def gave_back(self, lanes: Iterable[Lane]) -> None:
        for lane in lanes:
            self._owned.pop(lane, None)


def _share(rank: int, *, of: int) -> int:
    """How many lanes the process has whose name is the `rank`-th of so many: all of them together, every lane."""
    return LANES // of + (rank < LANES % of)
