"""What was sent, kept in case the broker forgets it: asked for the newest, put back into the queue, and let go in time.

Tables: cauce_sent (by its primary key, the order of sending, and by cauce_sent_lane), cauce_sent_part, cauce_outbox
(inserts), cauce_meta.

On PostgreSQL the rows are in partitions that are written to in turn, and the oldest is emptied as a whole, with TRUNCATE:
that takes no time however many rows there are, and leaves no dead ones.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import DBAPIError

from cauce.ports.lanes import Lane
from cauce.ports.outbox import BATCH, KeepSent, Pruned
from cauce.ports.transport import BrokerId
from cauce.stores.sql.connections import OwnConnection, TableGroup, reading, writing
from cauce.stores.sql.dialect import BY_CLOCK, Dialect
from cauce.stores.sql.outbox import EVENT, PUT_BACK_NOW
from cauce.stores.sql.tables import SENT_PARTS

__all__ = ["CAPPED_AT", "SqlSent", "put_back"]

CAPPED_AT = "sent_capped_at"
"""In cauce_meta: when events that were not too old went last."""
_CAPPED_NOW = (
    f"INSERT INTO cauce_meta (name, value) VALUES ('{CAPPED_AT}', CAST(:NOW AS text)) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)

_SHARE = SENT_PARTS - 2
"""Into how many partitions the window is divided: one more is written to, and one waits to be emptied."""
_FEWEST = 0.75
"""A partition is emptied for being one too many only where this part of what may be kept is left."""
_PARTS = f"""
    SELECT p.part, p.first_seq, :NOW - p.opened_at AS open_s, o.sent_seq AS oldest, n.sent_seq AS newest,
        {BY_CLOCK} - n.sent_at AS age_s
    FROM cauce_sent_part p
    LEFT JOIN LATERAL (SELECT sent_seq FROM cauce_sent s WHERE s.part = p.part ORDER BY sent_seq LIMIT 1) o ON true
    LEFT JOIN LATERAL (
        SELECT sent_seq, sent_at FROM cauce_sent s WHERE s.part = p.part ORDER BY sent_seq DESC LIMIT 1
    ) n ON true
    ORDER BY p.first_seq FOR UPDATE OF p
