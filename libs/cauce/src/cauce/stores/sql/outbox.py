"""The outbox: a queue of what is to be sent. The relay looks, sends, and moves what the broker has confirmed.

Tables: cauce_outbox, by its primary key alone; cauce_set_aside, which is nearly always empty; cauce_sent (appended to, a
known event by cauce_sent_event); cauce_adopted (by its primary key). Sending is fenced by the epochs in cauce_lane;
adopting asks cauce_inbox by its primary key. The backlog reads cauce_waiting as well.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import outgoing as message_of
from cauce.ports.lanes import LANES, Epoch, Lane, MemberId, hash_of
from cauce.ports.outbox import Backlog, OutboxRow
from cauce.ports.transport import BrokerId
from cauce.stores.sql.connections import OwnConnection, TableGroup, reading, writing
from cauce.stores.sql.correlation import correlation_hash
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.driver_statements import DriverStatement, array, many
from cauce.stores.sql.outbox_floor import OutboxFloor
from cauce.stores.storable import storable_line

__all__ = ["EVENT", "PUT_BACK", "PUT_BACK_NOW", "UNSENT_BY_NAME", "SqlOutbox", "count_unsent_elsewhere"]

EVENT = "event_id, topic, key_hash, key, key_seq, correlation_hash, name, message, created_at"
"""The columns that an event has wherever it stands."""
PUT_BACK = "put_back"
PUT_BACK_NOW = (
    f"INSERT INTO cauce_meta (name, value) VALUES ('{PUT_BACK}', '1') ON CONFLICT (name) "
    "DO UPDATE SET value = CAST(CAST(cauce_meta.value AS bigint) + 1 AS text)"
)
"""To be executed with whatever puts rows into the queue that had a position before, or lets such rows go: relays that
had passed these positions look again from the beginning."""
_IS_BEHIND = (
    "EXISTS (SELECT 1 FROM cauce_set_aside a WHERE a.topic = o.topic AND a.key = o.key AND a.position < o.position)"
)
"""Of an unsent row `o`: an earlier one of its key was set aside, so it has to wait."""
UNSENT_BY_NAME = f"""
    SELECT name, min(created_at) AS oldest, min(CASE WHEN stands = 'waiting' THEN created_at END) AS oldest_waiting,
        sum(CASE WHEN stands = 'waiting' THEN 1 ELSE 0 END) AS waiting,
        sum(CASE WHEN stands = 'behind' THEN 1 ELSE 0 END) AS behind,
        sum(CASE WHEN stands = 'set_aside' THEN 1 ELSE 0 END) AS set_aside
    FROM (
        SELECT name, created_at, CASE WHEN {_IS_BEHIND} THEN 'behind' ELSE 'waiting' END AS stands FROM cauce_outbox o
        UNION ALL SELECT name, created_at, 'set_aside' FROM cauce_set_aside
    ) u GROUP BY name ORDER BY min(created_at)
"""
"""Unsent events by name, for operators. Each is waiting, behind or set aside, and never two."""

_SOME = 500
_SMALL_BYTES = 2 * 1024**2
_COLUMNS = "position, event_id, topic, key_hash, key, message"
_NOT_BEHIND = "COALESCE(position < (SELECT min(a.position) FROM cauce_set_aside a WHERE a.topic = o.topic AND a.key = o.key), 1 = 1)"
"""Asked for each row by an index, and so only for as many rows as are wanted: PostgreSQL would join whole tables to find
out which are not behind another."""
_DUE_ON_SQLITE = f"SELECT {_COLUMNS} FROM cauce_outbox o WHERE position > 0 AND {{which}} {_NOT_BEHIND} ORDER BY position LIMIT {{limit}}"
_LOOK = f"""
    WITH RECURSIVE portion (first) AS (
        SELECT min(position) FROM cauce_outbox WHERE position > :floor UNION ALL
        SELECT (SELECT min(n.position) FROM cauce_outbox n WHERE n.position >= portion.first + {{limit}})
        FROM portion WHERE portion.first IS NOT NULL
    )
    SELECT s.oldest_writer, s.put_back, due.* FROM (
        SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest_writer,
            (SELECT value FROM cauce_meta WHERE name = '{PUT_BACK}') AS put_back
    ) s LEFT JOIN (
        SELECT {_COLUMNS} FROM portion, LATERAL (
            SELECT * FROM cauce_outbox q WHERE q.position >= portion.first AND q.position < portion.first + {{limit}}
            ORDER BY q.position OFFSET 0
        ) o WHERE {{which}} {_NOT_BEHIND} LIMIT {{limit}}
    ) due ON true ORDER BY due.position
