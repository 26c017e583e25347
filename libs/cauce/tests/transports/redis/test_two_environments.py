"""Two environments of one service name on one broker, each with its own database: the second is told, nobody shares."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cauce import ConfigurationError, IntegrationEvent, Service, on
from cauce.delivery.pace import Pace
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from testsupport.redis_under_test import RedisUnderTest

FAST = Pace(lease_s=4, beat_every_s=0.1, verify_every_s=0.3)


class Ordered(IntegrationEvent, name="env.ordered", version=1, source="shop", key="cart"):
    cart: str
    number: int


NewDatabase = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """A new, empty database with each call."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").database
    numbers = iter(range(100))
    return lambda: f"sqlite+aiosqlite:///{tmp_path}/{next(numbers)}.sqlite"


def service(name: str, broker: RedisUnderTest, database: str, prefix: str = "cauce", **what: Any) -> Service:
    store = SqlAlchemyStore(create_engine(database))
    return Service(name, store=store, transport=RedisStreams(broker.server.url, prefix=prefix), pace=FAST, **what)


def shop(broker: RedisUnderTest, database: str, prefix: str = "cauce") -> Service:
    return service("shop", broker, database, prefix, publishes=[Ordered])


def stock(broker: RedisUnderTest, database: str, heard: list[int], prefix: str = "cauce") -> Service:
    @on(Ordered, name="pack")
    async def pack(event: Ordered) -> None:
        heard.append(event.number)

    return service("stock", broker, database, prefix, modules=[pack], start="retained")


async def publish(selling: Service, numbers: range) -> None:
    async with selling.transaction() as tx:
        for number in numbers:
            await tx.publish(Ordered(cart=f"cart {number % 40}", number=number))


async def until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # the services' loops
            await asyncio.sleep(0.01)


async def noted(broker: RedisUnderTest, topic: str, name: str) -> str | None:
    found = await broker.admin.hget(broker.keys.databases(topic), name)
    return None if found is None else found.decode()


