"""Cauce's own transactions on a SQLite file: whole, in one thread, in turn with everybody else's, and gone at the end."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cauce.errors import TransactionAbortedError
from cauce.ports.lanes import Lane, MemberId
from cauce.stores.sql.connections import OwnConnection, TableGroup, reading, writing
from cauce.stores.sql.standard_driver import StandardDriver, standard_driver_of
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

ME, OTHER = MemberId("me"), MemberId("other")


class Counters(TableGroup):
    """A table group with one table."""

    @writing
    async def add(self, connection: OwnConnection, n: int, *, fails: bool = False) -> int:
        await self._run(connection, "INSERT INTO counters VALUES (:n)", n=n)
        if fails:
            raise ZeroDivisionError
        return int((await self._run(connection, "SELECT count(*) FROM counters")).scalar_one())

    @reading
    async def all(self, connection: OwnConnection) -> list[int]:
        return list((await self._run(connection, "SELECT n FROM counters ORDER BY rowid")).scalars())

    @reading
    async def write_all_the_same(self, connection: OwnConnection) -> None:
        await self._run(connection, "INSERT INTO counters VALUES (0)")

    @writing
    async def rest(self, connection: OwnConnection) -> None:
        await self._run(connection, "INSERT INTO counters VALUES (99)")
        await asyncio.sleep(0)

    @writing
    async def end_it_inside(self, connection: OwnConnection) -> None:
        await self._run(connection, "ROLLBACK")
        await self._run(connection, "INSERT INTO counters VALUES (98)")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.sqlite"


@pytest.fixture
async def store(file: Path) -> AsyncGenerator[SqlAlchemyStore]:
    store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{file}"))
    await store.prepare()
    async with store.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counters (n INTEGER NOT NULL)"))
    yield store
    await store.close()


@pytest.fixture
def counters(store: SqlAlchemyStore) -> Counters:
    return Counters(store.engine)


def threads_of_ours() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("cauce-sqlite")]


@contextmanager
def written_by_another(file: Path, *, waits_s: float = 5.0) -> Generator[sqlite3.Connection]:
    """Another connection in the middle of writing, as another process has."""
    other = sqlite3.connect(file, isolation_level=None, timeout=waits_s)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield other
    finally:
        other.close()


# The promise of a transaction


async def test_a_method_is_one_transaction_and_one_that_raises_leaves_nothing(counters: Counters) -> None:
    assert await counters.add(1) == 1
    with pytest.raises(ZeroDivisionError):
        await counters.add(2, fails=True)
    assert await counters.add(3) == 2
    assert await counters.all() == [1, 3]


async def test_a_method_that_reads_cannot_write_and_the_next_one_that_writes_can(counters: Counters) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        await counters.write_all_the_same()
    assert await counters.add(1) == 1


async def test_what_waits_for_something_else_in_a_transaction_is_refused_and_leaves_nothing(counters: Counters) -> None:
    with pytest.raises(RuntimeError, match="waited for something other"):
        await counters.rest()
    assert await counters.all() == []


async def test_what_ends_its_own_transaction_is_told_that_it_was_not_committed_as_one(counters: Counters) -> None:
    with pytest.raises(TransactionAbortedError):
        await counters.end_it_inside()
    assert await counters.add(1)


async def test_errors_say_what_happened_and_hide_the_values(counters: Counters, store: SqlAlchemyStore) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(text("DROP TABLE counters"))
    with pytest.raises(OperationalError, match="no such table: counters") as caught:
        await counters.add(4711)
    assert "4711" not in str(caught.value)
    assert not store.is_infrastructure(caught.value)


async def test_the_connection_is_set_like_every_other(store: SqlAlchemyStore) -> None:
    found: dict[str, Any] = {}

    async def look(connection: OwnConnection) -> None:
        for pragma in ("journal_mode", "synchronous", "foreign_keys"):
            found[pragma] = (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one()

    own = standard_driver_of(store.engine)
    assert own is not None
    await own.run(look, writes=False)
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


# Beside other writers


async def test_writers_of_both_drivers_take_turns_in_the_order_of_asking(
    counters: Counters, store: SqlAlchemyStore
) -> None:
    async def by_a_session(n: int) -> None:
        async with store.engine.begin() as connection:
            await connection.execute(text("INSERT INTO counters VALUES (:n)"), {"n": n})

    async with store.engine.connect(), store.engine.connect():
        pass  # opened before, so that all have the same way to go
    async with store.engine.begin() as connection, asyncio.TaskGroup() as tasks:  # everybody has to wait at first
        tasks.create_task(counters.add(1))
        await asyncio.sleep(0)
        tasks.create_task(counters.add(2))
        assert await counters.all() == [], "reading waits for nobody"
        await connection.execute(text("INSERT INTO counters VALUES (0)"))
        await connection.commit()
        await connection.close()
        tasks.create_task(by_a_session(3))
    assert await counters.all() == [0, 1, 2, 3]


async def test_a_file_that_another_process_writes_is_waited_for_and_reading_goes_on(
    counters: Counters, file: Path
) -> None:
    with written_by_another(file) as other:
        async with asyncio.TaskGroup() as tasks:
            adding = tasks.create_task(counters.add(2))
            for _ in range(20):
                assert await counters.all() == []
                await asyncio.sleep(0.01)
            assert not adding.done()
            other.execute("INSERT INTO counters VALUES (1)")
            other.execute("COMMIT")
    assert await counters.all() == [1, 2]


async def test_a_file_that_another_process_does_not_let_go_is_given_up_with_sqlites_own_error(
    counters: Counters, store: SqlAlchemyStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cauce.stores.sql.standard_driver.BUSY_TIMEOUT_S", 0.2)
    with written_by_another(file), pytest.raises(OperationalError, match="database is locked") as caught:
        await counters.add(1)
    assert store.is_infrastructure(caught.value)
    assert await counters.add(2) == 1


WRITER = """
import asyncio, sys
from cauce.ports.lanes import MemberId
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine

async def main(url, name):
    store = SqlAlchemyStore(create_engine(url))
    for number in range(150):
        await store.message_store().beat(MemberId(f"{name}-{number}"), lease_s=60)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_on_one_file_lose_nothing_and_see_no_lock_error(store: SqlAlchemyStore, file: Path) -> None:
    command = [sys.executable, "-c", WRITER, f"sqlite+aiosqlite:///{file}"]
    outcomes = await asyncio.gather(
        *(
            asyncio.to_thread(subprocess.run, [*command, name], capture_output=True, text=True, timeout=200)
            for name in ("one", "two")
        )
    )
    assert [(one.returncode, one.stderr) for one in outcomes] == [(0, ""), (0, "")]
    seen = await store.message_store().beat(ME, lease_s=60)
    assert len(seen.members) == 301


# A full disk


async def test_a_full_file_is_trouble_of_the_database_and_over_when_there_is_room(
    store: SqlAlchemyStore, counters: Counters
) -> None:
    own = standard_driver_of(store.engine)
    assert own is not None

    async def limit(connection: OwnConnection, pages: int) -> None:
        await connection.execute(text(f"PRAGMA max_page_count = {pages}"))

    await own.run(lambda connection: limit(connection, 1), writes=True)  # to what it has: never below
    with pytest.raises(OperationalError, match="full") as caught:
        for n in range(100_000):
            await counters.add(n)
    assert store.is_infrastructure(caught.value)
    kept = await counters.all()
    assert kept == list(range(len(kept)))
    await own.run(lambda connection: limit(connection, 1_000_000), writes=True)
    assert await counters.add(len(kept)) == len(kept) + 1


# Cancelled, and closed


async def test_a_caller_that_is_cancelled_anywhere_leaves_no_transaction_open(counters: Counters, file: Path) -> None:
    loop = asyncio.get_running_loop()

    async def add_for_ever() -> None:
        while True:
            await counters.add(0)

    for who in range(1, 61):
        task = loop.create_task(add_for_ever())
        await asyncio.sleep(who / 5000)
        task.cancel()
        await asyncio.wait([task])
        with written_by_another(file, waits_s=0.0) as other:  # at once, or it raises
            other.execute(f"INSERT INTO counters VALUES ({who})")
            other.execute("COMMIT")
    assert set(range(1, 61)) <= set(await counters.all())


async def test_a_caller_that_waits_for_another_process_is_cancelled_at_once(counters: Counters, file: Path) -> None:
    loop = asyncio.get_running_loop()
    with written_by_another(file):
        task = loop.create_task(counters.add(1))
        await asyncio.sleep(0.1)
        task.cancel()
        async with asyncio.timeout(3):  # less than a lock is waited for
            await asyncio.wait([task])
        assert task.cancelled()
    assert await counters.add(2) == 1