"""
"""The queue is read from its beginning in portions, one after the other, until there are enough rows. If one asks for the
first rows in their order instead, PostgreSQL guesses how many there are, for which a queue has no statistics, and sorts the
whole queue. One row without an event if there is none."""
_HELD = f"""
    SELECT 1 FROM cauce_lane WHERE member = :me AND (lane, epoch) IN (
        SELECT * FROM unnest({array("lanes", "smallint")}, {array("epochs", "bigint")})
    ) ORDER BY lane FOR SHARE
"""
_OF_OUTBOX = ", ".join(f"o.{column}" for column in ("position", *EVENT.split(", ")))
_MOVE = DriverStatement(f"""
    WITH held AS MATERIALIZED ({_HELD}), gone AS (
        DELETE FROM cauce_outbox
        WHERE position = ANY({array("positions", "bigint")}) AND (SELECT count(*) FROM held) = :count RETURNING *
    ), kept AS (
        INSERT INTO cauce_sent (sent_seq, part, position, {EVENT}, lane, sent_at, broker_id)
        SELECT nextval('cauce_sent_order'), (SELECT part FROM cauce_sent_part ORDER BY first_seq DESC LIMIT 1),
            {_OF_OUTBOX}, o.key_hash & {LANES - 1}, (SELECT :NOW), m.broker_id
        FROM unnest({array("positions", "bigint")}, {array("broker_ids", "text")})
            WITH ORDINALITY AS m (position, broker_id, n) JOIN gone o USING (position) ORDER BY m.n
    )
    SELECT (SELECT count(*) FROM held), CAST(CAST(pg_current_xact_id() AS text) AS bigint)
""")
_KEEP_ON_SQLITE = f"""
    INSERT INTO cauce_sent (sent_seq, part, position, {EVENT}, lane, sent_at, broker_id)
    SELECT m.key + (SELECT max(COALESCE((SELECT max(sent_seq) + 1 FROM cauce_sent), 0), first_seq) FROM cauce_sent_part),
        0, {_OF_OUTBOX}, o.key_hash & {LANES - 1}, :NOW, m.value ->> 1
    FROM json_each(:sent) m JOIN cauce_outbox o ON o.position = m.value ->> 0
"""

_BACKLOG = """
    SELECT u.unsent, u.oldest, l.consumer AS longest_consumer, l.key AS longest_key, l.n AS longest,
        (SELECT count(*) FROM cauce_waiting WHERE reason = 'newer version') AS newer
    FROM (SELECT count(*) AS unsent, :NOW - min(created_at) AS oldest FROM cauce_outbox) u LEFT JOIN (
        SELECT consumer, key, count(*) AS n FROM cauce_waiting WHERE key IS NOT NULL
        GROUP BY consumer, source, key ORDER BY n DESC LIMIT 1
    ) l ON true
