"""What is written and what is published stand or fall together: in memory, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cauce import (
    CauceError,
    ConcurrentUseError,
    ConfigurationError,
    Context,
    DomainEvent,
    DomainEventBus,
    Envelope,
    IntegrationEvent,
    IntegrationEventBus,
    ListenersFailedError,
    PublishError,
    Service,
    Transaction,
    on,
)
from cauce.dev.servers import PostgresServer, ScratchDatabases
from cauce.ports.store import Store
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory import MemoryTransport
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


class Saved(DomainEvent, name="tx.saved"):
    word: str


class Renamed(DomainEvent, name="tx.renamed"):
    word: str


class Announced(IntegrationEvent, name="tx.announced", version=1, source="tx-ms"):
    word: str


async def fresh_store(url: str) -> SqlAlchemyStore:
    engine = create_engine(url)
    async with engine.begin() as connection:
        for table in ("words", "children", "parents"):
            await connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
        await connection.execute(text("CREATE TABLE words (word TEXT NOT NULL)"))
    return SqlAlchemyStore(engine)


@pytest.fixture(scope="module")
def postgres_url(session_postgres: PostgresServer) -> Generator[str]:
    """One database for all tests of this file, which empty it: making one costs half a second."""
    session_postgres.start()
    databases = ScratchDatabases(session_postgres, prefix="transactions")
    yield databases.database()
    databases.drop()


@asynccontextmanager
async def database_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncGenerator[SqlAlchemyStore]:
    sqlite = f"sqlite+aiosqlite:///{folder}/words.sqlite"
    made = await fresh_store(sqlite if kind == "sqlite" else request.getfixturevalue("postgres_url"))
    yield made
    await made.close()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    else:
        async with database_of(request.param, request, tmp_path) as made:
            yield made


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[SqlAlchemyStore]:
    async with database_of(request.param, request, tmp_path) as made:
        yield made


async def write(tx: Transaction, word: str) -> None:
    """Write, where there is something to write to."""
    if tx_has_session(tx):
        await tx.session.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})


def tx_has_session(tx: Transaction) -> bool:
    try:
        _ = tx.session
    except CauceError:
        return False
    return True


async def written(store: Store) -> list[str]:
    if not isinstance(store, SqlAlchemyStore):
        return []
    async with store.engine.connect() as connection:
        return list((await connection.execute(text("SELECT word FROM words ORDER BY word"))).scalars())


class Heard:
    """Listeners of everything, and what they heard."""

    def __init__(self) -> None:
        self.at_once: list[str] = []
        self.afterwards: list[str] = []
        self.sent: list[str] = []

    @on(Saved)
    async def hear_at_once(self, event: Saved) -> None:
        self.at_once.append(event.word)

    @on(Saved, Renamed, when="after_commit")
    async def hear_afterwards(self, event: Saved | Renamed) -> None:
        self.afterwards.append(event.word)

    @on(Announced)
    async def hear_from_the_broker(self, event: Announced) -> None:
        self.sent.append(event.word)


@asynccontextmanager
async def running(store: Store, *modules: object, **options: Any) -> AsyncGenerator[Service]:
    service = Service(
        "tx-ms", modules=modules, store=store, transport=MemoryTransport(), publishes=[Announced], **options
    )
    async with service:
        yield service


async def test_what_is_committed_was_published_in_its_order(store: Store) -> None:
    heard = Heard()
    async with running(store, heard) as service:
        async with service.transaction() as tx:
            await write(tx, "a")
            await tx.publish(Saved(word="a"))
            envelope = await tx.publish(Announced(word="b"))
            await tx.publish(Renamed(word="c"))
            assert heard.at_once == ["a"]
            await asyncio.sleep(0)
            assert (heard.afterwards, heard.sent) == ([], [])
        await service.idle()
    assert (heard.afterwards, heard.sent) == (["a", "c"], ["b"])
    assert isinstance(envelope, Envelope)
    assert envelope.payload == Announced(word="b")
    assert service.counters["published"] == 3
    assert await written(store) == (["a"] if store.name != "memory" else [])


async def test_nothing_of_a_rolled_back_transaction_was_ever_published(store: Store) -> None:
    heard = Heard()
    async with running(store, heard) as service:
        with pytest.raises(ZeroDivisionError):
            async with service.transaction() as tx:
                await write(tx, "a")
                await tx.publish(Saved(word="a"))
                await tx.publish(Announced(word="a"))
                raise ZeroDivisionError
        await service.idle()
    assert heard.at_once == ["a"]
    assert (heard.afterwards, heard.sent) == ([], [])
    assert service.counters["published"] == 0
    assert await written(store) == []


async def test_an_error_in_the_transaction_stops_the_rest_reaches_the_publisher_and_rolls_back(store: Store) -> None:
    called: list[str] = []

    @on(Saved)
    async def first(event: Saved, tx: Transaction) -> None:
        called.append("first")
        await write(tx, "first")

    @on(Saved)
    async def second(event: Saved) -> None:
        called.append("second")
        raise ValueError("not this word")

    @on(Saved)
    async def third(event: Saved) -> None:
        called.append("third")

    heard = Heard()
    async with running(store, first, second, third, heard) as service:
        with pytest.raises(ValueError, match=r"^not this word$"):
            async with service.transaction() as tx:
                await tx.publish(Saved(word="a"))
        await service.idle()
    assert called == ["first", "second"]
    assert heard.afterwards == []
    assert await written(store) == []


async def test_the_publisher_may_catch_it_and_continue(store: Store) -> None:
    @on(Saved)
    async def fails(event: Saved, tx: Transaction) -> None:
        await write(tx, "half")
        raise ValueError

    heard = Heard()
    async with running(store, fails, heard) as service:
        async with service.transaction() as tx:
            with pytest.raises(ValueError):
                async with tx.savepoint():
                    await tx.publish(Saved(word="a"))
            await write(tx, "b")
            await tx.publish(Renamed(word="b"))
        await service.idle()
    assert heard.afterwards == ["b"]
    assert await written(store) == (["b"] if store.name != "memory" else [])


async def test_listeners_in_the_transaction_run_on_the_publishers_session_and_may_publish(store: Store) -> None:
    seen: list[object] = []

    @on(Saved)
    async def nested(event: Saved, tx: Transaction, context: Context) -> None:
        seen.append(tx)
        await write(tx, event.word + "!")
        await tx.publish(Renamed(word=event.word + "!"))
        seen.append(context.envelope.correlation_id)

    @on(Renamed)
    async def deeper(event: Renamed, tx: Transaction, context: Context) -> None:
        seen.append(tx)
        seen.append(context.envelope.correlation_id)

    async with running(store, nested, deeper) as service, service.transaction() as tx:
        await tx.publish(Saved(word="a"))
        one, two, conversation, same = seen
        assert one is two is tx
        assert conversation == same
    assert await written(store) == (["a!"] if store.name != "memory" else [])


async def test_an_after_commit_listener_sees_the_change_and_has_a_transaction_of_its_own(
    database: SqlAlchemyStore,
) -> None:
    seen: list[list[str]] = []

    @on(Saved, when="after_commit")
    async def look(event: Saved, session: AsyncSession) -> None:
        seen.append(list((await session.execute(text("SELECT word FROM words"))).scalars()))
        await session.execute(text("INSERT INTO words VALUES ('seen')"))

    async with running(database, look) as service:
        async with service.transaction() as tx:
            await write(tx, "a")
            await tx.publish(Saved(word="a"))
        await service.idle()
    assert seen == [["a"]]
    assert await written(database) == ["a", "seen"]


async def test_savepoints_keep_and_drop_their_own_events(store: Store) -> None:
    heard = Heard()
    async with running(store, heard) as service:
        async with service.transaction() as tx:
            await tx.publish(Renamed(word="1"))
            async with tx.savepoint():
                await write(tx, "2")
                await tx.publish(Renamed(word="2"))
                with pytest.raises(ZeroDivisionError):
                    async with tx.savepoint():
                        await write(tx, "3")
                        await tx.publish(Renamed(word="3"))
                        async with tx.savepoint():
                            await tx.publish(Announced(word="4"))
                        raise ZeroDivisionError
            await tx.publish(Announced(word="5"))
        await service.idle()
    assert (heard.afterwards, heard.sent) == (["1", "2"], ["5"])
    assert await written(store) == (["2"] if store.name != "memory" else [])


async def test_what_the_block_commits_by_itself_is_published_even_if_the_block_fails_later(
    database: SqlAlchemyStore,
) -> None:
    heard = Heard()
    async with running(database, heard) as service:
        with pytest.raises(ZeroDivisionError):
            async with service.transaction() as tx:
                await tx.publish(Renamed(word="1"))
                await write(tx, "1")
                await tx.session.commit()
                await tx.publish(Renamed(word="2"))
                await write(tx, "2")
                raise ZeroDivisionError
        await service.idle()
    assert heard.afterwards == ["1"]
    assert await written(database) == ["1"]


@pytest.mark.parametrize("write_first", [True, False], ids=["after a write", "before any write"])
async def test_what_the_block_rolls_back_by_itself_was_never_published(
    database: SqlAlchemyStore, write_first: bool
) -> None:
    heard = Heard()
    async with running(database, heard) as service:
        async with service.transaction() as tx:
            if write_first:
                await write(tx, "1")
            await tx.publish(Renamed(word="1"))
            await tx.session.rollback()
            await write(tx, "2")
            await tx.publish(Renamed(word="2"))
        await service.idle()
    assert heard.afterwards == ["2"]
    assert await written(database) == ["2"]


async def test_publishing_alone_takes_no_connection(database: SqlAlchemyStore) -> None:
    async with running(database, Heard()) as service, service.transaction() as tx:
        await tx.publish(Renamed(word="1"))
        pool: Any = database.engine.pool
        assert pool.checkedout() == 0


async def test_a_refused_flush_or_commit_is_the_databases_own_error_and_publishes_nothing(
    database: SqlAlchemyStore,
) -> None:
    heard = Heard()
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
        await connection.execute(
            text("CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
        )
    async with running(database, heard) as service:
        with pytest.raises(Exception, match=r"(?i)foreign key") as caught:
            async with service.transaction() as tx:
                await tx.publish(Renamed(word="1"))
                await tx.session.execute(text("INSERT INTO children VALUES (7)"))  # checked at the commit
        assert type(caught.value).__name__ == "IntegrityError"
        await service.idle()
        async with service.transaction() as tx:  # the connection is as good as new
            await tx.publish(Renamed(word="2"))
            await write(tx, "2")
        await service.idle()
    assert heard.afterwards == ["2"]
    pool: Any = database.engine.pool
    assert pool.checkedout() == 0


# Misuse


async def test_two_tasks_cannot_use_one_transaction_at_once(store: Store) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    @on(Saved)
    async def slow(event: Saved) -> None:
        entered.set()
        await go_on.wait()

    async with running(store, slow) as service, service.transaction() as tx:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(tx.publish(Saved(word="a")))
            await entered.wait()
            with pytest.raises(ConcurrentUseError) as caught:
                await tx.publish(Renamed(word="b"))
            with pytest.raises(ConcurrentUseError):
                async with tx.savepoint():
                    pass
            go_on.set()
        await tx.publish(Renamed(word="c"))
    assert str(caught.value) == (
        "another task is using this transaction (publishing needs it alone), and a session serves one at a time. "
        "Await one after the other, or give each task a transaction of its own."
    )


async def test_a_savepoint_of_one_task_is_not_published_into_by_another(store: Store) -> None:
    async with running(store, Heard()) as service, service.transaction() as tx, tx.savepoint():
        async with asyncio.TaskGroup() as tasks:
            other = tasks.create_task(_raised_by(tx.publish(Renamed(word="b"))))
        assert isinstance(other.result(), ConcurrentUseError)


async def _raised_by(work: Awaitable[object]) -> BaseException | None:
    try:
        await work
    except Exception as error:
        return error
    return None


async def test_a_block_that_ends_before_its_tasks_is_rolled_back(store: Store) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    @on(Saved)
    async def slow(event: Saved) -> None:
        entered.set()
        await go_on.wait()

    heard = Heard()
    async with running(store, slow, heard) as service:
        async with asyncio.TaskGroup() as tasks:
            with pytest.raises(ConcurrentUseError) as caught:
                async with service.transaction() as tx:
                    await write(tx, "a")
                    tasks.create_task(tx.publish(Saved(word="a")))
                    await entered.wait()
            go_on.set()
        await service.idle()
    assert str(caught.value) == (
        "the transaction's block ended while another task was still working in it, so it was rolled back. "
        "Await that task inside the block."
    )
    assert heard.afterwards == []
    assert await written(store) == []


async def test_a_transaction_that_has_ended_publishes_nothing(store: Store) -> None:
    async with running(store, Heard()) as service:
        async with service.transaction() as tx:
            pass
        with pytest.raises(PublishError, match=r"^this transaction has ended; publish inside its block$"):
            await tx.publish(Renamed(word="a"))


async def test_a_service_that_does_not_run_accepts_nothing_for_after_the_commit(store: Store) -> None:
    heard = Heard()
    service = Service("tx-ms", modules=[heard], store=store, transport=MemoryTransport(), publishes=[Announced])
    async with service.transaction() as tx:
        with pytest.raises(PublishError) as caught:
            await tx.publish(Announced(word="a"))
        with pytest.raises(PublishError, match="Renamed would be heard by nobody"):
            await tx.publish(Renamed(word="a"))
    assert str(caught.value) == (
        "tx-ms is not running, so Announced would be heard by nobody after the commit. "
        "Publish inside: async with service: …"
    )


async def test_what_cannot_be_published_here_is_refused_with_the_way_out(store: Store) -> None:
    class Foreign(IntegrationEvent, name="tx.foreign", version=1, source="other-ms"):
        pass

    class Announcd(IntegrationEvent, name="tx.announcd", version=1, source="tx-ms"):
        pass

    async with running(store, Heard()) as service, service.transaction() as tx:
        unchecked: Any = tx
        with pytest.raises(PublishError) as caught:
            await tx.publish(Foreign())
        assert str(caught.value) == "Foreign belongs to other-ms; this is tx-ms, which cannot speak for it"
        with pytest.raises(PublishError) as caught:
            await tx.publish(Announcd())
        assert str(caught.value) == (
            "tx-ms does not say that it publishes Announcd. Did you mean 'Announced'? "
            "Add it to the service: publishes=[Announced, Announcd]"
        )
        with pytest.raises(PublishError, match=r"^publish\(str\): str is not an event\."):
            await unchecked.publish("tx.saved")
        with pytest.raises(PublishError) as caught:
            await service.publish(Announced(word="a"))
        assert str(caught.value) == (
            "publish(Announced) ran outside a transaction, so it could be sent for a change that rolls back. Wrap it: "
            "async with service.transaction() as tx: await tx.publish(…), or say outside=True"
        )


async def test_without_a_database_there_is_no_session() -> None:
    async with Service("tx-ms").transaction() as tx:
        with pytest.raises(CauceError, match=r"^This service has no database, so there is no session\."):
            _ = tx.session


# Reading only


async def test_a_read_only_transaction_reads_and_publishes_nothing(database: SqlAlchemyStore) -> None:
    async with running(database, Heard()) as service:
        async with service.transaction() as tx:
            await write(tx, "a")
        async with service.transaction(read_only=True) as tx:
            assert list((await tx.session.execute(text("SELECT word FROM words"))).scalars()) == ["a"]
            with pytest.raises(PublishError) as caught:
                await tx.publish(Saved(word="b"))
        with pytest.raises(Exception, match=r"(?i)read-?only"):
            async with service.transaction(read_only=True) as tx:
                await write(tx, "b")
        async with service.transaction() as tx:  # the same pooled connection writes again
            await write(tx, "c")
    assert str(caught.value) == "this transaction is read-only; open it with service.transaction() to publish"
    assert await written(database) == ["a", "c"]


async def test_readers_do_not_wait_for_a_writer(database: SqlAlchemyStore) -> None:
    async with running(database, Heard()) as service, service.transaction() as writer:
        await write(writer, "a")
        async with asyncio.timeout(2), service.transaction(read_only=True) as reader:
            assert list((await reader.session.execute(text("SELECT word FROM words"))).scalars()) == []
        async with asyncio.timeout(2):
            assert await service.check() == {}


# Without a transaction of the caller's


async def test_outside_a_transaction_listeners_are_independent_each_in_its_own(store: Store) -> None:
    called: list[str] = []

    @on(Saved)
    async def first(event: Saved, tx: Transaction) -> None:
        await write(tx, "first")
        raise ValueError("one")

    @on(Saved)
    async def second(event: Saved, tx: Transaction) -> None:
        await write(tx, "second")
        await tx.publish(Announced(word="second"))

    @on(Saved, when="after_commit")
    async def third(event: Saved) -> None:
        called.append("third")
        raise KeyError("three")

    heard = Heard()
    async with running(store, first, second, third, heard) as service:
        with pytest.raises(ListenersFailedError) as caught:
            await service.publish(Saved(word="a"))
        await service.idle()
    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('one')", "KeyError('three')"]
    assert called == ["third"]
    assert heard.sent == ["second"]
    assert await written(store) == (["second"] if store.name != "memory" else [])


async def test_an_integration_event_may_be_published_outside_when_it_says_so(store: Store) -> None:
    heard = Heard()
    async with running(store, heard) as service:
        await service.publish(Announced(word="a"), outside=True)
        await service.idle()
    assert heard.sent == ["a"]


# What listeners need


class Words:
    def __init__(self, tx: Transaction) -> None:
        self.tx = tx


class Counting:
    pass


async def test_what_is_provided_is_made_once_per_transaction(store: Store) -> None:
    seen: list[tuple[Words, Transaction]] = []

    @on(Saved)
    async def one(event: Saved, words: Words, tx: Transaction) -> None:
        seen.append((words, tx))

    @on(Saved)
    async def two(event: Saved, words: Words, bus: DomainEventBus, broker: IntegrationEventBus) -> None:
        assert bus is broker
        seen.append((words, await _transaction(bus)))

    async def _transaction(bus: DomainEventBus) -> Transaction:
        assert isinstance(bus, Transaction)
        return bus

    async with running(store, one, two, provide={Words: Words}) as service:
        for _ in range(2):
            async with service.transaction() as tx:
                await tx.publish(Saved(word="a"))
                assert await tx.get(Words) is seen[-1][0]
    (first, tx1), (again, same), (other, tx2), _ = seen
    assert first is again
    assert tx1 is same is first.tx
    assert first is not other
    assert tx1 is not tx2


async def test_a_factory_may_be_async_and_ask_for_more(store: Store) -> None:
    class Outer:
        def __init__(self, words: Words) -> None:
            self.words = words

    async def outer(tx: Transaction) -> Outer:
        return Outer(await tx.get(Words))

    async with running(store, Heard(), provide={Words: Words, Outer: outer}) as service, service.transaction() as tx:
        assert (await tx.get(Outer)).words is await tx.get(Words)


async def test_a_resolver_is_asked_for_everything_else_sync_or_async(store: Store) -> None:
    asked: list[type] = []

    async def resolve(wanted: type[Any], tx: Transaction) -> object:
        asked.append(wanted)
        if wanted is not Counting:
            raise LookupError(wanted.__name__)
        return Counting()

    @on(Saved)
    async def needs(event: Saved, words: Words, counting: Counting) -> None:
        assert isinstance(counting, Counting)

    async with (
        running(store, needs, provide={Words: Words}, resolver=resolve) as service,
        service.transaction() as tx,
    ):
        await tx.publish(Saved(word="a"))
        with pytest.raises(LookupError, match="Heard"):
            await tx.get(Heard)
    assert asked == [Counting, Heard]


async def test_a_parameter_with_a_default_is_given_when_it_can_be(store: Store) -> None:
    seen: list[object] = []

    @on(Saved)
    async def optional(
        event: Saved, tx: Transaction | None = None, counting: Counting | None = None, times: int = 3
    ) -> None:
        seen.extend([tx, counting, times])

    async with running(store, optional) as service, service.transaction() as tx:
        await tx.publish(Saved(word="a"))
        assert seen == [tx, None, 3]


def test_everything_that_is_missing_is_said_together_with_the_nearest() -> None:
    class Word:
        pass

    @on(Saved, name="one")
    async def one(event: Saved, words: Word) -> None: ...

    @on(Saved, name="two")
    async def two(event: Saved, session: AsyncSession) -> None: ...

    @on(Saved, name="three", blocking=True)
    def three(event: Saved, words: Words) -> None: ...

    factory: Callable[[Transaction], object] = 7  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # the mistake
    with pytest.raises(ConfigurationError) as caught:
        Service("tx-ms", modules=[one, two, three], provide={Words: Words, Counting: factory}, publishes=[Announced])
    found = [problem.partition(" · ")[0] for problem in caught.value.problems]
    assert found == [
        (
            "provide[Counting] is 7, not something to call with the transaction: provide={Counting: lambda tx: …}, or "
            "without one: provide={Counting: lambda: …}"
        ),
        (
            "one needs Word ('words'), and nothing provides it. Did you mean 'Words'? Add it to the service: "
            "provide={Word: lambda tx: …}"
        ),
        (
            "two needs AsyncSession ('session'), and nothing provides it. Add it to the service: "
            "provide={AsyncSession: lambda tx: …}"
        ),
        "three: blocking=True runs in a thread, where the transaction cannot go",
        "it hears or publishes integration events and has no transport: transport=RedisStreams(url)",
    ]


def test_what_is_no_integration_event_cannot_be_said_to_be_published() -> None:
    unchecked: Any = [Announced, Saved, str, Announced(word="a")]
    with pytest.raises(ConfigurationError) as caught:
        Service("tx-ms", publishes=unchecked, provide={"Words": Words}, transport=MemoryTransport())  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # the mistake
    assert caught.value.problems == (
        "publishes=[…, Saved]: Saved is a domain event, which never leaves the service; leave it out",
        "publishes=[…, str]: str is no integration event with a name; leave it out",
        "publishes=[…, Announced(word='a')]: Announced(word='a') is no integration event with a name; leave it out",
        "provide['Words']: things are found by type, not by name; write the class",
    )


async def test_asking_a_transaction_for_what_nothing_provides() -> None:
    async with Service("tx-ms", provide={Words: Words}).transaction() as tx:
        with pytest.raises(ConfigurationError, match=r"nothing provides Counting\."):
            await tx.get(Counting)


async def test_an_open_transaction_outliving_its_service_loses_loudly(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    async with AsyncExitStack() as stack, running(store, heard) as service:
        tx = await stack.enter_async_context(service.transaction())
        await tx.publish(Renamed(word="a"))
        await tx.publish(Announced(word="b"))
    assert service.counters["after_commit_dropped"] == 1
    assert service.counters["lost"] == 1
    assert (heard.afterwards, heard.sent) == ([], [])
    assert "the after-commit queue is closed: the service is stopping; events are dropped" in caplog.text
