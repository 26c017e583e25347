"""The figures of one service, read from its database in one snapshot.

They survive restarts, because nothing here is counted in memory. `handled` counts rows of the inbox, so it goes back as
far as the inbox is kept and no further; `counted_since_s` says how far that is. Reads every table; for operators, the
health port and tests, so scans are accepted.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.ports.description import Description, read_description
from cauce.ports.figures import Figures, ListenerFigures, MemberFigures, NoTablesError, OutboxFigures, listener_of
from cauce.stores.sql.connections import ask
from cauce.stores.sql.engine import READ_ONLY
from cauce.stores.sql.lanes import LEASE_HOLDS
from cauce.stores.sql.outbox import UNSENT_BY_NAME
from cauce.stores.sql.stuck import read_stuck

__all__ = ["SNAPSHOT_ON_POSTGRESQL", "figures_of", "is_about_tables", "read_figures"]

SNAPSHOT_ON_POSTGRESQL = {**READ_ONLY, "isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

_RECEIVED = "SELECT consumer, count(*) AS n FROM cauce_inbox WHERE state IS NULL GROUP BY consumer"
_UNSETTLED = (
    "SELECT i.consumer, count(*) AS n FROM cauce_inbox i JOIN ("
    "SELECT consumer, source, event_id FROM cauce_waiting "
    "UNION SELECT consumer, source, event_id FROM cauce_dead_letter "
    "UNION SELECT consumer, source, event_id FROM cauce_audit WHERE action IN ('discard', 'move')) o "
    "ON o.consumer = i.consumer AND o.source = i.source AND o.event_id = i.event_id "
    "WHERE i.state IS NULL GROUP BY i.consumer"
)
"""In the inbox and not handled: waiting, dead, discarded or moved to another listener by an operator."""
_WAITING = (
    "SELECT w.consumer, count(*) AS n, min(w.created_at) AS oldest, "
    "sum(CASE WHEN w.attempts > 0 AND w.in_trouble_since IS NULL AND w.next_at IS NOT NULL THEN 1 ELSE 0 END) "
    "AS failing, "
    "min(CASE WHEN w.attempts > 0 AND w.in_trouble_since IS NULL THEN w.next_at END) AS next_at, "
    "count(w.in_trouble_since) AS in_trouble, min(w.in_trouble_since) AS in_trouble_since "
    "FROM cauce_waiting w LEFT JOIN cauce_dead_letter d "
    "ON d.consumer = w.consumer AND d.source = w.source AND d.event_id = w.event_id "
    "WHERE d.id IS NULL GROUP BY w.consumer"
)
_TROUBLE = (
    "SELECT consumer, error FROM (SELECT consumer, error, "
    "row_number() OVER (PARTITION BY consumer ORDER BY in_trouble_since, position) AS place_among "
    "FROM cauce_waiting WHERE in_trouble_since IS NOT NULL) w WHERE place_among = 1"
)
"""Of every listener, what the event meets that has been in trouble longest."""
_PARKED_KEYS = (
    "SELECT consumer, count(*) AS n FROM (SELECT DISTINCT consumer, source, key FROM cauce_waiting "
    "WHERE key IS NOT NULL AND (attempts > 0 OR next_at IS NULL)) k GROUP BY consumer"
)


async def figures_of(engine: AsyncEngine) -> Figures:
    """Read the figures of the service whose database this is. Raises NoTablesError, and the driver's own errors."""
    options = SNAPSHOT_ON_POSTGRESQL if engine.dialect.name == "postgresql" else READ_ONLY
    async with engine.connect() as connection:
        await connection.execution_options(**options)
        return await read_figures(connection)


async def read_figures(connection: AsyncConnection) -> Figures:
    """Read the figures on a connection of the caller's that reads one snapshot. Raises NoTablesError."""
    reading = _Reading(connection)
    try:
        return await reading.all()
    except (ProgrammingError, OperationalError) as error:
        if is_about_tables(error):
            raise NoTablesError("Cauce's tables are not there, or not as this version knows them") from None
        raise


