"""Every statement of the hot paths, as it is executed: an index, and few pages, however much is kept.

A million sent rows and a million inbox rows; a hundred thousand rows each that are not sent or due and belong to the
lanes of somebody who does not get on.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cauce.dev.servers import ScratchDatabases
from cauce.ports.inbox import Failure, Known
from cauce.ports.lanes import Lane, MemberId
from cauce.ports.outbox import KeepSent
from cauce.ports.transport import BrokerId
from cauce.stores.sql.driver_statements import DriverStatement
from cauce.stores.sql.schema import upgrade
from cauce.stores.sql.tables import metadata
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing.store_contract import delivery, envelope, unit
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateIndex, DropIndex
from testsupport.databases import engines_of

KEPT = 1_000_000
BACKLOG = 100_000
LISTENER = "ledger/count"
ME = MemberId("me")
LARGE = (
    "cauce_outbox",
    "cauce_sent",
    *(f"cauce_sent_{part}" for part in range(8)),
    "cauce_inbox",
    "cauce_waiting",
    "cauce_position",
    "cauce_key_head",
)
ALIASES = ("o", "w", "e", "b")
"""Of the large tables, in our statements."""
MINE = [Lane(lane) for lane in range(8)]
"""The lanes 8 to 15 are somebody else's."""
FAILURE = Failure(reason="exhausted", error="ValueError: no", stack=None, attempts=3, worker="host:1", version=None)

FILL = """
    INSERT INTO cauce_sent (sent_seq, part, position, event_id, topic, key_hash, key, key_seq, correlation_hash, name,
        message, created_at, lane, sent_at, broker_id)
        SELECT n, :PART, n, id, 'shop', n % 16, 'k' || n % 10000, n, n, 'shop.counted', :message, n, n % 16, n, id
        FROM (:KEPT);
    INSERT INTO cauce_outbox (event_id, topic, key_hash, key, key_seq, correlation_hash, name, message, created_at)
        SELECT 'unsent' || id, 'shop', n % 16, 'u' || n % 1000, n, n, 'shop.counted', :message, n FROM (:BACKLOG);
    INSERT INTO cauce_inbox (consumer, source, event_id, received_at)
        SELECT 'ledger/count', 'shop', id, n FROM (:KEPT);
    INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, next_at, created_at)
        SELECT 'ledger/count', 'shop', 'due' || id, 8 + n % 8, 'w' || n % 1000, '', :message, n, n FROM (:BACKLOG);
    INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, created_at)
        SELECT 'ledger/count', 'shop', 'parked' || id, n % 8, 'p' || n % 8, '', :message, n FROM (:BACKLOG);
    INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation)
        SELECT 'ledger/count', 'shop', 'k' || n, 10, 'first' FROM (:BACKLOG);
    INSERT INTO cauce_key_head (topic, key, seq)
        SELECT 'shop', 'k' || n, 100 FROM (:BACKLOG)
"""
SERIES = {
    "postgresql": "SELECT n, to_char(n, 'FM0000000') AS id FROM generate_series(1, {count}) AS s(n)) AS filling",
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) "
    "SELECT n, printf('%07d', n) AS id FROM s)",
}


@dataclass(frozen=True)
class Executed:
    statement: str
    reads: Sequence[str]
    """How each table is read, in the database's words."""
    pages: int = 0
    rows: int = 1

    @property
    def pages_for_each(self) -> float:
        return self.pages / max(1, self.rows)


@asynccontextmanager
async def explained(
    store: SqlAlchemyStore, explain: Callable[[Any, str, Any], Executed]
) -> AsyncGenerator[list[Executed]]:
    """The plan of every statement that is executed meanwhile, made just before it and on the same rows."""
    seen: list[Executed] = []

    def before(connection: Any, _cursor: object, statement: str, parameters: Any, _context: object, many: bool) -> None:
        if statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            seen.append(explain(connection.connection, statement, parameters[0] if many else parameters))

    async def given_to_the_driver(self: DriverStatement, connection: AsyncConnection, **values: Any) -> Sequence[Any]:
        seen.append(await connection.run_sync(lambda one: explain(one.connection, self.for_psycopg, values)))
        return await rows(self, connection, **values)

    rows = DriverStatement.rows
    for engine in engines_of(store.engine):
        event.listen(engine, "before_cursor_execute", before)
    with patch.object(DriverStatement, "rows", given_to_the_driver):
        yield seen
    for engine in engines_of(store.engine):
        event.remove(engine, "before_cursor_execute", before)


def explained_by_postgres(connection: Any, statement: str, parameters: Any) -> Executed:
    cursor = connection.cursor()
    alone = connection.driver_connection.autocommit
    cursor.execute("BEGIN" if alone else "SAVEPOINT explained")
    cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
    plan: dict[str, Any] = cursor.fetchone()[0][0]["Plan"]
    cursor.execute("ROLLBACK" if alone else "ROLLBACK TO SAVEPOINT explained")
    cursor.close()
    return Executed(
        statement,
        [f"{node['Node Type']} {node['Relation Name']}" for node in _nodes(plan) if "Relation Name" in node],
        pages=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        rows=max(one["Actual Rows"] for one in (plan, *plan.get("Plans", ()))),
    )


def explained_by_sqlite(connection: Any, statement: str, parameters: Any) -> Executed:
    cursor = connection.cursor()
    cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
    reads = [str(row[3]) for row in cursor.fetchall()]
    cursor.close()
    return Executed(statement, reads)


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(inner for outer in plan.get("Plans", ()) for inner in _nodes(outer))]


