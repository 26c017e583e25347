"""Events pile up: it is said once when it begins, once when it is over, and refused only where the service wants that."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cauce import IntegrationEvent, Service
from cauce.delivery.outbox.alarms import Alarms
from cauce.delivery.pace import Pace
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from cauce.errors import DefinitionError, OutboxFullError
from cauce.ports.outbox import Backlog
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

QUICK = Pace(lease_s=2, beat_every_s=0.5, watch_every_s=0.05)


class Opened(IntegrationEvent, name="alarms.opened", version=1, source="shop", key="shop"):
    shop: str


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite"
    else:
        databases: ScratchDatabases = request.getfixturevalue("postgres")
        url = databases.database()
    engine = create_engine(url)
    yield engine
    await engine.dispose()


def service(engine: AsyncEngine, valkey: ValkeyServer, alarms: Alarms) -> Service:
    transport = RedisStreams(valkey.url, answer_limit_s=0.3)
    return Service(
        "shop", store=SqlAlchemyStore(engine), transport=transport, publishes=[Opened], alarms=alarms, pace=QUICK
    )


async def said(caplog: pytest.LogCaptureFixture, *wanted: str) -> None:
    """Until the log holds each of these."""
    async with asyncio.timeout(20):
        while not all(any(one in record.getMessage() for record in caplog.records) for one in wanted):  # noqa: ASYNC110  # the log has no event
            await asyncio.sleep(0.01)


async def open_shops(service: Service, count: int) -> None:
    for number in range(count):
        async with service.transaction() as tx:
            await tx.publish(Opened(shop=f"s{number}"))


async def unsent(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM cauce_outbox")) or 0


async def until_refused(shop: Service, engine: AsyncEngine) -> int:
    """How many events were not sent when the one too many was refused."""
    async with asyncio.timeout(20):
        while True:
            before = await unsent(engine)
            try:
                await open_shops(shop, 1)
            except OutboxFullError:
                return before


async def test_events_that_do_not_leave_are_said_once_and_so_is_their_leaving(
    engine: AsyncEngine, own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cauce.alarms")
    own_valkey.pause()
    try:
        async with service(engine, own_valkey, Alarms(outbox_age_s=0.2, outbox_rows=3)) as shop:
            await open_shops(shop, 3)
            await said(caplog, "alarm outbox_age: the oldest of 3 events", "alarm outbox_rows: 3 events wait")
            own_valkey.resume()
            await said(caplog, "alarm outbox_age is over", "alarm outbox_rows is over")
            assert shop.counters["alarms"] == 2
    finally:
        own_valkey.resume()

    assert len([record for record in caplog.records if record.name == "cauce.alarms"]) == 4


async def test_a_service_with_a_limit_refuses_more_and_the_refused_transaction_leaves_nothing(
    engine: AsyncEngine, own_valkey: ValkeyServer
) -> None:
    own_valkey.pause()
    try:
        async with service(engine, own_valkey, Alarms(refuse_at=2)) as shop:
            await open_shops(shop, 2)
            before = await until_refused(shop, engine)
            assert await unsent(engine) == before

            own_valkey.resume()
            async with asyncio.timeout(20):
                while True:  # there is room again as soon as they have left
                    try:
                        await open_shops(shop, 1)
                        break
                    except OutboxFullError:
                        await asyncio.sleep(0.01)
    finally:
        own_valkey.resume()


async def test_many_events_behind_one_key_are_said_with_the_key_and_the_listener(
    engine: AsyncEngine, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cauce.alarms")
    async with service(engine, valkey, Alarms(behind_key=3)):
        async with engine.begin() as connection:
            for number in range(4):
                await connection.execute(
                    text(
                        "INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, created_at) "
                        "VALUES ('shop/bill', 'shop', :id, 1, :key, '', :nothing, 0)"
                    ),
                    {"id": f"e{number}", "key": "k1" if number < 3 else "k2", "nothing": b""},
                )
        await said(caplog, "alarm behind_key: 3 events wait behind key k1 of shop/bill")


def test_nothing_is_due_below_the_limits_and_limits_are_above_zero() -> None:
    assert not list(Alarms().raised(Backlog(unsent=99_999, oldest_unsent_s=59.9, longest=999)))
    with pytest.raises(DefinitionError, match="above 0"):
        Alarms(refuse_at=0)
