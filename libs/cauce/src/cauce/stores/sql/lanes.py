"""Lanes and the processes that own them: a lease per process, an epoch per lane.

Tables: cauce_member and cauce_lane, both by their primary keys; cauce_lane has sixteen rows and is read whole.
"""

from collections.abc import Collection, Mapping, Sequence

from cauce.ports.lanes import Epoch, Lane, LaneRow, MemberId
from cauce.stores.sql.connections import TableGroup

__all__ = ["SqlLanes"]


class SqlLanes(TableGroup):
    """The LaneTable of the ports, by the database's clock."""

    async def beat(self, me: MemberId, *, lease_s: float) -> tuple[Sequence[LaneRow], Collection[MemberId]]:
        async with self._writing() as connection:
            await self._run(
                connection,
                "INSERT INTO cauce_member (id, lease_until) VALUES (:me, :NOW + :lease) "
                "ON CONFLICT (id) DO UPDATE SET lease_until = :NOW + :lease",
                me=me,
                lease=lease_s,
            )
            await self._run(
                connection,
                "DELETE FROM cauce_member WHERE lease_until < :NOW - 3600 AND id NOT IN "
                "(SELECT member FROM cauce_lane WHERE member IS NOT NULL)",
            )
            rows = await self._run(
                connection,
                "SELECT l.lane, l.member, l.epoch, COALESCE(m.lease_until - :NOW, 0) AS left_s FROM cauce_lane l "
                "LEFT JOIN cauce_member m ON m.id = l.member ORDER BY l.lane",
            )
            members = await self._run(connection, "SELECT id FROM cauce_member WHERE lease_until >= :NOW")
            lanes = [
                LaneRow(
                    Lane(int(row.lane)),
                    None if row.member is None else MemberId(str(row.member)),
                    Epoch(int(row.epoch)),
                    float(row.left_s),
                )
                for row in rows
            ]
            return lanes, [MemberId(one) for one in members.scalars()]

    async def take(self, me: MemberId, wanted: Mapping[Lane, Epoch]) -> Mapping[Lane, Epoch]:
        got: dict[Lane, Epoch] = {}
        async with self._writing() as connection:
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

    async def give_back(self, me: MemberId, lanes: Sequence[Lane]) -> None:
        async with self._writing() as connection:
            for lane in sorted(lanes):
                await self._run(
                    connection,
                    "UPDATE cauce_lane SET member = NULL WHERE lane = :lane AND member = :me",
                    lane=int(lane),
                    me=me,
                )

    async def leave(self, me: MemberId) -> None:
        async with self._writing() as connection:
            await self._run(connection, "UPDATE cauce_lane SET member = NULL WHERE member = :me", me=me)
            await self._run(connection, "DELETE FROM cauce_member WHERE id = :me", me=me)