async def hot_paths(store: SqlAlchemyStore) -> None:
    """What a busy service does all day."""
    message_store = store.message_store()
    rows = (await message_store.beat(ME, lease_s=60)).rows
    mine = await message_store.take(ME, {row.lane: row.epoch for row in rows if row.lane in MINE})

    # A business transaction
    async with unit(store) as tx:
        tx.publish(envelope(1, key="k1"), envelope(2))
        tx.publish(envelope(3, key="k2"), consumer=LISTENER)
    async with unit(store) as tx:
        tx.publish(*(envelope(number, key=f"many-{number % 100}") for number in range(2000, 4000)))

    # The relay
    found = await message_store.pending(MINE, limit=500, topics=["shop"], besides=[1, 2, 3])
    await message_store.mark_sent(mine, ME, [(row.position, BrokerId(f"{row.position}-1")) for row in found])
    await message_store.newest_sent("shop", Lane(0), limit=100)
    await message_store.adopt(envelope(4), known_to=[LISTENER])

    # Listeners
    async with unit(store) as tx:
        await tx.inbox.arrive(LISTENER, [envelope(5, key="k5", seq=11)], idle_s=5)
    async with unit(store) as tx:
        await tx.inbox.arrive(LISTENER, [envelope(n, key=f"k{n}", seq=11) for n in range(100, 200)], idle_s=5)
    async with unit(store) as tx:
        await tx.inbox.arrive(LISTENER, [envelope(10, key="k9", seq=2_000_000)], idle_s=5)
    known = Known(consumers=[LISTENER, "ledger/other"], names=["shop.counted", "shop.sold"])
    for waiting in (await message_store.due(MINE, limit=512, known=known, in_trouble=False))[:1]:
        async with unit(store) as tx:
            await tx.inbox.lock(waiting)
            await tx.inbox.remove_dead_letter(waiting)
            await tx.inbox.claim(waiting, idle_s=5)
            await tx.inbox.release_next(waiting)
            await tx.inbox.first_time(LISTENER, waiting.source, waiting.event_id)
    async with unit(store) as tx:
        await tx.inbox.keep(delivery(6, key="p1"), delay_s=None, error=None)
        await tx.inbox.keep(delivery(7, key="free"), delay_s=1.0, error="no")
        await tx.inbox.write_dead_letter(delivery(7, key="free"), "shop.counted", FAILURE)
        await tx.inbox.remove(delivery(7, key="free"))
        await tx.inbox.mark_started(LISTENER, "shop", "event-8")
        await tx.inbox.unmark_started(LISTENER, "shop", "event-8")
        await tx.inbox.begin_effect(LISTENER, "shop", "event-9")
        await tx.inbox.end_effect(LISTENER, "shop", "event-9")

    # Now and then
    (newest, _), *_ = await message_store.newest_sent("shop", Lane(1), limit=1)
    await message_store.mark_unsent("shop", Lane(1), from_seq=newest)
    for age_s in (10.0**10, -60.0):
        await message_store.prune_sent(KeepSent(seconds=age_s, rows=KEPT // 2, bytes=10**12))
        await message_store.prune_inbox(older_than_s=age_s, limit=1000)
    await message_store.give_back(ME, MINE)


async def fill(store: SqlAlchemyStore, *, kept: int, backlog: int) -> None:
    """Indexes are made afterwards, which takes a third of the time."""
    await store.prepare()
    counts = {":KEPT)": kept, ":BACKLOG)": backlog}
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    async with store.engine.begin() as connection:
        for index in indexes:
            await connection.execute(DropIndex(index))
        for statement in FILL.split(";"):
            spelled = statement.replace(":PART", "n % 8" if store.name == "postgresql" else "0")
            for name, count in counts.items():
                spelled = spelled.replace(name, SERIES[store.name].format(count=count))
            await connection.execute(text(spelled), {"message": b"x" * 100})
        for index in indexes:
            await connection.execute(CreateIndex(index))
        if store.name == "postgresql":  # which does it by itself now and then; SQLite does not
            await connection.execute(text(f"SELECT setval('cauce_sent_order', {kept})"))
            await connection.execute(text("ANALYZE"))


async def test_postgres_reads_few_pages_by_an_index(postgres: ScratchDatabases) -> None:
    store = SqlAlchemyStore(create_engine(postgres.database()))
    async with store.engine.begin() as connection:
        await connection.run_sync(upgrade)
        for table in ("cauce_outbox", "cauce_inbox", "cauce_waiting", *(f"cauce_sent_{part}" for part in range(8))):
            await connection.execute(text(f"ALTER TABLE {table} SET UNLOGGED"))  # the same pages, sooner filled
    await fill(store, kept=KEPT, backlog=BACKLOG)

    async with explained(store, explained_by_postgres) as seen:
        await hot_paths(store)
    await store.close()

    assert len({one.statement for one in seen}) > 30
    scans = [f"Seq Scan {table}" for table in LARGE]
    assert [one for one in seen if any(scan in one.reads for scan in scans)] == []
    assert [one for one in seen if one.rows <= 1 and one.pages > 100] == []
    assert [one for one in seen if one.rows > 1 and one.pages_for_each > 50] == []


async def test_sqlite_searches_by_an_index(tmp_path: Path) -> None:
    store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/hot.sqlite"))
    await fill(store, kept=20_000, backlog=2_000)

    async with explained(store, explained_by_sqlite) as seen:
        await hot_paths(store)
    await store.close()

    assert len({one.statement for one in seen}) > 30
    scans = [f"SCAN {table}" for table in (*LARGE, *ALIASES)]
    assert [one for one in seen if any(scan in one.reads for scan in scans)] == []
