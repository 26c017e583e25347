"""A publisher's block that the database has aborted raises, and nobody is told; its session serves nobody afterwards."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from cauce import (
    ConfigurationError,
    DomainEvent,
    IntegrationEvent,
    PublishError,
    Service,
    Transaction,
    TransactionAbortedError,
    TransactionEndedError,
    on,
)
from cauce.dev.servers import ScratchDatabases
from cauce.stores.memory import MemoryStore
from cauce.stores.outbox import Outbox
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import create_engine as create_plain_engine
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from testsupport.waiting import until

DUPLICATE = text("INSERT INTO taken VALUES ('taken')")


class Wrote(DomainEvent, name="block.wrote"):
    word: str


class Told(IntegrationEvent, name="block.told", version=1, source="block-ms"):
    word: str


class Base(DeclarativeBase): ...


class Taken(Base):
    __tablename__ = "taken"
    word: Mapped[str] = mapped_column(primary_key=True)


class Heard:
    def __init__(self) -> None:
        self.words: list[str] = []

    @on(Wrote, when="after_commit")
    async def afterwards(self, event: Wrote) -> None:
        self.words.append(event.word)

    @on(Told)
    async def elsewhere(self, event: Told) -> None:
        self.words.append(event.word)


async def prepared(engine: AsyncEngine) -> AsyncEngine:
    conflict = " ON CONFLICT ROLLBACK" if engine.dialect.name == "sqlite" else ""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE written (word TEXT)"))
        await connection.execute(text(f"CREATE TABLE taken (word TEXT PRIMARY KEY{conflict})"))
        await connection.execute(DUPLICATE)
    return engine


@pytest.fixture(params=["all ours", "engine and session factory of SQLAlchemy's"])
async def store(request: pytest.FixtureRequest, any_url: str) -> AsyncGenerator[SqlAlchemyStore]:
    ours = request.param == "all ours"
    engine = await prepared(create_engine(any_url) if ours else create_async_engine(any_url))
    store = SqlAlchemyStore(engine, None if ours else async_sessionmaker(engine))
    await store.prepare()
    yield store
    await store.close()


def service_of(store: Any, heard: Heard) -> Service:
    return Service(
        "block-ms", modules=[heard], store=store, transport=MemoryStreams(), publishes=[Told], start="retained"
    )


@pytest.fixture
async def running(store: SqlAlchemyStore) -> AsyncGenerator[tuple[Service, Heard]]:
    heard = Heard()
    async with service_of(store, heard) as service:
        yield service, heard


async def rows(service: Service) -> Sequence[str]:
    async with service.transaction(read_only=True) as tx:
        return list((await tx.session.execute(text("SELECT word FROM written"))).scalars())


async def write(tx: Transaction, word: str) -> None:
    await tx.session.execute(text("INSERT INTO written VALUES (:word)"), {"word": word})
    await tx.publish(Wrote(word=word))
    await tx.publish(Told(word=word))


async def executes(tx: Transaction) -> None:
    await tx.session.execute(DUPLICATE)


async def flushes(tx: Transaction) -> None:
    tx.session.add(Taken(word="taken"))
    await tx.session.flush()


async def says_rollback(tx: Transaction) -> None:
    await tx.session.execute(text("ROLLBACK"))


async def rolls_the_driver_back(tx: Transaction) -> None:
    driver: Any = (await (await tx.session.connection()).get_raw_connection()).driver_connection
    await (driver.rollback() if hasattr(driver, "rollback") else driver.execute("ROLLBACK"))


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (executes, TransactionAbortedError),
        (flushes, TransactionAbortedError),
        (says_rollback, TransactionEndedError),
        (rolls_the_driver_back, TransactionEndedError),
    ],
)
async def test_what_the_database_has_aborted_raises_and_nobody_is_told(
    running: tuple[Service, Heard], mistake: Callable[[Transaction], Awaitable[None]], error: type[Exception]
) -> None:
    service, heard = running
    with pytest.raises(error) as caught:
        async with service.transaction() as tx:
            await write(tx, "lost")
            with suppress(IntegrityError, TransactionEndedError):
                await mistake(tx)
    async with service.transaction() as tx:  # the connection is as good as new
        await write(tx, "kept")
    await until(lambda: len(heard.words) >= 2)
    await service.idle()

    assert heard.words == ["kept", "kept"]
    assert await rows(service) == ["kept"]
    assert service.counters["published"] == 2
    assert "tx.savepoint()" in str(caught.value)
    if error is TransactionAbortedError:
        assert isinstance(caught.value.__cause__, IntegrityError)


async def test_a_commit_of_ones_own_is_no_commit_either(running: tuple[Service, Heard]) -> None:
    service, heard = running
    with pytest.raises(TransactionAbortedError):
        async with service.transaction() as tx:
            await write(tx, "lost")
            with suppress(IntegrityError):
                await executes(tx)
            await tx.session.commit()
    await service.idle()

    assert heard.words == []
    assert await rows(service) == []


async def test_what_runs_on_its_own_after_the_transaction_is_gone_is_refused(running: tuple[Service, Heard]) -> None:
    service, heard = running
    with pytest.raises(TransactionAbortedError):
        async with service.transaction() as tx:
            await write(tx, "lost")
            with suppress(IntegrityError):
                await executes(tx)
            with suppress(Exception):
                await tx.session.execute(text("INSERT INTO written VALUES ('on its own')"))
    await service.idle()

    assert heard.words == []
    assert await rows(service) == []


async def test_a_connection_of_the_engine_raises_too(any_url: str) -> None:
    engine = await prepared(create_engine(any_url))
    if engine.dialect.name == "postgresql":
        with pytest.raises(TransactionAbortedError):
            async with engine.begin() as connection:
                with suppress(IntegrityError):
                    await connection.execute(DUPLICATE)
    async with engine.begin() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM taken"))).scalar_one() == 1
    await engine.dispose()


async def test_nested_in_a_rolled_back_fixture_it_raises_as_well(url: str) -> None:
    engine = await prepared(create_engine(url))
    async with engine.connect() as connection:
        outer = await connection.begin()
        store = SqlAlchemyStore(engine, async_sessionmaker(connection, join_transaction_mode="create_savepoint"))
        service = Service("block-ms", store=store)
        with pytest.raises((TransactionAbortedError, TransactionEndedError)):
            async with service.transaction() as tx:
                with suppress(IntegrityError):
                    await executes(tx)
        with suppress(Exception):
            await outer.rollback()
    await engine.dispose()


# Sessions of one's own, with the outbox

OUTBOX = Outbox("block-ms", publishes=[Told])


async def unsent(url: str) -> int:
    store = SqlAlchemyStore(create_engine(url))
    try:
        return (await store.message_store().backlog()).unsent
    finally:
        await store.close()


async def test_an_asynchronous_session_of_ones_own_raises_and_writes_no_event(
    store: SqlAlchemyStore, any_url: str
) -> None:
    with pytest.raises((TransactionAbortedError, IntegrityError)):
        async with AsyncSession(store.engine) as session, session.begin():
            OUTBOX.add(session, Told(word="lost"))
            await session.execute(text("INSERT INTO written VALUES ('lost')"))
            with suppress(IntegrityError):
                await session.execute(DUPLICATE)

    assert await unsent(any_url) == 0


def test_a_synchronous_session_raises_and_writes_no_event(url: str) -> None:
    async def prepare() -> None:
        engine = create_engine(url)
        await prepared(engine)
        await SqlAlchemyStore(engine).prepare()
        await engine.dispose()

    asyncio.run(prepare())
    engine = create_plain_engine(url.replace("+aiosqlite", ""))
    with pytest.raises(TransactionAbortedError), Session(engine) as session, session.begin():
        OUTBOX.add(session, Told(word="lost"))
        session.execute(text("INSERT INTO written VALUES ('lost')"))
        with suppress(IntegrityError):
            session.execute(DUPLICATE)
    engine.dispose()

    assert asyncio.run(unsent(url)) == 0


# After the block


async def test_a_session_serves_nobody_after_its_block(running: tuple[Service, Heard]) -> None:
    service, _ = running
    async with service.transaction() as tx:
        session = tx.session
        await write(tx, "inside")
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: session.execute(text("INSERT INTO written VALUES ('afterwards')")),
        lambda: session.get(Taken, "taken"),
        session.connection,
        session.flush,
        lambda: tx.get(Transaction),
    ]

    for _ in range(2):  # it stays so
        for use in uses[:3]:
            with pytest.raises(TransactionEndedError, match=r"service\.transaction"):
                await use()
        with pytest.raises(TransactionEndedError, match=r"service\.transaction"):
            session.add(Taken(word="afterwards"))
            await session.flush()
        with pytest.raises(TransactionEndedError, match=r"service\.transaction"):
            _ = tx.session
    async with asyncio.timeout(5), service.transaction() as tx:  # nobody holds anything
        await write(tx, "next")
    assert await rows(service) == ["inside", "next"]


async def test_nor_does_one_whose_block_raised(running: tuple[Service, Heard]) -> None:
    service, _ = running
    sessions: list[AsyncSession] = []
    with suppress(ZeroDivisionError):
        async with service.transaction() as tx:
            sessions.append(tx.session)
            raise ZeroDivisionError

    with pytest.raises(TransactionEndedError):
        await sessions[0].execute(text("SELECT 1"))


# Published without `await`


@pytest.mark.filterwarnings(
    "ignore:coroutine 'Transaction:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("event", [Told(word="a"), Wrote(word="a")])
async def test_an_event_that_was_not_awaited_raises_at_the_end_of_the_block(url: str, event: Told | Wrote) -> None:
    stores = [MemoryStore(), SqlAlchemyStore(await prepared(create_engine(url)))]
    for store in stores:
        heard = Heard()
        async with service_of(store, heard) as service:
            with pytest.raises(PublishError) as caught:
                async with service.transaction() as tx:
                    await tx.publish(Wrote(word="lost"))
                    tx.publish(event)  # pyright: ignore[reportUnusedCoroutine]  # the mistake
            await service.idle()
        assert heard.words == []
        name = type(event).__name__
        assert str(caught.value) == (
            f"publish({name}) was not awaited, so it was not published, and the transaction is rolled back. "
            f"Write: await tx.publish({name}(…))"
        )


@pytest.mark.filterwarnings("ignore:coroutine 'Transaction:RuntimeWarning")
async def test_the_error_of_the_block_itself_comes_first(url: str) -> None:
    service = Service("block-ms", store=MemoryStore(), publishes=[Told], transport=MemoryStreams())
    with pytest.raises(ZeroDivisionError):
        async with service.transaction() as tx:
            tx.publish(Told(word="a")).close()
            raise ZeroDivisionError


# Engines with which a transaction is none


async def test_a_connection_that_was_put_into_autocommit_is_noticed(postgres: ScratchDatabases) -> None:
    engine = create_async_engine(postgres.database(), connect_args={"autocommit": True})
    service = Service("block-ms", store=SqlAlchemyStore(engine))
    with pytest.raises(ConfigurationError, match="autocommit"):
        async with service.transaction() as tx:
            await tx.session.execute(text("SELECT 1"))
    await engine.dispose()
