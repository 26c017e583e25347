"""A running service lets its own old rows go, by age, by number and by size, and says when that is sooner than promised."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from cauce import IntegrationEvent, Service, on
from cauce.delivery.pace import Pace
from cauce.delivery.retention import Keep
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing import Story, story
from cauce.transports.memory_streams import MemoryStreams

AN_HOUR_S = 3600.0
OFTEN = Pace(lease_s=2, beat_every_s=0.1, prune_every_s=0.1)


class Sold(IntegrationEvent, name="kept.sold", version=1, source="kept-ms"):
    number: int
    note: str = ""


@on(Sold)
async def count(event: Sold) -> None:
    return


@pytest.fixture
async def store(url: str) -> AsyncGenerator[SqlAlchemyStore]:
    store = SqlAlchemyStore(create_engine(url))
    yield store
    await store.close()


def service(store: SqlAlchemyStore, keep: Keep) -> Service:
    return Service(
        "kept-ms",
        modules=[count],
        store=store,
        transport=MemoryStreams(),
        start="retained",
        publishes=[Sold],
        keep=keep,
        pace=OFTEN,
    )


async def ask(store: SqlAlchemyStore, statement: str) -> list[Any]:
    async with store.engine.begin() as connection:
        done = await connection.execute(Dialect(store.name).sql(statement))
        return [row[0] for row in done] if done.returns_rows else []


def are(store: SqlAlchemyStore, statement: str, expected: list[Any]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return await ask(store, statement) == expected

    return holds


SENT = "SELECT count(*) FROM cauce_sent"
HEARD = "SELECT count(*) FROM cauce_inbox"


async def sold(s: Story, seller: Service, numbers: range, note: str = "") -> None:
    """Sold, sent and heard."""
    async with seller.transaction() as tx:
        for number in numbers:
            await tx.publish(Sold(number=number, note=note))
    await s.until(lambda: seller.counters["handled"] >= numbers.stop, why="all of them handled")


async def test_what_was_sent_longer_ago_than_promised_goes_and_the_rest_stays(store: SqlAlchemyStore) -> None:
    seller = service(store, Keep(sent_s=AN_HOUR_S))
    async with story(seller, limit_s=20) as s:
        await sold(s, seller, range(5))
        await s.until(are(store, SENT, [5]), why="all of them marked")
        await ask(store, "UPDATE cauce_sent SET sent_at = :NOW - 3700")
        await s.until(are(store, SENT, [0]), why="the old ones")
        await sold(s, seller, range(5, 9))
        await s.until(are(store, SENT, [4]), why="the young ones")
        await asyncio.sleep(5 * OFTEN.prune_every_s)
        assert await ask(store, SENT) == [4], "they stay"

    assert seller.counters["window_shortened"] == 0


async def test_what_was_handled_longer_ago_than_promised_goes_and_the_rest_stays(store: SqlAlchemyStore) -> None:
    seller = service(store, Keep(inbox_s=2 * AN_HOUR_S))
    async with story(seller, limit_s=20) as s:
        await sold(s, seller, range(9))
        first = "SELECT event_id FROM cauce_inbox ORDER BY event_id LIMIT 5"
        in_doubt = "CASE WHEN event_id = (SELECT min(event_id) FROM cauce_inbox) THEN 'sending' END"
        aged = f"UPDATE cauce_inbox SET received_at = :NOW - 7300, state = {in_doubt} WHERE event_id IN ({first})"
        await ask(store, aged)
        await s.until(are(store, HEARD, [5]), why="an effect in doubt and the four young ones")

    assert seller.counters["window_shortened"] == 0


@pytest.mark.parametrize(
    "keep", [Keep(sent_rows=20), Keep(sent_bytes=20 * 10_000)], ids=["too many rows", "too many bytes"]
)
async def test_a_window_shorter_than_promised_is_logged_once_and_counted(
    store: SqlAlchemyStore, keep: Keep, caplog: pytest.LogCaptureFixture
) -> None:
    seller = service(store, keep)
    async with story(seller, limit_s=20) as s:
        await sold(s, seller, range(10), note="x" * 10_000)
        await sold(s, seller, range(10, 30), note="x" * 10_000)
        await s.until(lambda: seller.counters["window_shortened"] >= 1)
        await sold(s, seller, range(30, 60), note="x" * 10_000)
        await s.until(lambda: seller.counters["window_shortened"] >= 2)

    said = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert len(said) == 1
    assert "a broker that loses its data can be fed less than 24 h back" in said[0].getMessage()
    assert (await ask(store, HEARD)) == [60]
