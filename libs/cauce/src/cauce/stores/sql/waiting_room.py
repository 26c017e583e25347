"""What waits for a listener, what was given up, and how long handled events are remembered.

Tables: cauce_waiting (due heads by cauce_waiting_next, lane and time; earlier ones of a key by cauce_waiting_key),
cauce_dead_letter (a small table), cauce_inbox (pruned by ix_cauce_inbox_received_at) and cauce_started.
"""

from collections.abc import Sequence
from typing import Any

from cauce.ports.inbox import Dead, Known, Unhandled, WaitingDelivery, Whole
from cauce.ports.lanes import Lane
from cauce.stores.sql.connections import OwnConnection, TableGroup, reading, writing
from cauce.stores.sql.dialect import BY_CLOCK, Dialect

__all__ = ["SqlWaitingRoom", "count_overdue", "count_unhandled"]


class SqlWaitingRoom(TableGroup):
    """The WaitingRoom of the ports."""

    @reading
    async def due(
        self,
        connection: OwnConnection,
        lanes: Sequence[Lane],
        *,
        limit: int,
        known: Known | None = None,
        in_trouble: bool = True,
    ) -> Sequence[WaitingDelivery]:
        if not lanes:
            return []
        which, values = self._which_deliveries(known, in_trouble=in_trouble)
        rows = await self._run(
            connection,
            _first_of_each(
                lanes,
                "SELECT * FROM cauce_waiting w WHERE next_at <= (SELECT :NOW) AND w.consumer NOT IN "
                "(SELECT consumer FROM cauce_listener WHERE paused_at IS NOT NULL) "
                f"{which} "
                "AND (key IS NULL OR NOT EXISTS (SELECT 1 FROM cauce_waiting e WHERE e.consumer = w.consumer "
                "AND e.source = w.source AND e.key = w.key AND e.position < w.position))",
                order="next_at",
                limit=limit,
            ),
            **values,
        )
        return [_waiting(row) for row in rows]

    def _which_deliveries(self, known: Known | None, *, in_trouble: bool) -> tuple[str, dict[str, object]]:
        """Which rows are looked at, as conditions and their values."""
        which, values = "", dict[str, object]()
        dialect = self._dialect
        if known is not None:
            which += f"AND {dialect.among('consumer', 'consumers')} "
            which += f"AND (name IS NULL OR {dialect.among('name', 'names')}) "
            values |= {"consumers": dialect.many(sorted(known.consumers)), "names": dialect.many(sorted(known.names))}
        if not in_trouble:
            which += "AND COALESCE(troubles, 0) = 0 "
        return which, values

    @reading
    async def unhandled(self, connection: OwnConnection, known: Known) -> Sequence[Unhandled]:
        return await count_unhandled(connection, known)

    @writing
    async def restart_delays(self, connection: OwnConnection) -> int:
        done = await self._run(
            connection,
            "UPDATE cauce_waiting SET next_at = :NOW + (next_at - scheduled_at), scheduled_at = :NOW "
            "WHERE scheduled_at > :NOW + 1",
        )
        return int(done.rowcount)

    async def look_again(self, lanes: Sequence[Lane]) -> None:
        if not lanes:
            return
        postponed = f"reason IS NOT NULL AND next_at > :NOW AND lane IN ({', '.join(str(int(lane)) for lane in lanes)})"
        if await self._some_wait(postponed):  # hardly ever: nobody has to wait for a turn to write otherwise
            await self._wait_no_longer(postponed)

    @reading
    async def _some_wait(self, connection: OwnConnection, which: str) -> bool:
        found = await self._run(connection, f"SELECT 1 FROM cauce_waiting WHERE {which} LIMIT 1")
        return found.one_or_none() is not None

    @writing
    async def _wait_no_longer(self, connection: OwnConnection, which: str) -> None:
        await self._run(connection, f"UPDATE cauce_waiting SET next_at = :NOW, scheduled_at = :NOW WHERE {which}")

    @reading
    async def dead(self, connection: OwnConnection, *, limit: int = 100) -> Sequence[Dead]:
        rows = await self._run(connection, "SELECT * FROM cauce_dead_letter ORDER BY last_at LIMIT :limit", limit=limit)
        return [
            Dead(
                id=row.id,
                consumer=row.consumer,
                source=row.source,
                event_id=row.event_id,
                name=row.name,
                lane=Lane(int(row.lane)),
                key=row.key,
                channel=row.channel,
                message=bytes(row.message),
                reason=row.reason,
                error=row.error,
                stack=row.stack,
                attempts=int(row.attempts),
                first_at=float(row.first_at),
                last_at=float(row.last_at),
                worker=row.worker,
                whole=None if row.sha256 is None else Whole(int(row.size), row.sha256),
            )
            for row in rows
        ]

    @writing
    async def prune_inbox(
        self, connection: OwnConnection, *, older_than_s: float, limit: int, clock: float | None = None
    ) -> int:
        done = await self._run(
            connection,
            "DELETE FROM cauce_inbox WHERE state IS NULL AND (consumer, source, event_id) IN "
            "(SELECT consumer, source, event_id FROM cauce_inbox "
            f"WHERE received_at < (SELECT {BY_CLOCK} - :age) AND state IS NULL "
            "ORDER BY received_at LIMIT :limit)",
            clock=clock,
            age=older_than_s,
            limit=limit,
        )
        await self._run(
            connection,
            f"DELETE FROM cauce_started WHERE marked_at < {BY_CLOCK} - :age",
            clock=clock,
            age=older_than_s,
        )
        await self._run(
            connection,
            f"DELETE FROM cauce_adopted WHERE adopted_at < (SELECT {BY_CLOCK} - :age)",
            clock=clock,
            age=older_than_s,
        )
        return int(done.rowcount)

    @writing
    async def prune_dead(
        self, connection: OwnConnection, *, older_than_s: float, limit: int, clock: float | None = None
    ) -> int:
        done = await self._run(
            connection,
            "DELETE FROM cauce_dead_letter WHERE id IN (SELECT d.id FROM cauce_dead_letter d "
            f"WHERE d.last_at < (SELECT {BY_CLOCK} - :age) AND NOT EXISTS (SELECT 1 FROM cauce_waiting w "
            "WHERE w.consumer = d.consumer AND w.source = d.source AND w.event_id = d.event_id) "
            "ORDER BY d.last_at LIMIT :limit)",
            clock=clock,
            age=older_than_s,
            limit=limit,
        )
        return int(done.rowcount)


