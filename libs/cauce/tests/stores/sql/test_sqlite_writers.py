"""SQLite has one writer at a time; in one process the others wait in a queue instead of in a lottery."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cauce.stores.sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/turns.sqlite", pool_size=20)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (who INTEGER)"))
    yield engine
    await engine.dispose()


async def write(engine: AsyncEngine, who: int) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO t VALUES (:who)"), {"who": who})


async def rows(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list((await connection.execute(text("SELECT who FROM t ORDER BY rowid"))).scalars())


async def test_writers_that_wait_are_served_in_their_order(engine: AsyncEngine) -> None:
    async with AsyncExitStack() as connections:  # opened before, so that all have the same way to go
        for _ in range(20):
            await connections.enter_async_context(engine.connect())

    async with asyncio.TaskGroup() as tasks:
        for who in range(20):
            tasks.create_task(write(engine, who))

    assert await rows(engine) == list(range(20))


async def test_the_turn_passes_on_after_an_error_a_rollback_and_a_lost_connection(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        await connection.rollback()
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO t VALUES (2)"))
        await connection.invalidate()
    with pytest.raises(ZeroDivisionError):
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO t VALUES (3)"))
            raise ZeroDivisionError
    async with asyncio.timeout(4):  # less than SQLite's own waiting
        await write(engine, 4)

    assert await rows(engine) == [4]


async def test_a_writer_that_gives_up_waiting_leaves_the_queue(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await write(engine, 2)
    async with asyncio.timeout(4):
        await write(engine, 3)

    assert await rows(engine) == [1, 3]


async def test_a_writer_that_is_cancelled_anywhere_keeps_no_lock_even_if_its_traceback_is_kept(
    engine: AsyncEngine,
) -> None:
    async def write_for_ever() -> None:
        while True:
            async with engine.begin() as connection:
                await connection.execute(text("INSERT INTO t VALUES (0) RETURNING who"))
                await connection.execute(text("SELECT who FROM t ORDER BY rowid LIMIT 9"))

    kept: list[asyncio.Task[None]] = []
    for who in range(1, 121):
        loop = asyncio.get_running_loop()
        kept.append(loop.create_task(write_for_ever()))
        await asyncio.sleep(who / 4000)
        kept[-1].cancel()
        await asyncio.wait(kept)
        async with asyncio.timeout(4):  # less than SQLite's own waiting
            await write(engine, who)

    assert set(range(1, 121)) <= set(await rows(engine))
