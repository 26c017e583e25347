"""A listener whose transaction is not whole at its end has failed: what the database says decides, not what was asked.

It swallows an error that aborts its transaction, or ends it by itself, in any of the ways there are. Within its attempts
it is a dead letter that says so; nothing of it is there, and nobody else is held up.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, Transaction, on
from cauce.listeners.retry import Retry
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from testsupport.waiting import until

# Python's own warning of a coroutine that was never awaited, beside our error.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine 'Transaction:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

ABORTED = "TransactionAbortedError: The database has aborted this transaction because of an earlier error"
COMMITTED = "TransactionEndedError: This transaction's session was to be committed inside its block"
ROLLED_BACK = "TransactionEndedError: This transaction's session was rolled back or closed inside its block"
STATEMENT = "TransactionEndedError: {} as a statement would end the transaction"
BEHIND = "TransactionEndedError: This transaction was ended by a statement or by the driver"
LOST = "TransactionEndedError: Inside this block a statement was cancelled"
CONNECTION = "TransactionEndedError: This transaction was to be committed through its connection"

TWICE = Retry(attempts=2, base=0.01, cap=0.01)


class Ordered(IntegrationEvent, name="whole.ordered", version=1, source="whole-ms", key="cart"):
    cart: str
    does: str = ""


class Noted(DomainEvent, name="whole.noted"):
    cart: str
    does: str = ""


async def misbehave(does: str, tx: Transaction) -> None:
    """One of the ways to end a transaction that only its block may end, after a change."""
    session = tx.session
    match does:
        case "swallows":
            with suppress(Exception):
                await session.execute(text("INSERT INTO taken VALUES ('taken')"))
        case "swallows and goes on":
            with suppress(Exception):
                await session.execute(text("INSERT INTO taken VALUES ('taken')"))
            with suppress(Exception):
                await session.execute(text("INSERT INTO written VALUES ('on its own')"))
        case "commits, then raises":
            await session.commit()
            raise ZeroDivisionError
        case "commits, and swallows":
            with suppress(Exception):
                await session.commit()
        case "rolls back":
            await session.rollback()
        case "rolls back, and goes on":
            await session.rollback()
            await session.execute(text("INSERT INTO written VALUES ('on its own')"))
        case "rolls back in a savepoint":
            await session.begin_nested()
            await session.rollback()
        case "closes":
            await session.close()
        case "says COMMIT":
            await session.execute(text("COMMIT"))
        case "says rollback, and swallows":
            with suppress(Exception):
                await session.execute(text("  rollback;"))
        case "says it after a comment":
            await session.execute(text("/* the end */ COMMIT"))
        case "commits the connection":
            await (await session.connection()).commit()
        case "commits the connection, and swallows":
            with suppress(Exception):
                await (await session.connection()).commit()
        case "commits the driver's":
            await end_by(await driver_of(session), "commit")
        case "rolls the driver's back, and goes on":
            await end_by(await driver_of(session), "rollback")
            await session.execute(text("INSERT INTO written VALUES ('on its own')"))
        case "cancels a statement, and swallows":
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await session.execute(text(SLOW[session.get_bind().dialect.name]))
        case "invalidates the connection":
            await (await session.connection()).invalidate()
        case "forgets to await":
            tx.publish(Noted(cart="never"))  # pyright: ignore[reportUnusedCoroutine]  # the mistake
        case _:
            assert not does


async def driver_of(session: AsyncSession) -> Any:
    return (await (await session.connection()).get_raw_connection()).driver_connection


async def end_by(driver: Any, how: str) -> None:
    """asyncpg has no word of its own for it."""
    await (getattr(driver, how)() if hasattr(driver, how) else driver.execute(how))


SLOW = {
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000000) SELECT max(x) FROM n",
    "postgresql": "SELECT pg_sleep(10)",
}

WAYS = {
    "swallows": ABORTED,
    "swallows and goes on": ABORTED,
    "commits, then raises": COMMITTED,
    "commits, and swallows": COMMITTED,
    "rolls back": ROLLED_BACK,
    "rolls back, and goes on": ROLLED_BACK,
    "rolls back in a savepoint": ROLLED_BACK,
    "closes": ROLLED_BACK,
    "says COMMIT": STATEMENT.format("COMMIT"),
    "says rollback, and swallows": STATEMENT.format("ROLLBACK"),
    "commits the connection": CONNECTION,
    "commits the connection, and swallows": CONNECTION,
    "rolls the driver's back, and goes on": BEHIND,
    "cancels a statement, and swallows": LOST,
    "invalidates the connection": LOST,
    "forgets to await": "PublishError: publish(Noted) was not awaited",
}
"""How it ends a transaction, and what the dead letter says."""

TOO_LATE = {"says it after a comment": BEHIND, "commits the driver's": BEHIND}
"""What cannot be prevented: the change is there. It is a failed attempt all the same, never counted as handled."""


class Listeners:
    """Each writes that it was called, in its transaction, and does what the event says."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    @on(Ordered, name="alone", retry=TWICE)
    async def alone(self, event: Ordered, tx: Transaction) -> None:
        await self._write(event, tx)

    @on(Noted, name="durable", when="durable", retry=TWICE)
    async def durable(self, event: Noted, tx: Transaction) -> None:
        await self._write(event, tx)

    async def _write(self, event: Ordered | Noted, tx: Transaction) -> None:
        self.calls[event.cart] += 1
        await tx.session.execute(text("INSERT INTO written VALUES (:cart)"), {"cart": event.cart})
        await misbehave(event.does, tx)


