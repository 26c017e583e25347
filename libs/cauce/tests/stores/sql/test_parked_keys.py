"""A delivery that is put behind the head of a parked key while an operator, or the service, removes that head."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest
from cauce.ports.inbox import Failure
from cauce.stores.sql import dead_letters
from cauce.stores.sql.dead_letters import DeadLetterFilter
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing.store_contract import LISTENER, delivery, due, envelope, ids, unit, waits

FAILURE = Failure(reason="exhausted", error="ValueError: no", stack=None, attempts=3, worker="host:1", version=None)
IDLE_S = 30.0
Leaves = Callable[[SqlAlchemyStore], Coroutine[Any, Any, object]]


@pytest.fixture
async def store(url: str) -> AsyncGenerator[SqlAlchemyStore]:
    store = SqlAlchemyStore(create_engine(url))
    await store.prepare()
    yield store
    await store.close()


async def _discarded(store: SqlAlchemyStore) -> object:
    async with store.engine.connect() as connection:
        (letter,) = await dead_letters.select(connection, DeadLetterFilter())
    return await dead_letters.discard(store.engine, letter, why="given up")


async def _handled(store: SqlAlchemyStore) -> object:
    async with unit(store) as tx:
        await tx.inbox.remove_dead_letter(delivery(1, key="a"))
        await tx.inbox.remove(delivery(1, key="a"))
        await tx.inbox.release_next(delivery(1, key="a"))
    return True


async def _parked(store: SqlAlchemyStore) -> None:
    """A dead letter is the head of key `a`."""
    await waits(store, delivery(1, key="a"), error="ValueError: no")
    async with unit(store) as tx:
        await tx.inbox.write_dead_letter(delivery(1, key="a"), "shop.counted", FAILURE)


@pytest.mark.parametrize("leaves", [_discarded, _handled])
@pytest.mark.parametrize("numbers", [(1, 2), (None, 2), (1, None), (None, None)], ids=str)
async def test_a_delivery_parked_while_its_head_leaves_is_due(
    store: SqlAlchemyStore, leaves: Leaves, numbers: tuple[int | None, int | None]
) -> None:
    before, arriving = numbers
    if before is not None:
        async with unit(store) as tx:
            await tx.inbox.arrive(LISTENER, [envelope(1, key="a", seq=before)], idle_s=IDLE_S)
    await _parked(store)

    async with unit(store) as tx:
        (found,) = await tx.inbox.arrive(LISTENER, [envelope(2, key="a", seq=arriving)], idle_s=IDLE_S)
        assert found.parked
        await tx.inbox.keep(delivery(2, key="a"), delay_s=None, error=None)
        leaving = asyncio.get_running_loop().create_task(leaves(store))
        await asyncio.wait({leaving}, timeout=0.3)
    await leaving

    assert ids(await due(store)) == [2]


async def test_a_dead_letter_that_becomes_the_head_stays_parked(store: SqlAlchemyStore) -> None:
    await waits(store, delivery(0, key="a"), error="ValueError: no")
    await _parked(store)
    await waits(store, delivery(2, key="a"))

    async with unit(store) as tx:
        await tx.inbox.remove(delivery(0, key="a"))
        await tx.inbox.release_next(delivery(0, key="a"))
    assert await due(store) == []

    await _discarded(store)
    assert ids(await due(store)) == [2]
