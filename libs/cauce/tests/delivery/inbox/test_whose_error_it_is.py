"""Whose error it is: an attempt is charged for what a listener did, never for trouble with the service's own database."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cauce import IntegrationEvent, RetryAfter, Service, Transaction, on
from cauce.dev.servers import ScratchDatabases
from cauce.listeners.effects import AtLeastOnce, AtMostOnce, Effect, EffectNotDoneError
from cauce.listeners.retry import Retry
from cauce.ports.inbox import Dead
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

Listen = Callable[[AsyncSession], Awaitable[object]]


class Ordered(IntegrationEvent, name="whose.ordered", version=1, source="whose-ms", key="order"):
    order: str


@dataclass
class Run:
    """A service that has been sent some events, and waits for what becomes of them."""

    service: Service
    store: SqlAlchemyStore
    called: list[str]

    async def ends(self, **outcomes: int) -> None:
        async with asyncio.timeout(15):
            while any(self.service.counters[name] < times for name, times in outcomes.items()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def dead(self) -> Sequence[Dead]:
        return await self.store.message_store().dead()


@asynccontextmanager
async def running(
    url: str, listen: Listen, *, orders: Sequence[str] = ("first",), engine: AsyncEngine | None = None
) -> AsyncGenerator[Run]:
    called: list[str] = []

    @on(Ordered, name="pack", retry=Retry(attempts=2, base=0.001, cap=0.001))
    async def pack(event: Ordered, session: AsyncSession) -> None:
        called.append(event.order)
        await listen(session)

    store = SqlAlchemyStore(engine or create_engine(url))
    service = Service(
        "whose-ms", modules=[pack], store=store, transport=MemoryStreams(), publishes=[Ordered], start="retained"
    )
    async with service:
        for order in orders:
            await service.publish(Ordered(order=order), outside=True)
        yield Run(service, store, called)


def saying(*statements: str) -> Listen:
    """A listener that executes these."""

    async def listen(session: AsyncSession) -> None:
        for statement in statements:
            await session.execute(text(statement))

    return listen


async def a_nowait_that_waits(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1 FROM cauce_meta WHERE name = 'incarnation' FOR UPDATE NOWAIT"))


async def swallowed(session: AsyncSession) -> None:
    try:
        await session.execute(text("SELECT no_such_function()"))
    except Exception:
        await session.execute(text("SELECT 1"))


ON_POSTGRESQL: Mapping[str, tuple[Listen, str]] = {
    "a statement that takes longer than the listener allows": (
        saying("SET LOCAL statement_timeout = '20ms'", "SELECT pg_sleep(10)"),
        "statement timeout",
    ),
    "a transaction that it has broken itself": (swallowed, "aborted"),
    "a transaction that it has begun twice": (saying("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), "must be called"),
    "a transaction that it has made read-only": (
        saying("SET TRANSACTION READ ONLY", "CREATE TABLE t (i int)"),
        "read-only",
    ),
    "an error of the system's class that it raises itself": (
        saying("DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = '58000'; END $$"),
        "mine",
    ),
    "a table that is not there": (saying("SELECT * FROM no_such_table"), "no_such_table"),
}
ON_SQLITE: Mapping[str, tuple[Listen, str]] = {
    "a table that is not there": (saying("SELECT * FROM no_such_table"), "no such table"),
    "a column that is not there": (saying("SELECT no_such_column FROM cauce_meta"), "no such column"),
    "a statement that is none": (saying("SELEKT 1"), "syntax error"),
    "a transaction that it has begun twice": (saying("BEGIN"), "within a transaction"),
}


@pytest.mark.parametrize("mistake", ON_POSTGRESQL)
async def test_what_a_listener_does_on_postgresql_ends_as_a_dead_letter(
    postgres: ScratchDatabases, mistake: str
) -> None:
    listen, said = ON_POSTGRESQL[mistake]
    async with running(postgres.database(), listen) as run:
        await run.ends(dead=1)
        (letter,) = await run.dead()
    assert (letter.reason, letter.attempts, len(run.called)) == ("exhausted", 2, 2)
    assert said in letter.error
    assert run.service.counters["infrastructure"] == 0


async def test_a_lock_that_is_not_to_be_had_is_the_listeners(postgres: ScratchDatabases) -> None:
    url = postgres.database()
    other = create_engine(url)
    async with running(url, a_nowait_that_waits, orders=()) as run:
        async with other.begin() as connection:
            await connection.execute(text("SELECT 1 FROM cauce_meta WHERE name = 'incarnation' FOR UPDATE"))
            await run.service.publish(Ordered(order="first"), outside=True)
            await run.ends(dead=1)
        (letter,) = await run.dead()
    await other.dispose()
    assert (letter.reason, letter.attempts) == ("exhausted", 2)


@pytest.mark.parametrize("mistake", ON_SQLITE)
async def test_what_a_listener_does_on_sqlite_ends_as_a_dead_letter(tmp_path: Path, mistake: str) -> None:
    listen, said = ON_SQLITE[mistake]
    async with running(f"sqlite+aiosqlite:///{tmp_path}/whose.sqlite", listen) as run:
        await run.ends(dead=1)
        (letter,) = await run.dead()
    assert (letter.reason, letter.attempts, len(run.called)) == ("exhausted", 2, 2)
    assert said in letter.error


AWAY = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"


async def of_another_database(_session: AsyncSession) -> None:
    other = create_async_engine(AWAY)
    async with other.connect():
        pass


async def of_another_program(_session: AsyncSession) -> None:
    await asyncio.open_connection("127.0.0.1", 1)


@pytest.mark.parametrize("listen", [of_another_database, of_another_program])
async def test_what_else_a_listener_talks_to_is_its_own(url: str, listen: Listen) -> None:
    async with running(url, listen) as run:
        await run.ends(dead=1)
        (letter,) = await run.dead()
    assert (letter.reason, letter.attempts) == ("exhausted", 2)


async def test_a_pool_that_the_listener_exhausts_is_its_own(postgres: ScratchDatabases) -> None:
    url = postgres.database()
    engine = create_engine(url, pool_size=4, max_overflow=0, pool_timeout=0.05)
    taken = AsyncSession(engine)

    async def exhaust(_session: AsyncSession) -> None:
        async with engine.connect(), engine.connect(), engine.connect(), engine.connect():
            pass

    async with running(url, exhaust, engine=engine) as run:
        await run.ends(dead=1)
        (letter,) = await run.dead()
    await taken.close()
    assert "QueuePool limit" in letter.error
    assert letter.attempts == 2


async def lose_the_connection(session: AsyncSession) -> None:
    await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def lose_it_and_say_so_in_other_words(session: AsyncSession) -> None:
    try:
        await lose_the_connection(session)
    except Exception as error:
        raise RuntimeError("the orders cannot be read") from error


async def lose_it_in_a_group(session: AsyncSession) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lose_the_connection(session))


async def be_chosen_to_end_a_conflict(session: AsyncSession) -> None:
    await session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'chosen' USING ERRCODE = '40001'; END $$"))


async def be_chosen_and_swallow_it(session: AsyncSession) -> None:
    with suppress(DBAPIError):
        await be_chosen_to_end_a_conflict(session)


async def be_chosen_swallow_it_and_go_on(session: AsyncSession) -> None:
    await be_chosen_and_swallow_it(session)
    await session.execute(text("SELECT 1"))


@pytest.mark.parametrize(
    "trouble",
    [
        lose_the_connection,
        lose_it_and_say_so_in_other_words,
        lose_it_in_a_group,
        be_chosen_to_end_a_conflict,
        be_chosen_and_swallow_it,
        be_chosen_swallow_it_and_go_on,
    ],
)
async def test_trouble_with_our_database_costs_no_attempt(postgres: ScratchDatabases, trouble: Listen) -> None:
    times = 0

    async def listen(session: AsyncSession) -> None:
        nonlocal times
        times += 1
        if times <= 3:  # one more than it has attempts
            await trouble(session)

    async with running(postgres.database(), listen) as run:
        await run.ends(handled=1)
        assert not await run.dead()
    assert times == 4
    assert run.service.counters["infrastructure"] == 3


async def test_a_real_deadlock_costs_no_attempt_whoever_catches_it(postgres: ScratchDatabases) -> None:
    """Ours waits first, so it is ours that the database ends."""
    url, chosen = postgres.database(), 0
    other = create_engine(url)

    async def listen(session: AsyncSession) -> None:
        nonlocal chosen
        if chosen:
            return
        async with other.connect() as connection, asyncio.TaskGroup() as tasks:
            await session.execute(text("SELECT pg_advisory_xact_lock(1)"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(2)"))
            tasks.create_task(cross(connection))
            try:
                await session.execute(text("SELECT pg_advisory_xact_lock(2)"))
            except DBAPIError as error:
                chosen += getattr(error.orig, "sqlstate", None) == "40P01"

    async def cross(connection: AsyncConnection) -> None:
        async with other.connect() as watching:
            waits = text("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            while not (await watching.execute(waits)).all():  # noqa: ASYNC110  # the database
                await asyncio.sleep(0.005)
        await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))

    async with running(url, listen) as run:
        await run.ends(handled=1)
        assert not await run.dead()
    await other.dispose()
    assert (chosen, len(run.called)) == (1, 2)
    assert (run.service.counters["infrastructure"], run.service.counters["retries"]) == (1, 0)


class Audit:
    """What a listener needs, and what ends with its transaction."""


async def test_a_conflict_that_what_a_listener_needed_catches_costs_no_attempt(postgres: ScratchDatabases) -> None:
    """It is found at the end of the transaction, when the listener is done."""
    called: list[str] = []

    @on(Ordered, name="pack", retry=Retry(attempts=2, base=0.001, cap=0.001))
    async def pack(event: Ordered, audit: Audit) -> None:
        assert isinstance(audit, Audit)
        called.append(event.order)

    async def audited(tx: Transaction) -> AsyncGenerator[Audit]:
        yield Audit()
        if len(called) <= 3:
            await be_chosen_and_swallow_it(tx.session)

    service = Service(
        "whose-ms",
        modules=[pack],
        store=(store := SqlAlchemyStore(create_engine(postgres.database()))),
        transport=MemoryStreams(),
        publishes=[Ordered],
        start="retained",
        provide={Audit: audited},
    )
    async with service:
        await service.publish(Ordered(order="first"), outside=True)
        run = Run(service, store, called)
        await run.ends(handled=1)
        assert not await run.dead()
    assert (len(called), service.counters["infrastructure"]) == (4, 3)


async def test_what_a_listener_has_decided_stays_decided_whatever_the_reason(postgres: ScratchDatabases) -> None:
    async def listen(session: AsyncSession) -> None:
        try:
            await lose_the_connection(session)
        except Exception as error:
            raise RetryAfter(0.001) from error

    async with running(postgres.database(), listen) as run:
        await run.ends(dead=1)
        (letter,) = await run.dead()
    assert (letter.reason, letter.attempts) == ("exhausted", 2)


# Effects


async def refused() -> None:
    try:
        await of_another_database(None)  # type: ignore[arg-type]  # it asks for none
    except Exception as error:
        raise EffectNotDoneError("the other database was not there") from error


@asynccontextmanager
async def with_effect(url: str, effect: Effect, do: Callable[[Service], Awaitable[object]]) -> AsyncGenerator[Run]:
    called: list[str] = []

    @on(Ordered, name="send", effect=effect, retry=Retry(attempts=2, base=0.001, cap=0.001))
    async def send(event: Ordered) -> None:
        called.append(event.order)
        await do(service)

    store = SqlAlchemyStore(create_engine(url))
    service = Service(
        "whose-ms", modules=[send], store=store, transport=MemoryStreams(), publishes=[Ordered], start="retained"
    )
    async with service:
        await service.publish(Ordered(order="first"), outside=True)
        yield Run(service, store, called)


async def test_an_effect_that_was_surely_not_done_is_tried_again_also_at_most_once(url: str) -> None:
    async with with_effect(url, AtMostOnce(), lambda _service: refused()) as run:
        await run.ends(dead=1)
        (letter,) = await run.dead()
    assert (letter.reason, letter.attempts, run.called) == ("exhausted", 2, ["first"] * 2)
    assert "the other database was not there" in letter.error


async def test_an_effect_that_may_have_been_done_says_what_happened_and_not_that_a_process_died(url: str) -> None:
    async with with_effect(url, AtMostOnce(), lambda _service: of_another_program(None)) as run:  # type: ignore[arg-type]  # it asks for none
        await run.ends(dead=1)
        (letter,) = await run.dead()
    assert (letter.reason, run.called) == ("uncertain", ["first"])
    assert "ConnectionRefusedError" in letter.error


@pytest.mark.parametrize(("effect", "times"), [(AtMostOnce(), 1), (AtLeastOnce(), 4)])
async def test_an_effect_during_which_our_own_database_is_lost(
    postgres: ScratchDatabases, effect: Effect, times: int
) -> None:
    done = 0

    async def do(service: Service) -> None:
        nonlocal done
        done += 1
        async with service.transaction() as tx:
            if done <= 3:
                await lose_the_connection(tx.session)  # type: ignore[arg-type]  # of this store it is one

    async with with_effect(postgres.database(), effect, do) as run:
        await run.ends(**{"dead" if times == 1 else "handled": 1})
        letters = await run.dead()
    assert len(run.called) == times
    assert [one.reason for one in letters] == ["uncertain"] * (times == 1)
    assert all("process died" not in one.error for one in letters)


@pytest.mark.parametrize(("effect", "times"), [(AtMostOnce(), 1), (AtLeastOnce(), 4)])
async def test_an_effect_in_which_our_own_database_refuses_a_connection(
    postgres: ScratchDatabases, effect: Effect, times: int
) -> None:
    """psycopg says it as an error of the database."""
    refused = 0

    async def do(service: Service) -> None:
        nonlocal refused
        assert isinstance(service.store, SqlAlchemyStore)
        engine, before = service.store.engine, refused

        def nobody_listens(_dialect: object, _record: object, _args: object, parameters: dict[str, Any]) -> None:
            nonlocal refused
            if refused == before < 3:
                refused += 1
                parameters |= {"host": "127.0.0.1", "port": 1}

        event.listen(engine.sync_engine, "do_connect", nobody_listens)
        try:
            async with AsyncExitStack() as connections:
                for _ in range(engine.pool.checkedin() + 1):  # type: ignore[attr-defined]  # of this pool it is known
                    await connections.enter_async_context(engine.connect())
        finally:
            event.remove(engine.sync_engine, "do_connect", nobody_listens)

    async with with_effect(postgres.database(), effect, do) as run:
        await run.ends(**{"dead" if times == 1 else "handled": 1})
        letters = await run.dead()
    assert len(run.called) == times
    assert [(one.reason, "OperationalError" in one.error) for one in letters] == [("uncertain", True)] * (times == 1)
    assert run.service.counters["infrastructure"] == times - 1


# Failover


async def test_connections_that_cannot_write_any_more_are_thrown_away(postgres: ScratchDatabases) -> None:
    """As after a failover: those that the pool has refuse every change, new ones do not."""
    url = postgres.database()
    engine = create_engine(url, pool_size=5, max_overflow=0)

    async def listen(_session: AsyncSession) -> None:
        return None

    async with running(url, listen, engine=engine) as run:
        await run.ends(handled=1)
        async with AsyncExitStack() as stack:
            for _ in range(5):
                connection = await stack.enter_async_context(engine.connect())
                await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
                await connection.commit()
        with suppress(DBAPIError):  # the first one finds it out
            await run.service.publish(Ordered(order="second"), outside=True)
        await run.service.publish(Ordered(order="third"), outside=True)
        await run.ends(handled=2)
        assert not await run.dead()


async def test_a_read_only_transaction_does_not_cost_the_connections_of_others(postgres: ScratchDatabases) -> None:
    url = postgres.database()
    engine = create_engine(url, pool_size=1, max_overflow=0)
    store = SqlAlchemyStore(engine)
    service = Service("whose-ms", store=store)
    async with service:
        async with service.transaction(read_only=True) as tx:
            before = (await tx.session.execute(text("SELECT pg_backend_pid()"))).scalar_one()  # type: ignore[attr-defined]
        with pytest.raises(DBAPIError, match="read-only"):
            async with service.transaction(read_only=True) as tx:
                await tx.session.execute(text("CREATE TABLE t (i int)"))  # type: ignore[attr-defined]
        async with service.transaction(read_only=True) as tx:
            after = (await tx.session.execute(text("SELECT pg_backend_pid()"))).scalar_one()  # type: ignore[attr-defined]
    assert before == after