class Together(Listeners):
    """The same, with as many as possible in one transaction."""

    alone = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    @on(Ordered, name="together", retry=TWICE, shared_transaction=True)
    async def together(self, event: Ordered, tx: Transaction) -> None:
        await self._write(event, tx)


@pytest.fixture
async def store(any_url: str) -> AsyncGenerator[SqlAlchemyStore]:
    engine = create_engine(any_url)
    # A conflict ends SQLite's transaction where the table says so, and PostgreSQL's always.
    conflict = " ON CONFLICT ROLLBACK" if engine.dialect.name == "sqlite" else ""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE written (cart TEXT)"))
        await connection.execute(text(f"CREATE TABLE taken (cart TEXT PRIMARY KEY{conflict})"))
        await connection.execute(text("INSERT INTO taken VALUES ('taken')"))
    store = SqlAlchemyStore(engine)
    yield store
    await store.close()


async def written(store: SqlAlchemyStore) -> Sequence[str]:
    async with store.engine.connect() as connection:
        return list((await connection.execute(text("SELECT cart FROM written ORDER BY cart"))).scalars())


@asynccontextmanager
async def running(store: SqlAlchemyStore, listeners: Listeners) -> AsyncGenerator[Service]:
    service = Service(
        "whole-ms",
        modules=[listeners],
        store=store,
        transport=MemoryStreams(),
        publishes=[Ordered],
        start="retained",
    )
    async with service:
        yield service


def settled(service: Service, *, handled: int, dead: int) -> Any:
    """Every event is at its end, whichever; more than these are a failure of the test, not a reason to wait."""
    return lambda: service.counters["handled"] >= handled and service.counters["dead"] >= dead


async def publish(service: Service, *events: Ordered | Noted) -> None:
    async with service.transaction() as tx:
        for event in events:
            await tx.publish(event)


async def test_each_way_is_a_dead_letter_that_says_so_and_leaves_nothing(store: SqlAlchemyStore) -> None:
    listeners = Listeners()
    async with running(store, listeners) as service:
        await publish(service, *(Ordered(cart=f"bad {way}", does=way) for way in WAYS))
        await publish(service, *(Noted(cart=f"bad {way} too", does=way) for way in WAYS))
        await publish(service, *(Ordered(cart=f"good {number}") for number in range(3)))
        await until(settled(service, handled=3, dead=2 * len(WAYS)))
        dead = await store.message_store().dead(limit=100)

        assert service.counters["handled"] == 3
    assert await written(store) == ["good 0", "good 1", "good 2"]
    for one in dead:
        expected = WAYS[one.key.removeprefix("bad ")] if one.key else None
        assert one.reason == "exhausted"
        assert one.attempts == 2
        if expected is not None:
            assert one.error.startswith(expected), one.key
    assert Counter(one.error.partition(":")[0] for one in dead) == Counter(
        2 * [said.partition(":")[0] for said in WAYS.values()]
    )
    assert all(listeners.calls[f"bad {way}"] == 2 for way in WAYS)


