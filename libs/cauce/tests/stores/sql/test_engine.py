"""What `create_engine` promises of every connection, and what it refuses."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cauce import CauceError, ConfigurationError, DomainEvent, Service, Transaction, on
from cauce.dev.servers import ScratchDatabases
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing import story
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000, "foreign_keys": 1, "query_only": 0}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/settings.sqlite", pool_size=3, max_overflow=7)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counters (n INTEGER NOT NULL)"))
        await connection.execute(text("INSERT INTO counters VALUES (0)"))
    yield engine
    await engine.dispose()


async def pragmas(connection: Any) -> dict[str, object]:
    return {
        name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
        for name in PRAGMAS
    }  # fmt: skip


async def test_every_pooled_connection_has_the_pragmas(engine: AsyncEngine) -> None:
    read_only = engine.execution_options(cauce_read_only=True)  # ten writers at once there cannot be
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(read_only.connect()) for _ in range(10)]
        assert [await pragmas(one) for one in connections] == [PRAGMAS | {"query_only": 1}] * 10
    async with engine.connect() as connection:
        assert await pragmas(connection) == PRAGMAS


async def test_a_connection_that_was_read_only_writes_again(engine: AsyncEngine) -> None:
    service = Service("settings-ms", store=SqlAlchemyStore(engine))
    async with service:
        for _ in range(3):
            with pytest.raises(Exception, match="readonly"):
                async with service.transaction(read_only=True) as tx:
                    await tx.session.execute(text("UPDATE counters SET n = n + 1"))
            async with service.transaction() as tx:
                await tx.session.execute(text("UPDATE counters SET n = n + 1"))


async def test_a_new_file_that_somebody_is_writing_is_waited_for(tmp_path: Path) -> None:
    """SQLite itself fails at once here, whatever the busy timeout: WAL is wanted and the first writer has no WAL yet."""
    other = sqlite3.connect(tmp_path / "new.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE other (n INTEGER)")
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/new.sqlite")

    async def use() -> dict[str, object]:
        async with engine.connect() as connection:
            return await pragmas(connection)

    async with asyncio.TaskGroup() as group:
        using = group.create_task(use())
        await asyncio.sleep(0.3)
        assert not using.done()
        other.execute("COMMIT")
    other.close()
    assert using.result() == PRAGMAS
    await engine.dispose()


async def test_a_weaker_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cauce.stores.sql.pragmas as module

    pragmas: Any = module.PRAGMAS  # a SQLite that cannot is hard to find
    monkeypatch.setitem(pragmas, "synchronous", 9)
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/weak.sqlite")
    with pytest.raises(ConfigurationError, match=r"SQLite refuses PRAGMA synchronous = 9 \(it is \d\)"):
        await engine.connect()
    await engine.dispose()


WRITER = """
import asyncio, sys
from sqlalchemy import text
from cauce import Service
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine

async def main(url):
    async with Service("writer-ms", store=SqlAlchemyStore(create_engine(url))) as service:
        async def write(times):
            for _ in range(times):
                async with service.transaction() as tx:
                    n = (await tx.session.execute(text("SELECT n FROM counters"))).scalar_one()
                    await tx.session.execute(text("UPDATE counters SET n = :n"), {"n": n + 1})
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(write(125))

