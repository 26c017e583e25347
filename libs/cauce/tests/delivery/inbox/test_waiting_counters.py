"""What the counters say of deliveries that waited: each is counted once, where it was settled."""

import asyncio
from pathlib import Path

import pytest
from cauce import DomainEvent, Service, on
from cauce.dev.servers import ScratchDatabases
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine

EVENTS = 800


class Counted(DomainEvent, name="waiting.counted", version=1):
    number: int


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
async def test_a_waiting_delivery_that_is_handled_is_no_duplicate(
    dialect: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if dialect == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/counted.sqlite"
    else:
        databases: ScratchDatabases = request.getfixturevalue("postgres")
        url = databases.database()
    handled: set[int] = set()

    @on(Counted, when="durable", name="count")
    async def count(event: Counted) -> None:
        handled.add(event.number)

    async with Service("counting-ms", modules=[count], store=SqlAlchemyStore(create_engine(url))) as service:
        for start in range(0, EVENTS, 200):
            async with service.transaction() as tx:
                for number in range(start, start + 200):
                    await tx.publish(Counted(number=number))
        async with asyncio.timeout(60):
            while service.counters["handled"] < EVENTS:  # noqa: ASYNC110  # a counter of the service's loops
                await asyncio.sleep(0.01)
        counters = dict(service.counters)

    assert len(handled) == counters["handled"] == EVENTS
    assert counters.get("duplicate", 0) == 0