async def count_overdue(connection: OwnConnection, *, longer_than_s: float) -> int:
    """Count the deliveries that have been due for longer than that and were not taken, though no operator wants that."""
    statement = (
        "SELECT count(*) FROM cauce_waiting WHERE next_at < :NOW - :age "
        "AND consumer NOT IN (SELECT consumer FROM cauce_listener WHERE paused_at IS NOT NULL)"
    )
    found = await connection.execute(Dialect(connection.dialect.name).sql(statement), {"age": longer_than_s})
    return int(found.scalar_one())


async def count_unhandled(connection: OwnConnection, known: Known) -> Sequence[Unhandled]:
    """Count what waits for a listener, or for an event class, that is not known."""
    dialect = Dialect(connection.dialect.name)
    statement = (
        "SELECT consumer, name, count(*) AS n FROM cauce_waiting "
        f"WHERE NOT ({dialect.among('consumer', 'consumers')} "
        f"AND (name IS NULL OR reason IS NOT NULL OR {dialect.among('name', 'names')})) "
        "GROUP BY consumer, name ORDER BY consumer, name"
    )
    consumers, names = dialect.many(sorted(known.consumers)), dialect.many(sorted(known.names))
    rows = await connection.execute(dialect.sql(statement), {"consumers": consumers, "names": names})
    return [Unhandled(consumer=str(row.consumer), name=row.name, count=int(row.n)) for row in rows]


def _waiting(row: Any) -> WaitingDelivery:
    return WaitingDelivery(
        position=int(row.position),
        consumer=row.consumer,
        source=row.source,
        event_id=row.event_id,
        lane=Lane(int(row.lane)),
        key=row.key,
        channel=row.channel,
        message=bytes(row.message),
        attempts=int(row.attempts),
        first_failed_at=None if row.first_failed_at is None else float(row.first_failed_at),
        name=row.name,
        troubles=int(row.troubles or 0),
    )


def _first_of_each(lanes: Sequence[Lane], rows: str, *, order: str, limit: int) -> str:
    """Spell a SELECT of the first `rows` of these lanes, for an index on the lane and `order`.

    Rows of other lanes, and rows behind the first `limit`, are not read. The limit is a literal, so that PostgreSQL
    needs to plan the statement only a few times.
    """
    first = f"ORDER BY {order} LIMIT {limit}"
    each = (f"SELECT * FROM ({rows} AND lane = {int(lane)} {first}) l{int(lane)}" for lane in lanes)
    return f"SELECT * FROM ({' UNION ALL '.join(each)}) every {first}"