def is_about_tables(error: SQLAlchemyError) -> bool:
    """Whether a table or column is missing, as opposed to any other error of the statement or the server."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) in ("42P01", "42703") or any(
        text in str(cause) for text in ("no such table", "no such column", "has no column")
    )


class _Reading:
    """The statements behind the figures, on one snapshot."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self) -> Figures:
        meta = {str(row.name): str(row.value) for row in await self._ask("SELECT name, value FROM cauce_meta")}
        at = float((await self._ask("SELECT :NOW AS now"))[0].now)
        description = read_description(meta.get("description", ""))
        known = {
            str(row.consumer): row
            for row in await self._ask(
                "SELECT consumer, name, first_seen_at, paused_at, paused_because FROM cauce_listener"
            )
        }
        names = {consumer: str(row.name or listener_of(consumer)) for consumer, row in known.items()}
        lanes = await self._ask(
            "SELECT count(*) AS lanes, count(m.id) AS owned FROM cauce_lane l "
            f"LEFT JOIN cauce_member m ON m.id = l.member AND {LEASE_HOLDS}"
        )
        oldest = await self._ask("SELECT min(received_at) AS at FROM cauce_inbox")
        return Figures(
            service=meta.get("service", "?"),
            database=self._connection.dialect.name,
            durable=description.transport.durable if description and description.transport else None,
            at=at,
            incarnation=meta.get("incarnation", ""),
            listeners=await self._listeners(description, at, known, names),
            outbox=await self._outbox(at),
            stuck=await read_stuck(self._connection, description, names),
            lanes=int(lanes[0].lanes),
            lanes_owned=int(lanes[0].owned),
            members=await self._members(),
            counted_since_s=_age(oldest[0].at, at),
        )

    async def _listeners(
        self, description: Description | None, at: float, known: Mapping[str, Any], names: Mapping[str, str]
    ) -> tuple[ListenerFigures, ...]:
        in_code = {one.consumer for one in description.listeners} if description else set[str]()
        received = await self._by_consumer(_RECEIVED)
        unsettled = await self._by_consumer(_UNSETTLED)
        waiting = {row.consumer: row for row in await self._ask(_WAITING)}
        trouble = {row.consumer: row.error for row in await self._ask(_TROUBLE)}
        parked = await self._by_consumer(_PARKED_KEYS)
        dead = await self._by_consumer("SELECT consumer, count(*) AS n FROM cauce_dead_letter GROUP BY consumer")
        discarded = await self._by_consumer(
            "SELECT consumer, count(*) AS n FROM cauce_audit WHERE action = 'discard' GROUP BY consumer"
        )
        everyone = sorted({*known, *received, *waiting, *dead})
        return tuple(
            ListenerFigures(
                listener=names.get(consumer) or listener_of(consumer),
                handled=received.get(consumer, 0) - unsettled.get(consumer, 0),
                failing=int(waiting[consumer].failing) if consumer in waiting else 0,
                next_try_in_s=_until(waiting[consumer].next_at, at) if consumer in waiting else None,
                waiting=int(waiting[consumer].n) if consumer in waiting else 0,
                oldest_waiting_s=_age(waiting[consumer].oldest, at) if consumer in waiting else None,
                in_trouble=int(waiting[consumer].in_trouble) if consumer in waiting else 0,
                in_trouble_for_s=_age(waiting[consumer].in_trouble_since, at) if consumer in waiting else None,
                trouble=trouble.get(consumer),
                parked_keys=parked.get(consumer, 0),
                dead=dead.get(consumer, 0),
                discarded=discarded.get(consumer, 0),
                known_for_s=_age(known[consumer].first_seen_at, at) if consumer in known else None,
                in_code=consumer in in_code,
                paused_s=_age(known[consumer].paused_at, at) if consumer in known else None,
                paused_because=known[consumer].paused_because if consumer in known else None,
            )
            for consumer in everyone
        )

    async def _outbox(self, at: float) -> OutboxFigures:
        unsent = await self._ask(UNSENT_BY_NAME)
        (sent,) = await self._ask("SELECT count(*) AS n FROM cauce_sent")
        oldest = await self._ask("SELECT sent_at FROM cauce_sent ORDER BY sent_seq LIMIT 1")
        (size,) = await self._ask(
            "SELECT avg(length(message)) AS one FROM (SELECT message FROM cauce_sent ORDER BY sent_seq DESC LIMIT 100) s"
        )
        return OutboxFigures(
            waiting=sum(int(row.waiting) for row in unsent),
            oldest_waiting_s=_age(min((row.oldest_waiting for row in unsent if row.waiting), default=None), at),
            set_aside=sum(int(row.set_aside) for row in unsent),
            behind=sum(int(row.behind) for row in unsent),
            sent_kept=int(sent.n),
            oldest_sent_s=_age(oldest[0].sent_at, at) if oldest else None,
            kept_bytes=int(float(size.one or 0) * int(sent.n)),
        )

    async def _members(self) -> tuple[MemberFigures, ...]:
        rows = await self._ask(
            "SELECT m.id, m.lease_until - :NOW AS rest, count(l.lane) AS lanes FROM cauce_member m "
            f"LEFT JOIN cauce_lane l ON l.member = m.id WHERE {LEASE_HOLDS} "
            "GROUP BY m.id, m.lease_until ORDER BY m.id"
        )
        return tuple(
            MemberFigures(member=str(row.id), lanes=int(row.lanes), lease_ends_in_s=round(float(row.rest), 3))
            for row in rows
        )

    async def _by_consumer(self, statement: str) -> Mapping[str, int]:
        return {str(row.consumer): int(row.n) for row in await self._ask(statement)}

    async def _ask(self, statement: str) -> list[Any]:
        return await ask(self._connection, statement)


def _age(then: Any, now: float) -> float | None:
    return None if then is None else round(max(0.0, now - float(then)), 3)


def _until(then: Any, now: float) -> float | None:
    return None if then is None else round(max(0.0, float(then) - now), 3)