async def test_what_cannot_be_prevented_is_a_failed_attempt_too(store: SqlAlchemyStore) -> None:
    async with running(store, Listeners()) as service:
        await publish(service, *(Ordered(cart=way, does=way) for way in TOO_LATE))
        await until(lambda: sum(service.counters.values()) - service.counters["published"] >= len(TOO_LATE))
        await service.idle()

        assert service.counters["handled"] == 0


async def test_of_those_that_share_a_transaction_only_the_guilty_one_fails(store: SqlAlchemyStore) -> None:
    listeners = Together()
    async with running(store, listeners) as service:
        await publish(
            service,
            *(Ordered(cart=f"good {number:02}") for number in range(20)),
            *(Ordered(cart=f"bad {way}", does=way) for way in WAYS),
            *(Ordered(cart=f"good {number:02}") for number in range(20, 40)),
        )
        await until(settled(service, handled=40, dead=len(WAYS)))
        dead = await store.message_store().dead(limit=100)

        assert service.counters["handled"] == 40
    assert await written(store) == [f"good {number:02}" for number in range(40)]
    assert sorted(str(one.key) for one in dead) == sorted(f"bad {way}" for way in WAYS)
    assert all(one.error.startswith(WAYS[str(one.key).removeprefix("bad ")]) for one in dead)


async def test_a_session_factory_of_ones_own_is_watched_as_well(store: SqlAlchemyStore) -> None:
    own = SqlAlchemyStore(store.engine, async_sessionmaker(store.engine, expire_on_commit=False))
    async with running(own, Listeners()) as service:
        await publish(service, *(Ordered(cart=f"bad {way}", does=way) for way in WAYS), Ordered(cart="good"))
        await until(settled(service, handled=1, dead=len(WAYS)))

        assert service.counters["handled"] == 1
    assert await written(store) == ["good"]


async def test_a_task_that_outlives_its_listener_finds_the_session_ended_and_holds_no_connection(
    store: SqlAlchemyStore,
) -> None:
    tasks, refused = list[asyncio.Task[None]](), Counter[str]()

    async def go_on(tx: Transaction) -> None:
        for _ in range(300):
            try:
                await tx.session.execute(text("SELECT 1"))
            except Exception as error:
                refused[type(error).__name__] += 1
            await asyncio.sleep(0)

    @on(Ordered, name="careless", retry=TWICE)
    async def careless(event: Ordered, tx: Transaction) -> None:
        await tx.session.execute(text("INSERT INTO written VALUES (:cart)"), {"cart": event.cart})
        if event.cart == "bad":
            tasks.extend(asyncio.get_running_loop().create_task(go_on(tx)) for _ in range(3))  # nobody owns them
            await asyncio.sleep(0.005)

    service = Service(
        "whole-ms", modules=[careless], store=store, transport=MemoryStreams(), publishes=[Ordered], start="retained"
    )
    async with service:
        await publish(service, Ordered(cart="bad"))
        await until(lambda: service.counters["handled"] + service.counters["dead"] == 1)
        await publish(service, *(Ordered(cart=f"good {number}") for number in range(20)))
        await until(lambda: service.counters["handled"] + service.counters["dead"] == 21)
        await asyncio.gather(*tasks)
        assert refused["TransactionEndedError"]
        outcomes = (service.counters["handled"], service.counters["dead"])
    assert outcomes in ((21, 0), (20, 1)), "of the one that was disturbed, too, the outcome is known"
    assert len(await written(store)) == outcomes[0]


async def test_the_way_out_that_the_message_names_works(store: SqlAlchemyStore) -> None:
    @on(Ordered, name="careful", retry=Retry(attempts=1))
    async def careful(event: Ordered, tx: Transaction) -> None:
        await tx.session.execute(text("INSERT INTO written VALUES (:cart)"), {"cart": event.cart})
        with suppress(Exception):
            async with tx.savepoint():
                await tx.session.execute(text("INSERT OR ABORT INTO taken VALUES ('taken')" if sqlite else INSERT))
        await tx.session.execute(text("INSERT INTO written VALUES ('after it')"))

    sqlite, INSERT = store.name == "sqlite", "INSERT INTO taken VALUES ('taken')"
    service = Service(
        "whole-ms", modules=[careful], store=store, transport=MemoryStreams(), publishes=[Ordered], start="retained"
    )
    async with service:
        await publish(service, Ordered(cart="a"))
        await until(settled(service, handled=1, dead=0))
    assert await written(store) == ["a", "after it"]
