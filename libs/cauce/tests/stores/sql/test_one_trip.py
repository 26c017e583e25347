"""A statement of a session on SQLite is one trip to the driver's thread, and means what it means on aiosqlite."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from cauce.stores.sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

SERIES = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :count) SELECT n FROM s"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/trips.sqlite")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    yield engine
    await engine.dispose()


async def test_every_statement_goes_to_the_thread_once(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[Any] = []
    plain: Any = getattr(aiosqlite.Connection, "_execute")  # noqa: B009  # what every call of it goes through

    async def counted(self: aiosqlite.Connection, function: Any, *args: Any, **values: Any) -> Any:
        trips.append(function)
        return await plain(self, function, *args, **values)

    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))  # with it BEGIN
        monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
        for statement in ("SELECT n FROM t", "INSERT INTO t VALUES (7) RETURNING n", "UPDATE t SET n = 8"):
            await connection.execute(text(statement))
        await connection.commit()
        monkeypatch.undo()
    assert len(trips) == 4


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
async def test_all_rows_come_however_many_there_are(engine: AsyncEngine, count: int) -> None:
    async with engine.connect() as connection:
        found = (await connection.execute(text(f"{SERIES} LIMIT :count"), {"count": count})).scalars().all()
        assert found == list(range(1, count + 1))
        stream = await connection.stream(text(f"{SERIES} LIMIT :count"), {"count": count})
        assert [row.n async for row in stream] == found
        stream = await connection.stream(text(f"{SERIES} LIMIT :count"), {"count": count})
        assert [len(part) async for part in stream.partitions(400)] == [
            min(400, count - begun) for begun in range(0, count, 400)
        ]


async def test_counts_and_ids_of_changes_are_told(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": n} for n in range(5)])
        assert (await connection.execute(text("UPDATE t SET n = n + 100 WHERE n > 2"))).rowcount == 2
        assert (await connection.execute(text("INSERT INTO t VALUES (50)"))).lastrowid == 50


async def test_the_drivers_own_connection_is_still_aiosqlites(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, aiosqlite.Connection)
        async with driver.cursor() as cursor:
            await cursor.execute("SELECT 1 UNION SELECT 2")
            assert [row async for row in cursor] == [(1,), (2,)]
        cursor = await driver.cursor()
        await cursor.executescript("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
        await cursor.execute("SELECT n FROM t")
        assert await cursor.fetchone() == (1,)
        assert await cursor.fetchall() == [(2,)]
        await cursor.close()
        async with driver.execute("SELECT 3") as cursor:
            assert await cursor.fetchone() == (3,)


async def test_a_stream_that_is_left_early_keeps_no_lock(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": n} for n in range(3000)])
    async with engine.connect() as connection:
        stream = await connection.stream(text("SELECT n FROM t"))
        await stream.fetchone()
        await stream.close()
    async with asyncio.timeout(4), engine.begin() as connection:  # less than SQLite's own waiting
        await connection.execute(text("DELETE FROM t"))
