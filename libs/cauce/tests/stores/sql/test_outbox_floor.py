"""A look at the queue begins where the queue may begin: not before, however many dead rows there are, and never too late."""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest
from cauce.ports.lanes import Epoch, Lane, MemberId
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import OutboxRow, Outgoing
from cauce.ports.transport import BrokerId
from cauce.stores.sql.driver_statements import DriverStatement
from cauce.stores.sql.outbox_floor import OutboxFloor
from cauce.stores.sql.set_aside import discard, release, select_set_aside
from cauce.stores.sql.writing import write_outgoing
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.testing.store_contract import ALL_LANES, envelope, unit
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

ME = MemberId("me")
NEVER_FULL = 1e9


class Relay:
    """What a relay does with its store, one step at a time; no look but the first begins at the beginning by itself."""

    def __init__(self, store: SqlAlchemyStore, lanes: dict[Lane, Epoch]) -> None:
        self.message_store: MessageStore = store.message_store()
        self.floor = OutboxFloor(monotonic=lambda: self.now)
        self.now = 1.0
        self.message_store._floor = self.floor  # type: ignore[attr-defined]
        self._lanes = lanes
        self.looked_from: list[int] = []

    async def look(self, limit: int = 500) -> Sequence[OutboxRow]:
        return await self.message_store.pending(ALL_LANES, limit=limit, topics=["shop"])

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        marks = [(row.position, BrokerId(f"{row.position}-0")) for row in rows]
        assert await self.message_store.mark_sent(self._lanes, ME, marks)

    async def send_all(self) -> list[int]:
        found: list[int] = []
        while rows := await self.look():
            found += [int(row.event_id.rpartition("-")[2]) for row in rows]
            await self.send(rows)
        return found


@pytest.fixture
async def relay(store: SqlAlchemyStore) -> Relay:
    rows = (await store.message_store().beat(ME, lease_s=600)).rows
    return Relay(store, dict(await store.message_store().take(ME, {row.lane: row.epoch for row in rows})))


async def publish(store: SqlAlchemyStore, numbers: range, key: Callable[[int], str | None] = lambda _: None) -> None:
    async with unit(store) as tx:
        tx.publish(*(envelope(number, key=key(number)) for number in numbers))


async def a_late_commit(store: SqlAlchemyStore, relay: Relay) -> list[int]:
    """An event takes its position, others after it are sent, then it is committed, and the next of its key. In the order
    of sending."""
    async with store.engine.begin() as late:
        # It has its position, and holds the number of its key.
        await late.run_sync(write_outgoing, [Outgoing(envelope=envelope(1, key="slow"))])
        for first in range(100, 1600, 500):
            await publish(store, range(first, first + 500), key=lambda number: f"k{number}")
            await relay.send_all()
        await relay.look()
    await publish(store, range(2, 3), key=lambda _: "slow")
    return [number for number in await relay.send_all() if number < 100]


async def test_an_event_of_a_key_that_is_committed_late_is_sent_before_the_next_of_its_key(
    store: SqlAlchemyStore, relay: Relay
) -> None:
    assert await a_late_commit(store, relay) == [1, 2]


async def test_a_floor_that_waits_for_no_writer_sends_them_in_the_wrong_order(
    store: SqlAlchemyStore, relay: Relay
) -> None:
    """The scenario above finds the fault that it is there for."""
    plain = OutboxFloor.looked

    def impatient(self: OutboxFloor, found: Sequence[int], *, besides: Collection[int], oldest_writer: int) -> None:
        plain(self, found, besides=besides, oldest_writer=2**62)

    with patch.object(OutboxFloor, "looked", impatient):
        assert await a_late_commit(store, relay) != [1, 2]


async def test_the_floor_rises_when_the_writers_of_that_time_have_ended(store: SqlAlchemyStore, relay: Relay) -> None:
    await publish(store, range(1, 301))
    await relay.send_all()
    assert relay.floor.before((frozenset(ALL_LANES), frozenset(["shop"]))) == 300