async def test_staging_beside_production_does_not_start_and_production_hears_every_event(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    production: list[int] = []
    staging: list[int] = []
    staged = new_database()
    async with shop(broker, new_database()) as selling, stock(broker, new_database(), production) as first:
        with pytest.raises(ConfigurationError) as refused:
            async with stock(broker, staged, staging):
                await publish(selling, range(200))
                await until(lambda: len(production) + len(staging) >= 200)
        await publish(selling, range(200))
        await until(lambda: first.counters["handled"] >= 200)
    assert (sorted(production), staging) == (list(range(200)), [])
    (problem,) = refused.value.problems
    assert problem.startswith(
        "stock is registered on this broker with another database than this one, in the topics shop, stock (incarnation "
    )
    assert "prefix='staging'" in problem
    assert problem.endswith("if this database replaces the other one: cauce db restored stock")


async def test_with_a_prefix_of_its_own_each_environment_hears_its_own_events(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    production: list[int] = []
    staging: list[int] = []
    async with (
        shop(broker, new_database()) as selling,
        shop(broker, new_database(), "staging") as staged,
        stock(broker, new_database(), production),
        stock(broker, new_database(), staging, "staging"),
    ):
        await publish(selling, range(5))
        await publish(staged, range(5, 8))
        await until(lambda: len(production) + len(staging) == 8)
    assert (sorted(production), sorted(staging)) == ([0, 1, 2, 3, 4], [5, 6, 7])


async def test_a_publisher_of_another_environment_is_refused_too(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    database = new_database()
    async with shop(broker, database):
        with pytest.raises(ConfigurationError, match=r"shop is registered .* in the topics shop "):
            async with shop(broker, new_database()):
                pass
        async with shop(broker, database):
            assert await noted(broker, "shop", "shop")


async def test_of_two_that_start_at_once_on_an_empty_broker_one_is_refused(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    async def run(database: str) -> bool:
        try:
            async with shop(broker, database):
                await ended.wait()
        except ConfigurationError:
            ended.set()
            return False
        return True

    ended = asyncio.Event()
    async with asyncio.timeout(30):
        assert sorted(await asyncio.gather(run(new_database()), run(new_database()))) == [False, True]


async def test_a_service_of_before_registers_and_says_nothing(
    broker: RedisUnderTest, new_database: NewDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    selling, heard, database = new_database(), list[int](), new_database()
    async with shop(broker, selling) as running, stock(broker, database, heard):
        await publish(running, range(3))
        await until(lambda: len(heard) == 3)
    for topic in ("shop", "stock"):
        await broker.admin.delete(broker.keys.databases(topic))  # as an earlier version left it
    with caplog.at_level(logging.INFO):
        async with shop(broker, selling) as running, stock(broker, database, heard):
            await publish(running, range(3, 6))
            await until(lambda: len(heard) == 6)
    assert not [one.getMessage() for one in caplog.records if "registered" in one.getMessage()]
    assert await noted(broker, "shop", "stock")
    with pytest.raises(ConfigurationError, match="another database"):
        async with stock(broker, new_database(), heard):
            pass


async def test_the_broker_is_told_again_when_it_lost_its_data(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    heard: list[int] = []
    async with shop(broker, new_database()) as selling, stock(broker, new_database(), heard) as stocking:
        await publish(selling, range(3))
        await until(lambda: len(heard) == 3)
        database = await noted(broker, "shop", "stock")

        await broker.stop()
        await until(lambda: bool(stocking.readiness()))
        await broker.start()
        await broker.forget_everything()

        await publish(selling, range(3, 6))
        await until(lambda: len(heard) == 6)
        async with asyncio.timeout(30):
            while await noted(broker, "shop", "stock") != database:  # noqa: ASYNC110  # the service's loop
                await asyncio.sleep(0.01)
        with pytest.raises(ConfigurationError, match="another database"):
            async with stock(broker, new_database(), heard):
                pass


async def test_one_that_is_replaced_while_it_runs_reads_nothing_and_says_why_until_that_is_set_right(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    """The broker lost its data while production was away from it, and staging came first."""
    heard: list[int] = []
    async with shop(broker, new_database()) as selling, stock(broker, new_database(), heard) as stocking:
        database = await noted(broker, "shop", "stock")
        for topic in ("shop", "stock"):
            await broker.admin.hset(broker.keys.databases(topic), "stock", "staging's")
        await until(lambda: "another database" in str(stocking.readiness()))
        await asyncio.sleep(0.6)  # a read that was under way has ended

        await publish(selling, range(20))
        await until(lambda: selling.counters["sent"] >= 20)
        await asyncio.sleep(0.3)
        assert heard == []

        for topic in ("shop", "stock"):
            await broker.admin.hdel(broker.keys.databases(topic), "stock")  # as `cauce topic forget stock` does
        await until(lambda: len(heard) >= 20)
        await until(lambda: not stocking.readiness())
        assert await noted(broker, "shop", "stock") == database


async def test_it_is_refused_when_the_broker_comes_up_after_the_service(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    async with shop(broker, new_database()):
        pass
    await broker.stop()
    try:
        with pytest.raises(ConfigurationError, match="another database"):
            async with shop(broker, new_database()) as running:
                assert running.readiness(), "it waits for its broker"
                await broker.start()
                await running.stopped()
    finally:
        await broker.start()


async def test_one_that_was_refused_is_not_taken_for_a_running_one(
    broker: RedisUnderTest, new_database: NewDatabase
) -> None:
    async with shop(broker, new_database()):
        pass
    refused = new_database()
    with pytest.raises(ConfigurationError):
        async with shop(broker, refused):
            pass
    engine = create_engine(refused)
    async with engine.connect() as connection:
        assert list(await connection.exec_driver_sql("SELECT id FROM cauce_member")) == []
    await engine.dispose()