async def test_closing_waits_for_what_runs_and_leaves_no_thread(store: SqlAlchemyStore, counters: Counters) -> None:
    runs, goes_on = threading.Event(), threading.Event()
    own = standard_driver_of(store.engine)
    assert own is not None

    def stop(_connection: object) -> None:
        runs.set()
        assert goes_on.wait(60)

    event.listen(own.engine, "commit", stop)
    async with asyncio.TaskGroup() as tasks:
        adding = tasks.create_task(counters.add(1))
        assert await asyncio.to_thread(runs.wait, 60)
        closing = tasks.create_task(store.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        assert threads_of_ours()
        goes_on.set()
    assert adding.result() == 1
    assert not threads_of_ours()
    event.remove(own.engine, "commit", stop)
    assert await counters.all() == [1], "a store that is used again begins anew"


async def test_a_service_that_never_used_it_has_no_thread(tmp_path: Path) -> None:
    before = len(threads_of_ours())
    store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/unused.sqlite"))
    await store.prepare()
    assert len(threads_of_ours()) == before
    await store.close()


# Where it does not stand beside


async def test_in_memory_there_is_one_connection_and_it_is_the_users(tmp_path: Path) -> None:
    store = SqlAlchemyStore(create_engine("sqlite+aiosqlite://"))
    assert standard_driver_of(store.engine) is None
    await store.prepare()
    assert await store.message_store().beat(ME, lease_s=60)
    await store.close()


async def test_an_engine_with_options_of_its_own_has_the_same_thread(store: SqlAlchemyStore) -> None:
    assert standard_driver_of(store.engine.execution_options(logging_token="mine")) is standard_driver_of(store.engine)


async def test_a_lane_is_taken_by_one_of_two_stores_on_one_file(store: SqlAlchemyStore, file: Path) -> None:
    other = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{file}"))
    epoch = (await store.message_store().beat(ME, lease_s=60)).rows[0].epoch
    taken = await asyncio.gather(
        store.message_store().take(ME, {Lane(0): epoch}), other.message_store().take(OTHER, {Lane(0): epoch})
    )
    assert sorted(map(len, taken)) == [0, 1]
    await other.close()


KILLED = """
import asyncio, os, signal, sys
from sqlalchemy import event
from cauce.ports.lanes import Lane, MemberId
from cauce.stores.sql import standard_driver
from cauce.stores.sql.standard_driver import standard_driver_of
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine

def without_begin(_connection, _cursor, statement, parameters, _context, _many):
    return "SELECT 1" if statement.startswith("BEGIN") else statement, parameters

async def main(url):
    store = SqlAlchemyStore(create_engine(url))
    me, own = MemberId("killed"), standard_driver_of(store.engine)
    if "in pieces" in sys.argv:
        event.listen(own.engine, "before_cursor_execute", without_begin, retval=True)
        standard_driver._is_open = lambda _connection: True
    rows = (await store.message_store().beat(me, lease_s=60)).rows
    event.listen(own.engine, "commit", lambda _connection: os.kill(os.getpid(), signal.SIGKILL))
    await store.message_store().take(me, {row.lane: row.epoch for row in rows})

asyncio.run(main(sys.argv[1]))
"""


async def owners_after_a_kill_while_taking_lanes(store: SqlAlchemyStore, file: Path, *planted: str) -> set[str | None]:
    command = [sys.executable, "-c", KILLED, f"sqlite+aiosqlite:///{file}", *planted]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == -9, ended.stderr
    return {row.owner for row in (await store.message_store().beat(ME, lease_s=60)).rows}


async def test_a_process_killed_in_the_middle_leaves_nothing_of_that_transaction(
    store: SqlAlchemyStore, file: Path
) -> None:
    assert await owners_after_a_kill_while_taking_lanes(store, file) == {None}
    rows = (await store.message_store().beat(ME, lease_s=60)).rows
    assert len(await store.message_store().take(ME, {row.lane: row.epoch for row in rows})) == 16


# The exam of these tests: with a bug planted, they see it


async def test_a_transaction_that_is_committed_in_pieces_would_be_seen(store: SqlAlchemyStore, file: Path) -> None:
    assert await owners_after_a_kill_while_taking_lanes(store, file, "in pieces") == {"killed"}


async def test_a_transaction_that_is_left_open_would_be_seen(
    counters: Counters, store: SqlAlchemyStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None: ...

    with monkeypatch.context() as planted:
        planted.setattr(StandardDriver, "_leave_nothing_open", nothing)
        with pytest.raises(ZeroDivisionError):
            await counters.add(1, fails=True)
        with pytest.raises(sqlite3.OperationalError, match="locked"), written_by_another(file, waits_s=0.0):
            pass
        await store.close()
    assert await counters.all() == []
