"""Lanes and the processes that own them: a lease per process, an epoch per lane.

Tables: cauce_member and cauce_lane, both by their primary keys; cauce_lane has sixteen rows and is read whole.
"""

from collections.abc import Mapping, Sequence

from cauce.ports.lanes import Epoch, Lane, LaneRow, LanesSeen, MemberId
from cauce.stores.sql.connections import OwnConnection, TableGroup, writing

__all__ = ["LEASE_HOLDS", "SqlLanes"]

_SLACK_S = 1.0
"""A clock that is slewed may stand a little behind the time at which a lease was written."""
_AHEAD = f"m.lease_until > :NOW + COALESCE(m.lease_s, 1e12) + {_SLACK_S}"
_LONG_GONE = "m.lease_until < :NOW - 3600 OR m.lease_until > :NOW + 3600 + m.lease_s"
LEASE_HOLDS = f"m.lease_until >= :NOW AND NOT {_AHEAD}"
"""Of a member `m`. A lease that ends later than it lasts was written before the clock was set back."""


class SqlLanes(TableGroup):
    """The LaneTable of the ports, by the database's clock."""

    @writing
    async def beat(self, connection: OwnConnection, me: MemberId, *, lease_s: float) -> LanesSeen:
        await self._run(
            connection,
            "INSERT INTO cauce_member (id, lease_until, lease_s) VALUES (:me, :NOW + :lease, :lease) "
            "ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, lease_s = excluded.lease_s",
            me=me,
            lease=lease_s,
        )
        rows = await self._run(
            connection,
            "SELECT l.lane, l.member, l.epoch, "
            f"CASE WHEN {LEASE_HOLDS} THEN m.lease_until - :NOW ELSE 0 END AS left_s "
            "FROM cauce_lane l LEFT JOIN cauce_member m ON m.id = l.member ORDER BY l.lane",
        )
        members = list(
            await self._run(
                connection,
                f"SELECT m.id, {LEASE_HOLDS} AS holds, {_AHEAD} AS ahead, {_LONG_GONE} AS gone, :NOW AS clock "
                "FROM cauce_member m",
            )
        )
        if any(one.gone for one in members):
            await self._run(
                connection,
                f"DELETE FROM cauce_member AS m WHERE ({_LONG_GONE}) "
                "AND m.id NOT IN (SELECT member FROM cauce_lane WHERE member IS NOT NULL)",
            )
        lanes = [
            LaneRow(
                Lane(int(row.lane)),
                None if row.member is None else MemberId(str(row.member)),
                Epoch(int(row.epoch)),
                float(row.left_s),
            )
            for row in rows
        ]
        return LanesSeen(
            lanes,
            members=[MemberId(one.id) for one in members if one.holds],
            clock=float(members[0].clock),  # our own row is there at least
            ahead=[MemberId(one.id) for one in members if one.ahead],
        )

    @writing
    async def take(self, connection: OwnConnection, me: MemberId, wanted: Mapping[Lane, Epoch]) -> Mapping[Lane, Epoch]:
        got: dict[Lane, Epoch] = {}
        for lane, epoch in sorted(wanted.items()):
            done = await self._run(
                connection,
                "UPDATE cauce_lane SET member = :me, epoch = epoch + 1 WHERE lane = :lane AND epoch = :epoch",
                me=me,
                lane=int(lane),
                epoch=int(epoch),
            )
            if done.rowcount == 1:
                got[lane] = Epoch(epoch + 1)
        return got

    @writing
    async def give_back(self, connection: OwnConnection, me: MemberId, lanes: Sequence[Lane]) -> None:
        for lane in sorted(lanes):
            await self._run(
                connection,
                "UPDATE cauce_lane SET member = NULL WHERE lane = :lane AND member = :me",
                lane=int(lane),
                me=me,
            )

    @writing
    async def leave(self, connection: OwnConnection, me: MemberId) -> None:
        await self._run(connection, "UPDATE cauce_lane SET member = NULL WHERE member = :me", me=me)
        await self._run(connection, "DELETE FROM cauce_member WHERE id = :me", me=me)