"""
_MESSAGE_BYTES = (
    "SELECT avg(length(message)) AS size FROM (SELECT message FROM cauce_sent ORDER BY sent_seq DESC LIMIT 50) s"
)
_NOT_WAITED_FOR = "SELECT set_config('lock_timeout', '200ms', true)"
"""Whoever waits for a lock holds up everybody behind him. A dump that reads the partition may take hours."""
_LOCK_NOT_AVAILABLE = "55P03"
_INSUFFICIENT_PRIVILEGE = "42501"


class SqlSent(TableGroup):
    """The other part of the ports' OutboxTable."""

    @reading
    async def newest_sent(
        self, connection: OwnConnection, topic: str, lane: Lane, *, limit: int
    ) -> Sequence[tuple[int, BrokerId]]:
        rows = await self._run(
            connection,
            "SELECT sent_seq, broker_id FROM cauce_sent WHERE topic = :topic AND lane = :lane "
            "ORDER BY sent_seq DESC LIMIT :limit",
            topic=topic,
            lane=int(lane),
            limit=limit,
        )
        return [(int(row.sent_seq), BrokerId(str(row.broker_id))) for row in reversed(rows.all())]

    @writing
    async def mark_unsent(self, connection: OwnConnection, topic: str, lane: Lane, *, from_seq: int | None) -> int:
        return await put_back(connection, topic, lane, from_seq=-1 if from_seq is None else from_seq)

    @writing
    async def prune_sent(self, connection: OwnConnection, keep: KeepSent, *, clock: float | None = None) -> Pruned:
        size = await self._message_bytes(connection)
        if size is None:
            return Pruned()
        most = int(min(keep.rows, keep.bytes / size))
        prune = self._prune_parts if self._dialect.postgres else self._prune_rows
        pruned = await prune(connection, keep.seconds, most, clock)
        if pruned.capped:
            await self._run(connection, _CAPPED_NOW)
        return pruned

    async def _message_bytes(self, connection: OwnConnection) -> float | None:
        """The size of a message, None if none is kept."""
        size = (await self._run(connection, _MESSAGE_BYTES)).scalar_one()
        return None if size is None else max(1.0, float(size))

    async def _prune_rows(
        self, connection: OwnConnection, older_than_s: float, most: int, clock: float | None
    ) -> Pruned:
        """In SQLite's one partition, row by row from the oldest."""
        (there,) = await self._run(
            connection, "SELECT min(sent_seq) AS oldest, max(sent_seq) AS newest FROM cauce_sent"
        )
        first_kept = max(there.oldest, there.newest + 1 - most)
        done = await self._run(
            connection,
            "DELETE FROM cauce_sent WHERE sent_seq IN (SELECT sent_seq FROM cauce_sent ORDER BY sent_seq LIMIT :limit) "
            f"AND (sent_seq < :first_kept OR sent_at < {BY_CLOCK} - :age)",
            first_kept=first_kept,
            age=older_than_s,
            clock=clock,
            limit=BATCH,
        )
        await self._run(
            connection,
            "UPDATE cauce_sent_part SET first_seq = max(first_seq, :next) WHERE NOT EXISTS (SELECT 1 FROM cauce_sent)",
            next=there.newest + 1,
        )
        rows = int(done.rowcount)
        return Pruned(rows=rows, capped=first_kept > there.oldest, more=rows == BATCH)

    async def _prune_parts(
        self, connection: OwnConnection, older_than_s: float, most: int, clock: float | None
    ) -> Pruned:
        parts = list(await self._run(connection, _PARTS, clock=clock))
        full = [one for one in parts if one.newest is not None]
        if not full:
            return Pruned()
        current, oldest = parts[-1], full[0]
        if current is full[-1] and (
            not 0 <= current.open_s <= older_than_s / _SHARE or _rows(current) >= max(1, most // _SHARE)
        ):
            await self._open_next(connection, parts)
        # A clock that was set back makes rows look young that are not; the next round of the window finds them.
        if oldest.age_s > older_than_s:
            return await self._empty(connection, oldest, capped=False)
        kept = full[-1].newest + 1 - oldest.oldest
        if kept <= most:
            return Pruned()
        if oldest is not full[-1] and kept - _rows(oldest) >= most * _FEWEST:
            return await self._empty(connection, oldest, capped=True)
        return await self._delete_first(connection, oldest, capped=True, first_kept=full[-1].newest + 1 - most)

    async def _open_next(self, connection: OwnConnection, parts: Sequence[Any]) -> None:
        """Have what is sent from now on written to the next partition, if that is empty."""
        following = (parts[-1].part + 1) % SENT_PARTS
        there = next((one for one in parts if one.part == following), None)
        if there is not None and there.newest is not None:
            return
        await self._run(
            connection,
            "INSERT INTO cauce_sent_part (part, first_seq, opened_at) VALUES (:part, nextval('cauce_sent_order'), :NOW) "
            "ON CONFLICT (part) DO UPDATE SET first_seq = excluded.first_seq, opened_at = excluded.opened_at",
            part=following,
        )

    async def _empty(self, connection: OwnConnection, part: Any, *, capped: bool) -> Pruned:
        """Empty a partition; another time, if somebody reads it, and row by row without the right to."""
        await self._run(connection, "SAVEPOINT emptying")
        try:
            await self._run(connection, _NOT_WAITED_FOR)
            await self._run(connection, f"TRUNCATE cauce_sent_{int(part.part)}")
        except DBAPIError as error:
            code = getattr(error.orig, "sqlstate", None)
            if code not in (_LOCK_NOT_AVAILABLE, _INSUFFICIENT_PRIVILEGE):
                raise
            await self._run(connection, "ROLLBACK TO SAVEPOINT emptying")
            return (
                Pruned() if code == _LOCK_NOT_AVAILABLE else await self._delete_first(connection, part, capped=capped)
            )
        return Pruned(rows=_rows(part), capped=capped, more=True)

    async def _delete_first(
        self, connection: OwnConnection, part: Any, *, capped: bool, first_kept: int | None = None
    ) -> Pruned:
        """Delete the first rows of a partition, a batch at most."""
        batch_ends = int(part.oldest) + BATCH
        done = await self._run(
            connection,
            "DELETE FROM cauce_sent WHERE part = :part AND sent_seq < :end",
            part=part.part,
            end=batch_ends if first_kept is None else min(batch_ends, first_kept),
        )
        return Pruned(rows=int(done.rowcount), capped=capped, more=True)


def _rows(part: Any) -> int:
    """About how many: the numbers have hardly any gaps."""
    return int(part.newest) + 1 - int(part.oldest)


async def put_back(connection: OwnConnection, topic: str, lane: Lane, *, from_seq: int) -> int:
    """Put what was sent from that number on back into the queue, in the caller's transaction; how many. They have the
    positions that they had, so they go before anything new, in their order."""
    columns, values = f"position, {EVENT}", {"topic": topic, "lane": int(lane), "from_seq": from_seq}
    which = "topic = :topic AND lane = :lane AND sent_seq >= :from_seq"
    dialect = Dialect(connection.dialect.name)
    insert, delete = (
        f"INSERT INTO cauce_outbox ({columns}) SELECT {columns} FROM",
        f"DELETE FROM cauce_sent WHERE {which}",
    )
    if dialect.postgres:  # exactly the rows that are deleted
        statements = [f"WITH back AS ({delete} RETURNING {columns}) {insert} back"]
    else:
        statements = [f"{insert} cauce_sent WHERE {which}", delete]
    done = [(await connection.execute(dialect.sql(one), values)).rowcount for one in statements]
    if done[0]:
        await connection.execute(dialect.sql(PUT_BACK_NOW))
    return int(done[0])