asyncio.run(main(sys.argv[1]))
"""


async def test_two_processes_that_read_and_then_write_lose_nothing_and_see_no_lock_error(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WRITER, engine.url.render_as_string(hide_password=False)]
    outcomes = await asyncio.gather(
        *(asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=200) for _ in range(2))
    )
    assert [(one.returncode, one.stderr) for one in outcomes] == [(0, ""), (0, "")]
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT n FROM counters"))).scalar_one() == 1000


async def test_a_database_in_memory_is_one_and_its_transactions_take_turns() -> None:
    async with Service("memory-ms", store=SqlAlchemyStore(create_engine("sqlite+aiosqlite://"))) as service:
        async with service.transaction() as tx:
            await tx.session.execute(text("CREATE TABLE counters (n INTEGER)"))
            await tx.session.execute(text("INSERT INTO counters VALUES (0)"))

        async def count() -> None:
            async with service.transaction() as tx:
                n = (await tx.session.execute(text("SELECT n FROM counters"))).scalar_one()
                await asyncio.sleep(0)
                await tx.session.execute(text("UPDATE counters SET n = :n"), {"n": n + 1})

        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(count())
        async with service.transaction(read_only=True) as tx:
            assert (await tx.session.execute(text("SELECT n FROM counters"))).scalar_one() == 20


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (
            "not a url",
            (
                "the database URL cannot be read; expected sqlite+aiosqlite:///FILE or "
                "postgresql+psycopg://USER:PASS@HOST/DB"
            ),
        ),
        ("mysql://u:hidden@h/d", "database 'mysql' is not supported: use sqlite+aiosqlite or postgresql+psycopg"),
        (
            "sqlite:///file.db",
            "the database URL names no driver, and the default is not asynchronous; write sqlite+aiosqlite://…",
        ),
        (
            "postgresql+psycopg2://u:hidden@h/d",
            "the driver 'psycopg2' of the database URL is not asynchronous; write postgresql+psycopg://…",
        ),
        (
            "postgresql+nosuch://u:hidden@h/d",
            "the driver 'nosuch' of the database URL is not asynchronous; write postgresql+psycopg://…",
        ),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_engine(url)
    assert caught.value.problems == (problem,)
    assert "hidden" not in str(caught.value)


def test_a_driver_that_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError) as caught:
        create_engine("postgresql+psycopg://u:p@h/d")
    assert caught.value.problems == ("the driver psycopg is not installed: pip install 'cauce[postgres]'",)


async def test_a_postgres_that_is_not_there_is_said_quickly_and_shows_no_password() -> None:
    store = SqlAlchemyStore(create_engine("postgresql+psycopg://u:hidden@127.0.0.1:1/d"))
    assert await store.problem() == "the database does not answer (OperationalError)"
    await store.close()


async def test_values_never_appear_in_errors(engine: AsyncEngine, postgres: ScratchDatabases) -> None:
    for one in (engine, create_engine(postgres.database())):
        with pytest.raises(Exception, match="no_such_table") as caught:
            async with one.begin() as connection:
                await connection.execute(text("INSERT INTO no_such_table VALUES (:v)"), {"v": "hunter2"})
        assert "hunter2" not in str(caught.value)
        await one.dispose()


# A service that is started again


class Counted(DomainEvent, name="settings.counted"):
    pass


@on(Counted, when="after_commit")
async def count_again(event: Counted, tx: Transaction) -> None:
    await tx.session.execute(text("UPDATE counters SET n = n + 1"))


def test_one_service_runs_in_one_event_loop_after_the_other(tmp_path: Path) -> None:
    """As an application does in tests, where every client has a loop of its own."""
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/loops.sqlite")
    service = Service("settings-ms", modules=[count_again], store=SqlAlchemyStore(engine))

    async def use(create: bool) -> int:
        async with service:
            if create:
                async with service.transaction() as tx:
                    await tx.session.execute(text("CREATE TABLE counters (n INTEGER)"))
                    await tx.session.execute(text("INSERT INTO counters VALUES (0)"))

            async def one() -> None:
                async with service.transaction() as tx:
                    await tx.session.execute(text("UPDATE counters SET n = n + 1"))
                    await tx.publish(Counted())

            async with asyncio.TaskGroup() as tasks:
                for _ in range(5):
                    tasks.create_task(one())
            await service.idle()
            async with service.transaction(read_only=True) as tx:
                return int((await tx.session.execute(text("SELECT n FROM counters"))).scalar_one())

    assert asyncio.run(use(create=True)) == 10
    assert asyncio.run(use(create=False)) == 20


async def test_one_service_is_started_again_in_the_same_loop(engine: AsyncEngine) -> None:
    service = Service("settings-ms", modules=[count_again], store=SqlAlchemyStore(engine))
    for _ in range(2):
        async with service:
            assert service.readiness() == {}
            with pytest.raises(CauceError, match="the service settings-ms is running already"):
                await service.__aenter__()
            async with service.transaction() as tx:
                await tx.publish(Counted())
        assert service.readiness() == {"settings-ms": "stopping"} or service.readiness() == {
            "settings-ms": "not started"
        }
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT n FROM counters"))).scalar_one() == 2


# The usual test fixture: everything inside an outer transaction that is rolled back


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("ends", ["by itself", "with commit() in the block", "with commit() and an error"])
async def test_inside_a_rolled_back_session_nothing_that_waits_for_a_commit_happens(
    kind: str, ends: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    heard: list[str] = []

    @on(Counted)
    async def at_once(event: Counted, tx: Transaction) -> None:
        heard.append("at once")
        await tx.session.execute(text("UPDATE counters SET n = n + 10"))

    @on(Counted, when="after_commit")
    async def afterwards(event: Counted) -> None:
        heard.append("afterwards")

    if kind == "sqlite":
        engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/outer.sqlite")
    else:
        engine = create_engine(request.getfixturevalue("postgres").database())
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counters (n INTEGER)"))
        await connection.execute(text("INSERT INTO counters VALUES (0)"))

    async with engine.connect() as connection:
        outer = await connection.begin()
        sessions = async_sessionmaker(bind=connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
        service = Service("settings-ms", modules=[at_once, afterwards], store=SqlAlchemyStore(engine, sessions))
        async with story(service) as s:
            try:
                async with service.transaction() as tx:
                    await tx.session.execute(text("UPDATE counters SET n = n + 1"))
                    await tx.publish(Counted())
                    if ends != "by itself":
                        await tx.session.commit()
                    if ends == "with commit() and an error":
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            await s.published(Counted)  # a story sees it all the same
            await service.idle()
            async with service.transaction() as tx:
                assert (await tx.session.execute(text("SELECT n FROM counters"))).scalar_one() == 11
        await outer.rollback()

    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT n FROM counters"))).scalar_one() == 0
    await engine.dispose()
    assert heard == ["at once"]


async def test_a_session_of_a_bare_connection_commits_for_real(engine: AsyncEngine) -> None:
    heard: list[str] = []

    @on(Counted, when="after_commit")
    async def afterwards(event: Counted) -> None:
        heard.append("afterwards")

    async with engine.connect() as connection:
        sessions = async_sessionmaker(bind=connection, expire_on_commit=False)
        service = Service("settings-ms", modules=[afterwards], store=SqlAlchemyStore(engine, sessions))
        async with service:
            async with service.transaction() as tx:
                await tx.session.execute(text("UPDATE counters SET n = 5"))
                await tx.publish(Counted())
            await service.idle()
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT n FROM counters"))).scalar_one() == 5
    assert heard == ["afterwards"]