"""


class SqlOutbox(TableGroup):
    """The queue's part of the ports' OutboxTable."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._floor = OutboxFloor()

    async def pending(
        self,
        lanes: Sequence[Lane],
        *,
        limit: int,
        topics: Collection[str] | None = None,
        besides: Collection[int] = (),
    ) -> Sequence[OutboxRow]:
        if not lanes:
            return []
        find = self._find_on_postgres if self._dialect.postgres else self._find_on_sqlite
        return [
            OutboxRow(position, event_id, topic, Lane(key_hash & (LANES - 1)), key, bytes(message))
            for position, event_id, topic, key_hash, key, message in await find(lanes, limit, topics, besides)
        ]

    async def _find_on_postgres(
        self, lanes: Sequence[Lane], limit: int, topics: Collection[str] | None, besides: Collection[int]
    ) -> Sequence[Any]:
        which, values = "", dict[str, str]()
        if len(lanes) < LANES:
            which += f"(key_hash & {LANES - 1}) = ANY({array('lanes', 'integer')}) AND "
            values["lanes"] = many(int(lane) for lane in lanes)
        if topics is not None:
            which += f"topic = ANY({array('topics', 'text')}) AND "
            values["topics"] = many(sorted(topics))
        if besides:
            which += f"position <> ALL({array('besides', 'bigint')}) AND "
            values["besides"] = many(besides)
        look = _look(which, limit)
        looked_for = (frozenset(lanes), None if topics is None else frozenset(topics))
        async with self._reading() as connection:
            while True:
                floor, began = self._floor.before(looked_for), time.monotonic()
                rows = await look.rows(connection, floor=floor, **values)
                if self._floor.holds(rows[0][1], floor=floor):
                    break
        self._floor.took(time.monotonic() - began, floor=floor)
        found = [tuple(row)[2:] for row in rows if row[2] is not None]
        self._floor.looked([row[0] for row in found], besides=besides, oldest_writer=int(rows[0][0]))
        return found

    @reading
    async def _find_on_sqlite(
        self,
        connection: OwnConnection,
        lanes: Sequence[Lane],
        limit: int,
        topics: Collection[str] | None,
        besides: Collection[int],
    ) -> Sequence[Any]:
        which, values = "", dict[str, Any]()
        if len(lanes) < LANES:
            which += f"(key_hash & {LANES - 1}) IN ({_numbers(lanes)}) AND "
        if topics is not None:
            which += f"{self._dialect.among('topic', 'topics')} AND "
            values["topics"] = self._dialect.many(sorted(topics))
        if besides:
            which += f"NOT ({self._dialect.among('position', 'besides', type_='bigint')}) AND "
            values["besides"] = self._dialect.many(besides)
        found = await self._run(connection, _DUE_ON_SQLITE.format(which=which, limit=limit), **values)
        return _while_they_are_small(found)

    @reading
    async def unsent_elsewhere(self, connection: OwnConnection, topics: Collection[str]) -> Mapping[str, int]:
        return await count_unsent_elsewhere(connection, topics)

    @writing
    async def set_aside(self, connection: OwnConnection, position: int, problem: str) -> None:
        moved = await self._run(
            connection,
            f"INSERT INTO cauce_set_aside (position, {EVENT}, problem, set_aside_at) "
            f"SELECT position, {EVENT}, CAST(:problem AS text), :NOW FROM cauce_outbox "
            "WHERE position = :position FOR UPDATE ON CONFLICT DO NOTHING",
            problem=storable_line(problem),
            position=position,
        )
        if moved.rowcount:
            await self._run(connection, "DELETE FROM cauce_outbox WHERE position = :position", position=position)

    async def mark_sent(self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]) -> bool:
        # A process that lost one of its lanes changes nothing. The rows of the lanes stay locked until the commit.
        if not self._dialect.postgres:
            return await self._move_on_sqlite(owned, me, sent)
        positions, broker_ids = zip(*sent, strict=True)
        async with self._alone() as connection:
            [(held, writer)] = await _MOVE.rows(
                connection,
                me=me,
                lanes=many(int(lane) for lane in owned),
                epochs=many(int(epoch) for epoch in owned.values()),
                count=len(owned),
                positions=many(positions),
                broker_ids=many(broker_ids),
            )
        if held != len(owned):
            return False
        self._floor.moved(positions, int(writer))
        return True

    @writing
    async def _move_on_sqlite(
        self, connection: OwnConnection, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]
    ) -> bool:
        held = await self._run(
            connection,
            f"SELECT lane, epoch FROM cauce_lane WHERE member = :me AND lane IN ({_numbers(list(owned))})",
            me=me,
        )
        if {Lane(lane): Epoch(epoch) for lane, epoch in held} != dict(owned):
            return False
        await self._run(connection, _KEEP_ON_SQLITE, sent=json.dumps([list(one) for one in sent]))
        await self._run(
            connection,
            f"DELETE FROM cauce_outbox WHERE {self._dialect.among('position', 'positions')}",
            positions=self._dialect.many([position for position, _ in sent]),
        )
        return True

    @writing
    async def adopt(self, connection: OwnConnection, envelope: Envelope, *, known_to: Sequence[str]) -> bool:
        event = {"topic": envelope.source, "event_id": envelope.id}
        if await self._is_known(connection, event, known_to):
            return False
        new = await self._run(
            connection,
            "INSERT INTO cauce_adopted (event_id, adopted_at) VALUES (:event_id, :NOW) ON CONFLICT DO NOTHING",
            event_id=envelope.id,
        )
        if new.rowcount != 1:
            return False
        await self._run(
            connection,
            "INSERT INTO cauce_outbox (event_id, topic, key_hash, key, correlation_hash, name, message, created_at) "
            "VALUES (:event_id, :topic, :key_hash, :key, :correlation_hash, :name, :message, :NOW)",
            **event,
            key_hash=hash_of(envelope),
            key=envelope.key,
            correlation_hash=correlation_hash(envelope),
            name=envelope.name,
            message=message_of(envelope),
        )
        return True

    async def _is_known(self, connection: OwnConnection, event: Mapping[str, str], known_to: Sequence[str]) -> bool:
        """Whether one of these consumers has met the event, or this service has sent it."""
        consumers = {f"consumer{number}": consumer for number, consumer in enumerate(known_to)}
        met = (
            f"OR EXISTS (SELECT 1 FROM cauce_inbox WHERE consumer IN ({', '.join(f':{one}' for one in consumers)}) "
            "AND source = :topic AND event_id = :event_id)"
        )
        found = await self._run(
            connection,
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM cauce_sent WHERE event_id = :event_id "
            f"AND topic = :topic) {met if consumers else ''}",
            **event,
            **consumers,
        )
        return found.one_or_none() is not None

    @reading
    async def backlog(self, connection: OwnConnection) -> Backlog:
        row = (await self._run(connection, _BACKLOG)).one()
        return Backlog(
            unsent=int(row.unsent),
            oldest_unsent_s=None if row.oldest is None else max(0.0, float(row.oldest)),
            longest=int(row.longest or 0),
            longest_key=row.longest_key or "",
            longest_consumer=row.longest_consumer or "",
            newer_version=int(row.newer),
        )


