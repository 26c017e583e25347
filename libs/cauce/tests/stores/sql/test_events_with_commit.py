"""Whatever becomes of a COMMIT that takes events along: it is said as surely as before, and the next one is well.

On psycopg and on asyncpg, and for comparison with events that are executed on their own, as on an engine of the user's.
The next transaction has the same connection, or one that replaces it: there is only one.
"""

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from cauce import CommitUnknownError, Envelope, IntegrationEvent, TransactionAbortedError
from cauce.dev.servers import PostgresServer, ScratchDatabases
from cauce.ports.outbox import Outgoing
from cauce.ports.savepoints import Savepoints
from cauce.stores.outbox import Outbox
from cauce.stores.sql import asyncpg_connection, psycopg_connection
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from testsupport.database_proxy import Cut, DatabaseProxy
from testsupport.long_form import PROVE
from testsupport.waiting import until

SECRET = "not for any log"


class Told(IntegrationEvent, name="with.told", version=1, source="with-ms"):
    word: str


class Counted(IntegrationEvent, name="with.counted", version=1, source="with-ms", key="word"):
    word: str


@dataclass(frozen=True)
class Way:
    driver: str
    make: Callable[..., AsyncEngine]

    @property
    def options(self) -> dict[str, bool]:
        return {} if self.make is create_engine else {"hide_parameters": True}

    def url(self, url: str) -> str:
        return url.replace("psycopg", self.driver)


WAYS = {
    "psycopg, carried": Way("psycopg", create_engine),
    "asyncpg, carried": Way("asyncpg", create_engine),
    "psycopg, executed": Way("psycopg", create_async_engine),
}
if PROVE:
    WAYS["asyncpg, executed"] = Way("asyncpg", create_async_engine)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


Then = Callable[[AsyncSession], Awaitable[Any]]


@dataclass(frozen=True)
class Place:
    store: SqlAlchemyStore
    direct: AsyncEngine
    """To look at what is there, and to get in the way."""

    async def write(self, word: str, *events: IntegrationEvent, then: Then | None = None) -> None:
        """A unit of work as a service's: a row, and events that are written at its end."""
        published = Savepoints[Outgoing]()
        work = self.store.begin(published, read_only=False, outgoing=lambda surviving: surviving)
        try:
            await work.session.execute(text("INSERT INTO written VALUES (:word)"), {"word": word})
            for event in events:
                published.add(Outgoing(envelope=Envelope.of(event)))
            if then is not None:
                await then(work.session)
        except BaseException:
            await work.rollback()
            raise
        await work.commit()

    async def _ask(self, question: str) -> Any:
        async with self.direct.connect() as connection:
            return (await connection.execute(text(question))).scalars().all()

    async def written(self) -> list[str]:
        return sorted(await self._ask("SELECT word FROM written"))

    async def events(self) -> list[str]:
        return list(await self._ask("SELECT name FROM cauce_outbox ORDER BY position"))

    async def is_well(self, *there: str) -> None:
        """`there` and nothing else is there, nothing is left open, and the next one commits on the one connection."""
        assert await self.written() == sorted(there)
        events = await self.events()
        assert len(events) == len(there)
        await self.write("next", Told(word="next"), Counted(word="next"))
        assert await self.written() == sorted([*there, "next"])
        assert await self.events() == [*events, "with.told", "with.counted"]
        assert not await self._ask(f"{_OTHERS} AND state LIKE 'idle in transaction%'")

    async def somebody_waits(self) -> bool:
        return bool(await self._ask(f"{_OTHERS} AND wait_event_type = 'Lock'"))

    @asynccontextmanager
    async def outbox_locked(self) -> AsyncGenerator[None]:
        """Nobody writes events meanwhile."""
        async with self.direct.begin() as connection:
            await connection.execute(text("LOCK TABLE cauce_outbox IN EXCLUSIVE MODE"))
            yield

    async def end_who_waits(self) -> None:
        await self._ask(_OTHERS.replace("pid FROM", "pg_terminate_backend(pid) FROM") + " AND wait_event_type = 'Lock'")


_OTHERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@asynccontextmanager
async def place_on(url: str, way: Way, *, behind: str | None = None, **options: Any) -> AsyncGenerator[Place]:
    direct = create_async_engine(url)
    store = SqlAlchemyStore(way.make(way.url(behind or url), pool_size=1, max_overflow=0, **way.options), **options)
    try:
        async with direct.begin() as connection:
            await connection.execute(text("CREATE TABLE written (word TEXT UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        await store.prepare()
        await store.engine.dispose()
        yield Place(store, direct)
    finally:
        await store.engine.dispose()
        await direct.dispose()


@pytest.fixture
async def place(postgres: ScratchDatabases, way: Way) -> AsyncGenerator[Place]:
    async with place_on(postgres.database(), way) as place:
        yield place


async def test_an_event_is_carried_only_where_it_can_be(place: Place, way: Way) -> None:
    seen: list[bool] = []

    def committing(connection: Any) -> None:
        driver = connection.connection.driver_connection
        seen.append(bool(getattr(driver, "carried", ())))

    event.listen(place.store.engine.sync_engine, "commit", committing)
    await place.write("first", Told(word="first"))
    assert seen == [way.make is create_engine]
    await place.is_well("first")


async def test_without_events_nothing_is_different(place: Place) -> None:
    await place.write("alone")
    assert await place.written() == ["alone"]
    assert await place.events() == []


async def test_an_aborted_transaction_raises(place: Place) -> None:
    async def swallows(session: AsyncSession) -> None:
        with suppress(DBAPIError):
            await session.execute(text("SELECT 1 / 0"))

    with pytest.raises((TransactionAbortedError, DBAPIError)) as caught:
        await place.write("lost", Told(word="lost"), then=swallows)
    assert "aborted" in str(caught.value)
    await place.is_well()


async def test_a_commit_that_is_answered_rollback_raises(place: Place) -> None:
    async def aborts_unseen(session: AsyncSession) -> None:
        driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        with suppress(Exception):
            await driver.execute("SELECT 1 / 0")

    with pytest.raises((TransactionAbortedError, DBAPIError)) as caught:
        await place.write("lost", Told(word="lost"), then=aborts_unseen)
    assert "aborted" in str(caught.value)
    await place.is_well()


async def test_a_constraint_that_is_checked_at_the_commit_raises(place: Place) -> None:
    await place.write("taken", Told(word="first"))
    with pytest.raises(IntegrityError):
        await place.write("taken", Told(word="lost"))
    await place.is_well("taken")


@pytest.mark.parametrize("event_type", [Told, Counted])
async def test_an_event_that_cannot_be_written_raises(
    place: Place, event_type: Callable[..., IntegrationEvent], caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is the same, and tells no value."""
    async with place.direct.begin() as connection:
        await connection.execute(text("CREATE UNIQUE INDEX one_of_a_name ON cauce_outbox (name)"))
    await place.write("first", event_type(word=SECRET))
    with caplog.at_level(logging.DEBUG), pytest.raises(IntegrityError) as caught:
        await place.write("lost", event_type(word=SECRET))
    async with place.direct.begin() as connection:
        await connection.execute(text("DROP INDEX one_of_a_name"))

    assert "one_of_a_name" in str(caught.value)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRET not in said.replace(f'word="{SECRET}"', "").replace("SECRET", "")
    await place.is_well("first")


@pytest.mark.parametrize("limit", ["lock_timeout", "statement_timeout"])
async def test_an_event_that_waits_too_long_raises(place: Place, limit: str) -> None:
    await an_event_that_waits_too_long(place, limit)


async def an_event_that_waits_too_long(place: Place, limit: str = "lock_timeout") -> None:
    async def limits(session: AsyncSession) -> None:
        await session.execute(text(f"SET LOCAL {limit} = '100ms'"))

    async with place.outbox_locked():
        with pytest.raises(DBAPIError, match="canceling statement due to"):
            await place.write("lost", Told(word="lost"), then=limits)
    await place.is_well()


async def test_a_task_that_is_cancelled_while_it_commits_leaves_a_connection_that_is_well(place: Place) -> None:
    async with place.outbox_locked():
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(place.write("lost", Told(word="lost")))
            await until(place.somebody_waits)
            task.cancel()
        assert task.cancelled()
    await place.is_well()


async def test_a_commit_that_takes_too_long_is_of_unknown_outcome(postgres: ScratchDatabases, way: Way) -> None:
    async with place_on(postgres.database(), way, commit_limit_s=0.3) as place:
        async with place.outbox_locked():
            with pytest.raises(CommitUnknownError):
                await place.write("lost", Told(word="lost"))
        await place.is_well()


async def test_a_backend_that_is_ended_while_it_commits_leaves_the_outcome_unknown(place: Place) -> None:
    async with place.outbox_locked(), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_error_of(place.write("lost", Told(word="lost"))))
        await until(place.somebody_waits)
        await place.end_who_waits()
    assert isinstance(task.result(), CommitUnknownError)
    await place.is_well()


@pytest.mark.parametrize(("cut", "is_there"), [("before", False), ("after", True)])
async def test_a_network_that_is_cut_around_the_commit_leaves_the_outcome_unknown(
    postgres: ScratchDatabases, way: Way, cut: Cut, is_there: bool
) -> None:
    url = postgres.database()
    proxy = DatabaseProxy(url)

    async def cuts(_: AsyncSession) -> None:
        proxy.cut = cut

    async with proxy.open() as behind, place_on(url, way, behind=behind) as place:
        await place.write("first", Told(word="first"))
        with pytest.raises(CommitUnknownError):
            await place.write("unknown", Told(word="unknown"), then=cuts)
        proxy.cut = None
        # Executed on its own the event is cut off, and its COMMIT is not even sent.
        await place.is_well("first", *(["unknown"] if is_there and way.make is create_engine else []))


async def test_a_server_that_is_killed_while_it_commits_leaves_the_outcome_unknown(
    own_postgres: PostgresServer, way: Way
) -> None:
    url = ScratchDatabases(own_postgres, prefix="killed").database()
    async with place_on(url, way) as place:
        await place.write("first", Told(word="first"))
        async with asyncio.TaskGroup() as tasks, place.direct.connect() as connection:
            await connection.execute(text("LOCK TABLE cauce_outbox IN EXCLUSIVE MODE"))
            task = tasks.create_task(_error_of(place.write("lost", Told(word="lost"))))
            await until(place.somebody_waits)
            own_postgres.kill()
            await connection.invalidate()
        assert isinstance(task.result(), CommitUnknownError)
        await place.direct.dispose()
        own_postgres.start()
        await place.is_well("first")


async def _error_of(work: Awaitable[Any]) -> BaseException | None:
    try:
        await work
    except Exception as error:
        return error
    return None


async def test_eight_at_once_number_a_key_without_holes(postgres: ScratchDatabases, way: Way) -> None:
    url = postgres.database()
    async with place_on(url, way) as place:
        engine = way.make(way.url(url), pool_size=8)
        many = Place(SqlAlchemyStore(engine), place.direct)

        async def publish(number: int) -> None:
            for turn in range(10):
                other = [Counted(word="b"), Counted(word="a")] if (number + turn) % 3 == 0 else []
                await many.write(f"{number}.{turn}", *other, Counted(word="a"), Told(word="-"))

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(publish(number))
        async with place.direct.connect() as connection:
            found = await connection.execute(
                text(
                    "SELECT key, array_agg(key_seq ORDER BY key_seq) FROM cauce_outbox WHERE key IS NOT NULL GROUP BY key"
                )
            )
            numbers = {key: list(its) for key, its in found}
        await engine.dispose()
    assert len(numbers["b"]) == sum((number + turn) % 3 == 0 for number in range(8) for turn in range(10))
    assert numbers == {key: list(range(1, len(its) + 1)) for key, its in numbers.items()}


async def test_what_was_left_with_a_connection_is_not_the_next_ones(place: Place) -> None:
    """However its transaction ended: rolled back, or given back by a pool that was told to roll nothing back."""
    async with AsyncSession(place.store.engine) as session:
        await session.execute(text("INSERT INTO written VALUES ('lost')"))
        driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        if (along := getattr(driver, "carry", None)) is not None:
            assert along("SELECT 1 / 0", {})
        await session.rollback()
    await place.is_well()


async def test_a_statement_that_is_under_way_is_not_mixed_up_with_the_commit(place: Place) -> None:
    """A task that outlives its block is a mistake; it must not write into somebody else's transaction."""

    async def goes_on(session: AsyncSession) -> None:
        tasks.append(asyncio.get_running_loop().create_task(_error_of(_sleeps(session))))
        await asyncio.sleep(0.05)

    async def _sleeps(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_sleep(0.3)"))

    tasks: list[asyncio.Task[BaseException | None]] = []
    error = await _error_of(place.write("either", Told(word="either"), then=goes_on))
    await asyncio.gather(*tasks)
    await place.is_well(*(["either"] if error is None else []))


@pytest.mark.parametrize("ends", ["commits", "rolls back"])
async def test_a_transaction_without_events_that_cannot_end_for_a_statement_of_another_task_leaves_none_open(
    place: Place, ends: str
) -> None:
    async def goes_on(session: AsyncSession) -> None:
        tasks.append(asyncio.get_running_loop().create_task(_error_of(session.execute(text("SELECT pg_sleep(0.3)")))))
        await asyncio.sleep(0.05)
        if ends == "rolls back":
            raise ValueError("as its block ends")

    tasks: list[asyncio.Task[BaseException | None]] = []
    error = await _error_of(place.write("either", then=goes_on))
    await asyncio.gather(*tasks)
    there = ["either"] if error is None else []
    assert await place.written() == there
    for number in range(3):
        await place.write(f"next {number}")
    assert await place.written() == [*there, "next 0", "next 1", "next 2"]


# The exam of the tests above: with a bug planted they fail


def _lets_the_outcome_be(monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = psycopg_connection.PsycopgConnection.commit_with_carried

    async def believed(self: psycopg_connection.PsycopgConnection) -> str:
        with suppress(psycopg.Error):
            await carry_out(self)
        return "COMMIT"

    monkeypatch.setattr(psycopg_connection.PsycopgConnection, "commit_with_carried", believed)


def _nothing(_: object) -> None: ...


def _keeps_what_was_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg_connection.PsycopgConnection, "rollback", psycopg.AsyncConnection.rollback)
    monkeypatch.setattr(psycopg_connection.PsycopgConnection, "drop_carried", _nothing)


def _stays_in_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stay(_: object) -> None: ...

    for connection in (psycopg_connection.PsycopgConnection, asyncpg_connection.AsyncpgConnection):
        monkeypatch.setattr(connection, "_leave_the_transaction", stay)


def _says_commit_whatever_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def believed(self: asyncpg_connection.AsyncpgConnection) -> str:
        with suppress(Exception):
            await carry_out(self)
        return "COMMIT"

    carry_out = asyncpg_connection.AsyncpgConnection.commit_with_carried
    monkeypatch.setattr(asyncpg_connection.AsyncpgConnection, "commit_with_carried", believed)


@pytest.mark.parametrize(
    ("plant", "driver", "scenario"),
    [
        (_lets_the_outcome_be, "psycopg", test_a_constraint_that_is_checked_at_the_commit_raises),
        (_says_commit_whatever_it_was, "asyncpg", test_a_constraint_that_is_checked_at_the_commit_raises),
        (_keeps_what_was_carried, "psycopg", test_what_was_left_with_a_connection_is_not_the_next_ones),
        (_stays_in_the_transaction, "psycopg", an_event_that_waits_too_long),
        (_stays_in_the_transaction, "asyncpg", an_event_that_waits_too_long),
    ],
)
async def test_the_tests_above_find_the_bug(
    postgres: ScratchDatabases,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    driver: str,
    scenario: Callable[[Place], Awaitable[None]],
) -> None:
    plant(monkeypatch)
    async with place_on(postgres.database(), Way(driver, create_engine)) as place:
        with pytest.raises((pytest.fail.Exception, AssertionError, DBAPIError, TransactionAbortedError)):
            await scenario(place)


# psycopg's and asyncpg's own names


def test_this_psycopg_and_this_asyncpg_are_known() -> None:
    """When this fails, a new version has other private names: read psycopg_connection and asyncpg_connection again."""
    assert psycopg_connection.is_supported()
    assert asyncpg_connection.is_supported()
    assert not psycopg_connection.is_supported({psycopg.AsyncCursor: {"_gone": ()}})
    assert not psycopg_connection.is_supported({psycopg.AsyncCursor: {"_execute_gen": ("gone",)}})
    assert not asyncpg_connection.is_supported("0.99.0")


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_with_other_names_events_are_executed_as_on_any_engine(
    postgres: ScratchDatabases, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (psycopg_connection, asyncpg_connection):
        monkeypatch.setattr(module, "is_supported", lambda: False)
    async with place_on(postgres.database(), Way(driver, create_engine)) as place:
        await test_an_event_is_carried_only_where_it_can_be(place, Way(driver, create_async_engine))
        await place.write("more", Told(word="more"))


# What else one asks of an engine


async def test_savepoints_and_levels_are_as_they_were(postgres: ScratchDatabases) -> None:
    url = postgres.database()
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        engine = create_engine(url, isolation_level=level)
        async with engine.begin() as connection:
            found = await connection.execute(text("SELECT current_setting('transaction_isolation')"))
            assert found.scalar_one().upper() == level
        await engine.dispose()

    engine = create_engine(url, pool_size=1, max_overflow=0)
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with alone.connect() as connection:
        await connection.execute(text("CREATE TABLE alone (n INTEGER)"))
        await connection.execute(text("INSERT INTO alone VALUES (:n)"), {"n": 1})
        await connection.execute(text("VACUUM alone"))
    async with engine.connect() as connection:  # the same one, with transactions again
        async with connection.begin() as outer:
            await connection.execute(text("INSERT INTO alone VALUES (:n)"), {"n": 2})
            await outer.rollback()
        await connection.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(DBAPIError, match="read-only"):
            await connection.execute(text("INSERT INTO alone VALUES (3)"))
        await connection.rollback()
        assert (await connection.execute(text("SELECT n FROM alone"))).scalars().all() == [1]
    read_only = engine.execution_options(postgresql_readonly=True)
    async with read_only.connect() as connection:
        with pytest.raises(DBAPIError, match="read-only"):
            await connection.execute(text("INSERT INTO alone VALUES (:n)"), {"n": 4})
    await engine.dispose()


async def test_a_first_statement_that_fails_leaves_an_aborted_transaction(postgres: ScratchDatabases) -> None:
    engine = create_engine(postgres.database(), pool_size=1, max_overflow=0)
    for _ in range(8):  # also once it is prepared
        async with engine.connect() as connection:
            with pytest.raises(DBAPIError, match="division by zero"):
                await connection.execute(text("SELECT 1 / CAST(:n AS integer)"), {"n": 0})
            with pytest.raises(DBAPIError, match="aborted"):
                await connection.execute(text("SELECT 1"))
    async with engine.begin() as connection:
        assert (await connection.execute(text("SELECT 1 / CAST(:n AS integer)"), {"n": 1})).scalar_one() == 1
    await engine.dispose()


async def test_statements_that_take_nothing_along_are_begun_before(postgres: ScratchDatabases) -> None:
    engine = create_engine(postgres.database(), pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE lines (n INTEGER)"))
    async with engine.begin() as connection:
        await connection.exec_driver_sql("INSERT INTO lines VALUES (1); INSERT INTO lines VALUES (2)")
    for statement in ("/* first */ INSERT INTO lines VALUES (3)", "SELECT count(*) FROM lines"):
        async with engine.connect() as connection:
            await connection.execute(text(statement))
            await connection.rollback()
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        async with driver.cursor() as cursor, cursor.copy("COPY lines FROM STDIN") as copy:
            await copy.write("4\n5\n")
        await driver.rollback()
        with pytest.raises(psycopg.ProgrammingError, match="COPY"):
            await driver.execute("COPY lines TO STDOUT")
    async with engine.connect() as connection:
        rows = await connection.stream(text("SELECT n FROM lines ORDER BY n"))
        assert [row.n async for row in rows] == [1, 2]
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO lines VALUES (:n)"), [{"n": 6}, {"n": 7}])
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT sum(n) FROM lines"))).scalar_one() == 16
    await engine.dispose()


async def test_a_connection_that_was_ended_while_it_rested_is_replaced(postgres: ScratchDatabases) -> None:
    async with place_on(postgres.database(), WAYS["psycopg, carried"]) as place:
        await place.write("first", Told(word="first"))
        pool: Any = place.store.engine.pool
        async with place.direct.connect() as connection:
            await connection.execute(text(_OTHERS.replace("pid FROM", "pg_terminate_backend(pid) FROM")))
        await asyncio.sleep(1.1)  # what has rested for a second is tested before it is used
        assert pool.checkedin() == 1
        await place.is_well("first")


async def test_who_listens_to_the_engine_sees_a_transaction_begin_and_end(
    postgres: ScratchDatabases, caplog: pytest.LogCaptureFixture
) -> None:
    """The events' own row is not a statement of SQLAlchemy's."""
    async with place_on(postgres.database(), WAYS["psycopg, carried"]) as place:
        seen: list[str] = []

        def begun(_: object) -> None:
            seen.append("begin")

        def committed(_: object) -> None:
            seen.append("commit")

        engine = place.store.engine.sync_engine
        event.listen(engine, "begin", begun)
        event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2].split()[0]))
        event.listen(engine, "commit", committed)
        with caplog.at_level(logging.INFO, logger="sqlalchemy.engine"):
            await place.write("first", Told(word=SECRET))
    assert seen == ["begin", "INSERT", "commit"]
    assert SECRET not in caplog.text


async def test_an_event_of_a_session_with_two_phases_is_executed(postgres: ScratchDatabases) -> None:
    outbox = Outbox("with-ms", publishes=[Told])
    async with place_on(postgres.database(), WAYS["psycopg, carried"]) as place:
        session = AsyncSession(place.store.engine, twophase=True)
        outbox.add(session, Told(word="two"))
        with pytest.raises(DBAPIError):  # PREPARE TRANSACTION is off, as PostgreSQL comes
            await session.commit()
        await session.close()
        await place.is_well()
