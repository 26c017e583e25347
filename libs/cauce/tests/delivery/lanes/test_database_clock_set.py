"""The database's clock is set, back or forward, while services work: nothing is lost, delayed or taken from the living."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from cauce import DomainEvent, IntegrationEvent, RetryAfter, Service, on
from cauce.delivery.pace import Pace
from cauce.delivery.retention import Keep
from cauce.dev.servers import ValkeyServer
from cauce.ports.lanes import LANES, MemberId
from cauce.stores.sql.message_store import SqlMessageStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from cauce.transports.redis_streams import RedisStreams
from redis import Redis
from sqlalchemy import text
from testsupport.set_clocks import DatabaseClock
from testsupport.waiting import until

AN_HOUR_S = 3600.0
LEASE_S = 1.0
PACE = Pace(lease_s=LEASE_S, beat_every_s=0.1, verify_every_s=0.2, prune_every_s=0.1)


class Booked(IntegrationEvent, name="clock.booked", version=1, source="clock-ms", key="room"):
    room: str
    number: int


class Noted(DomainEvent, name="clock.noted"):
    number: int


class Database:
    """One database, its clock, and as many stores on it as there are processes."""

    def __init__(self, url: str) -> None:
        self.stores = [SqlAlchemyStore(create_engine(url)) for _ in range(3)]
        self.engine = self.stores[-1].engine
        self.clock = DatabaseClock(self.engine, *(one.engine for one in self.stores[:-1]))

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]


@pytest.fixture
async def database(url: str) -> AsyncGenerator[Database]:
    one = Database(url)
    await one.clock.install()
    yield one
    for store in one.stores:
        await store.close()


@pytest.fixture
def service(database: Database) -> Callable[..., Service]:
    def make(process: int = 0, **options: Any) -> Service:
        options = {"transport": MemoryStreams(), "publishes": [Booked], "pace": PACE, **options}
        return Service("clock-ms", store=database.stores[process], start="retained", **options)

    return make


async def publish(service: Service, numbers: range) -> None:
    async with service.transaction() as tx:
        for number in numbers:
            await tx.publish(Booked(room="a", number=number))
    await until(lambda: service.counters["sent"] >= numbers.stop)


async def test_what_the_broker_lost_after_the_clock_was_set_back_is_resent_in_order(
    database: Database, service: Callable[..., Service], valkey: ValkeyServer
) -> None:
    heard: list[int] = []

    @on(Booked, name="ledger")
    async def write(event: Booked) -> None:
        heard.append(event.number)

    transport = RedisStreams(valkey.url)
    async with service(transport=RedisStreams(valkey.url)) as seller:
        await publish(seller, range(130))  # more than the tail that is compared
        await database.clock.set(-AN_HOUR_S)
        await publish(seller, range(130, 150))

    with Redis.from_url(valkey.url) as connection:  # pyright: ignore[reportUnknownMemberType]  # its stub says too little
        broker: Any = connection
        [stream] = broker.scan_iter(f"{transport.prefix}:*", _type="stream")
        broker.xdel(stream, *(entry_id for entry_id, _ in broker.xrange(stream)[-15:]))

    async with service(transport=transport, modules=[write]):
        await until(lambda: len(heard) >= 150)
    assert heard == list(range(150))


@pytest.mark.parametrize("step_s", [-AN_HOUR_S, AN_HOUR_S])
async def test_lanes_of_a_dead_process_are_taken_after_the_clock_was_set(
    database: Database, service: Callable[..., Service], step_s: float
) -> None:
    await database.stores[0].prepare()
    dead = MemberId("dead:1")
    message_store = database.stores[0].message_store()
    seen = await message_store.beat(dead, lease_s=LEASE_S)
    await message_store.take(dead, {row.lane: row.epoch for row in seen.rows})
    await database.clock.set(step_s)

    async with service() as seller:
        await publish(seller, range(1))
        owners = await database.rows("SELECT DISTINCT member FROM cauce_lane")
    assert owners != [(dead,)]


@pytest.mark.parametrize("step_s", [-AN_HOUR_S, AN_HOUR_S])
async def test_no_lane_of_a_living_process_is_taken_when_the_clock_is_set(
    database: Database, service: Callable[..., Service], step_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    lanes = "SELECT lane, member, epoch FROM cauce_lane ORDER BY lane"
    caplog.set_level(logging.WARNING, logger="cauce.lanes")

    def said() -> list[str]:
        return [one.getMessage() for one in caplog.records if "clock" in one.getMessage()]

    async with AsyncExitStack() as processes:
        both = [await processes.enter_async_context(service(number)) for number in range(2)]

        async def shared_out() -> bool:
            found = await database.rows("SELECT count(*) FROM cauce_lane WHERE member IS NOT NULL GROUP BY member")
            return [count for (count,) in found] == [LANES // 2] * 2

        await until(shared_out)
        before = await database.rows(lanes)
        await database.clock.set(step_s)
        await until(lambda: len(said()) == len(both))
        # Every process has seen it and has renewed its lease; the next beats find leases by the new clock.
        for _ in range(2):
            async with database.engine.begin() as connection:
                await connection.execute(text("UPDATE cauce_lane SET epoch = epoch"))
        assert await database.rows(lanes) == before
    way = "forward" if step_s > 0 else "back"
    assert set(said()) == {f"the database's clock was set 3600 s {way}: leases are believed again in 1 s"}


async def test_what_is_due_or_retried_does_not_wait_for_the_clock_to_come_back(
    database: Database, service: Callable[..., Service]
) -> None:
    tried: list[int] = []
    heard: list[int] = []

    @on(Noted, when="durable", name="note")
    async def note(event: Noted) -> None:
        tried.append(event.number)
        if tried.count(event.number) == 1:
            raise RetryAfter(0.6)
        heard.append(event.number)

    async def noted(noting: Service, number: int) -> None:
        async with noting.transaction() as tx:
            await tx.publish(Noted(number=number))

    async def failed_once() -> bool:
        return await database.rows("SELECT attempts FROM cauce_waiting") == [(1,)]

    async with service(modules=[note]) as noting:
        await noted(noting, 0)
        await until(failed_once)
        await database.clock.set(-AN_HOUR_S)
        await until(lambda: heard == [0])
        await noted(noting, 1)
        await until(failed_once)
    await database.clock.set(-AN_HOUR_S)  # while nobody is there to see it
    async with service(1, modules=[note]):
        await until(lambda: heard == [0, 1])


async def test_the_clock_set_forward_shortens_neither_the_window_nor_the_memory_of_the_inbox(
    database: Database, service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    @on(Booked, name="ledger")
    async def write(event: Booked) -> None: ...

    rounds = 0
    prune = SqlMessageStore.prune_inbox

    async def counted(self: SqlMessageStore, **limits: Any) -> int:
        nonlocal rounds
        rounds += 1
        return await prune(self, **limits)

    monkeypatch.setattr(SqlMessageStore, "prune_inbox", counted)
    keep = Keep(sent_s=600, inbox_s=600)
    async with service(modules=[write], keep=keep) as seller:
        await publish(seller, range(5))
        await until(lambda: seller.counters["handled"] == 5)
        await database.clock.set(AN_HOUR_S)
        await publish(seller, range(5, 10))
        await until(lambda: seller.counters["handled"] == 10)
        rounds = 0
        await until(lambda: rounds >= 2)  # it was pruned after that
        assert await database.rows("SELECT count(*) FROM cauce_inbox") == [(10,)]
        assert await database.rows("SELECT count(*) FROM cauce_sent") == [(10,)]