def _while_they_are_small(found: Any) -> Sequence[Any]:
    """The rows that were found, as tuples of the driver: five hundred in any case, and more while all together are small.
    Read from the cursor itself, because SQLAlchemy's rows would take as long again."""
    rows, size, cursor = list[Any](), 0, found.cursor
    while some := cursor.fetchmany(_SOME):
        rows += some
        size += sum(len(message) for *_, message in some)
        if len(some) < _SOME or size > _SMALL_BYTES:
            break
    found.close()
    return rows


@lru_cache(maxsize=64)
def _look(which: str, limit: int) -> DriverStatement:
    return DriverStatement(_LOOK.format(which=which, limit=limit))


async def count_unsent_elsewhere(connection: OwnConnection, topics: Collection[str]) -> Mapping[str, int]:
    """Count the unsent rows of other topics than these, by topic."""
    dialect = Dialect(connection.dialect.name)
    statement = (
        "SELECT topic, count(*) AS n FROM cauce_outbox "
        f"WHERE NOT ({dialect.among('topic', 'topics')}) GROUP BY topic ORDER BY topic"
    )
    rows = await connection.execute(dialect.sql(statement), {"topics": dialect.many(sorted(topics))})
    return {str(row.topic): int(row.n) for row in rows}


def _numbers(lanes: Sequence[Lane]) -> str:
    return ", ".join(str(int(lane)) for lane in lanes)