@pytest.mark.parametrize("how", [release, discard])
async def test_what_waited_behind_an_event_set_aside_is_seen_at_once_and_in_order(
    store: SqlAlchemyStore, relay: Relay, how: Any
) -> None:
    await publish(store, range(1, 5), key=lambda _: "stuck")
    [first, *_] = await relay.look()
    await relay.message_store.set_aside(first.position, "too large")
    for begin in range(100, 1600, 500):
        await publish(store, range(begin, begin + 500))
        await relay.send_all()
    await publish(store, range(5, 6), key=lambda _: "stuck")
    assert await relay.send_all() == []

    async with store.engine.connect() as connection:
        [aside] = await select_set_aside(connection)
    assert await how(store.engine, aside, why="mended")
    assert await relay.send_all() == ([1] if how is release else []) + [2, 3, 4, 5]


async def test_what_the_broker_lost_is_seen_at_once_and_before_what_is_new(
    store: SqlAlchemyStore, relay: Relay
) -> None:
    await publish(store, range(1, 4), key=lambda _: "a")
    lane = (await relay.look())[0].lane
    for begin in range(100, 1600, 500):
        await publish(store, range(begin, begin + 500))
        await relay.send_all()
    await publish(store, range(4, 5), key=lambda _: "a")
    other = store.message_store()  # another process, or an operator

    await other.mark_unsent("shop", lane, from_seq=None)
    again = [number for number in await relay.send_all() if number < 100]
    assert again == [1, 2, 3, 4]


async def test_an_unkeyed_event_below_the_floor_is_found_by_the_next_full_look(
    store: SqlAlchemyStore, relay: Relay
) -> None:
    await publish(store, range(1, 301))
    await relay.send_all()
    async with store.engine.begin() as connection:
        columns = "event_id, topic, key_hash, name, message, created_at"
        await connection.execute(
            text(
                f"INSERT INTO cauce_outbox (position, {columns}) SELECT 7, 'event-late-7', topic, key_hash, name, message, "
                "created_at FROM cauce_sent WHERE position = 7"
            )
        )
    assert await relay.look() == []
    relay.now += 1.1
    assert [row.position for row in await relay.look()] == [7]


async def test_a_long_snapshot_makes_no_look_pass_the_rows_that_were_sent_meanwhile(
    store: SqlAlchemyStore, relay: Relay
) -> None:
    """H09: while a dump runs, PostgreSQL keeps every row that was deleted since, and its place in the index."""
    await publish(store, range(1, 501))
    async with pages_of_looks(store) as before:
        await relay.send_all()
    async with store.engine.connect() as dump:
        await dump.execution_options(isolation_level="REPEATABLE READ")
        await dump.execute(text("SELECT count(*) FROM cauce_outbox"))
        for begin in range(1_000, 11_000, 500):
            await publish(store, range(begin, begin + 500))
            await relay.send_all()
        await publish(store, range(20_000, 20_500))
        async with pages_of_looks(store) as meanwhile:
            await relay.send_all()
        relay.now += 1.1
        async with pages_of_looks(store) as from_the_beginning:
            await relay.look()
    assert max(meanwhile) <= 2 * max(before)
    assert max(from_the_beginning) > 4 * max(before), "the dead rows were there"


@asynccontextmanager
async def pages_of_looks(store: SqlAlchemyStore) -> AsyncGenerator[list[int]]:
    """How many pages PostgreSQL touches for each look meanwhile."""
    pages: list[int] = []
    plain = DriverStatement.rows

    async def explained(self: DriverStatement, connection: AsyncConnection, **values: Any) -> Sequence[Any]:
        if "oldest_writer" in self.for_psycopg:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            cursor = await driver.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {self.for_psycopg}", values)
            [(plan,)] = await cursor.fetchall()
            pages.append(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])
        return await plain(self, connection, **values)

    with patch.object(DriverStatement, "rows", explained):
        yield pages
