"""A program that publishes and ends: the drain sends what it may, and says how many are left."""

import logging
from collections.abc import AsyncGenerator

import pytest
from cauce import IntegrationEvent, Service
from cauce.dev.ports import choose_port
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from cauce.transports.redis_streams import RedisStreams
from sqlalchemy import text


class Sold(IntegrationEvent, name="script.sold", version=1, source="script-ms"):
    number: int


@pytest.fixture
async def store(url: str) -> AsyncGenerator[SqlAlchemyStore]:
    store = SqlAlchemyStore(create_engine(url))
    yield store
    await store.close()


async def publishes_and_ends(store: SqlAlchemyStore, transport: MemoryStreams | RedisStreams) -> int:
    """Return how many are unsent afterwards."""
    async with Service("script-ms", store=store, transport=transport, publishes=[Sold]) as script:
        for number in range(6):
            async with script.transaction() as tx:
                await tx.publish(Sold(number=number))
    async with store.engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM cauce_outbox")) or 0


async def test_a_script_that_publishes_and_ends_has_sent_its_events(store: SqlAlchemyStore) -> None:
    assert await publishes_and_ends(store, MemoryStreams()) == 0


async def test_a_script_that_cannot_send_ends_and_says_how_many_are_left(
    store: SqlAlchemyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="cauce.durable")
    assert await publishes_and_ends(store, RedisStreams(f"redis://127.0.0.1:{choose_port()}")) == 6
    assert [one.getMessage() for one in caplog.records if "not sent yet" in one.getMessage()] == [
        (
            "script-ms: 6 events are not sent yet; they wait in its outbox until a process of script-ms runs and reaches the "
            "broker → cauce outbox status"
        )
    ]
