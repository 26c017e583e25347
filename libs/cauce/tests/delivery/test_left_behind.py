"""Rows that the running code cannot handle or send: however many there are, they hold nothing, and the start names them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, on
from cauce.events.envelope import Envelope
from cauce.events.event import Event
from cauce.ports.lanes import LANES, Lane
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.testing.store_contract import StoreUnderTest, unit
from cauce.transports.memory_streams import MemoryStreams
from msgspec.structs import replace
from sqlalchemy import text

MANY = 600
"""More than are looked at in one go."""


class Counted(DomainEvent, name="left.counted", version=1):
    number: int


class Gone(DomainEvent, name="left.gone", version=1):
    """An event class that the running code does not have."""

    number: int


class Sold(IntegrationEvent, name="left.sold", version=1, source="new-ms"):
    number: int


class SoldBefore(IntegrationEvent, name="left.sold-before", version=1, source="old-ms"):
    number: int


async def write(store: StoreUnderTest, events: Collection[Event], *, source: str, consumer: str | None) -> None:
    async with unit(store) as one:
        for event in events:
            one.publish(replace(Envelope.of(event), source=source), consumer=consumer)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the service's loops
            await asyncio.sleep(0.01)


@asynccontextmanager
async def counting(
    store: StoreUnderTest, name: str = "count", retired: Sequence[str] = ()
) -> AsyncGenerator[tuple[Service, list[int]]]:
    """The service whose listener of Counted is called `name`."""
    counted: list[int] = []

    @on(Counted, when="durable", name=name)
    async def count(event: Counted) -> None:
        counted.append(event.number)

    async with Service("left-ms", modules=[count], retired=retired, store=store) as service:
        yield service, counted


async def test_deliveries_of_a_listener_that_is_gone_hold_nothing_and_are_named(
    store: StoreUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await write(store, [Counted(number=n) for n in range(MANY)], source="left-ms", consumer="left-ms/counting")
    with caplog.at_level(logging.WARNING):
        async with counting(store) as (service, counted):
            for number in range(5):
                async with service.transaction() as tx:
                    await tx.publish(Counted(number=number))
            await until(lambda: len(counted) == 5)

    assert sorted(counted) == list(range(5))
    assert (
        "left-ms: 600 deliveries of left.counted wait for counting, which is not in this code "
        "→ cauce waiting list --listener counting"
    ) in caplog.messages
    assert await waiting(store) == MANY, "they wait for a version that knows them"

    async with counting(store, name="counting", retired=["count"]) as (_, counted):
        await until(lambda: len(counted) >= 5)


async def test_deliveries_of_an_event_class_that_is_gone_hold_nothing_and_are_named(
    store: StoreUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await write(store, [Gone(number=n) for n in range(MANY)], source="left-ms", consumer="left-ms/count")
    await write(store, [Counted(number=n) for n in range(5)], source="left-ms", consumer="left-ms/count")
    with caplog.at_level(logging.WARNING):
        async with counting(store) as (_, counted):
            await until(lambda: len(counted) == 5)

    (line,) = (one for one in caplog.messages if "left.gone" in one)
    assert line.startswith("left-ms: 600 deliveries of left.gone wait for count, and no event class here has that name")
    assert await waiting(store) == MANY


async def test_waiting_rows_of_an_earlier_version_do_not_name_their_event_and_hold_nothing_either(
    store: StoreUnderTest,
) -> None:
    if not isinstance(store, SqlAlchemyStore):
        pytest.skip("a store in memory has no earlier version")
    await write(store, [Gone(number=n) for n in range(MANY)], source="left-ms", consumer="left-ms/count")
    await write(store, [Counted(number=n) for n in range(5)], source="left-ms", consumer="left-ms/count")
    async with store.engine.begin() as connection:
        await connection.execute(text("UPDATE cauce_waiting SET name = NULL"))

    async with counting(store) as (_, counted):
        await until(lambda: len(counted) == 5)


async def test_unsent_events_of_another_topic_hold_nothing_and_are_named(
    store: StoreUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await write(store, [SoldBefore(number=n) for n in range(MANY)], source="old-ms", consumer=None)
    broker = MemoryStreams() if isinstance(store, MemoryStore) else _OutlivesTheProcess()
    with caplog.at_level(logging.WARNING):
        async with Service("new-ms", publishes=[Sold], store=store, transport=broker) as service:
            for number in range(5):
                async with service.transaction() as tx:
                    await tx.publish(Sold(number=number))
            await until(lambda: service.counters["sent"] == 5)

    assert (
        "new-ms: 600 unsent events belong to the topic old-ms, which this service does not send to; they stay unsent "
        "→ docs/how-to/retire-a-service.md"
    ) in caplog.messages
    every = [Lane(lane) for lane in range(LANES)]
    assert len(await store.message_store().pending(every, limit=2 * MANY)) == MANY


class _OutlivesTheProcess(MemoryStreams):
    durable = True


async def waiting(store: StoreUnderTest) -> int:
    return len(await store.message_store().due([Lane(lane) for lane in range(LANES)], limit=10 * MANY))
