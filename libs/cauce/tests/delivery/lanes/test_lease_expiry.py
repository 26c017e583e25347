"""A process that could not renew its lease in time lets go of what waits in it, and finds it again in order."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cauce import IntegrationEvent, Service, on
from cauce.delivery.pace import Pace
from cauce.dev.servers import ValkeyServer
from cauce.stores.sql.message_store import SqlMessageStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from testsupport.waiting import until

LEASE_S = 0.4


class Moved(IntegrationEvent, name="lease.moved", version=1, source="shop", key="cart"):
    cart: str
    number: int


@pytest.fixture
def renewals(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """While it is cleared, nobody can renew a lease."""
    open_ = asyncio.Event()
    open_.set()
    beat: Callable[..., Any] = SqlMessageStore.beat

    async def held_up(self: SqlMessageStore, *args: Any, **more: Any) -> Any:
        await open_.wait()
        return await beat(self, *args, **more)

    monkeypatch.setattr(SqlMessageStore, "beat", held_up)
    return open_


async def test_deliveries_of_an_expired_lease_come_before_what_was_published_later(
    valkey: ValkeyServer, tmp_path: Path, renewals: asyncio.Event
) -> None:
    heard: list[int] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    @on(Moved, name="ledger")
    async def write(event: Moved) -> None:
        begun.set()
        await go_on.wait()
        heard.append(event.number)

    def service(name: str, **more: Any) -> Service:
        store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/{name}.sqlite"))
        return Service(name, store=store, transport=RedisStreams(valkey.url), **more)

    async def publish(shop: Service, number: int) -> None:
        async with shop.transaction() as tx:
            await tx.publish(Moved(cart="a", number=number))

    pace = Pace(lease_s=LEASE_S, beat_every_s=LEASE_S / 4)
    stock = service("stock", modules=[write], start="retained", pace=pace)
    async with asyncio.timeout(60), service("shop", publishes=[Moved]) as shop:
        # Both are there before stock reads. While a listener has a transaction open, nobody can renew a lease on SQLite;
        # when that of stock had run out, stock would not read the second one.
        await publish(shop, 1)
        await publish(shop, 2)
        await until(lambda: shop.counters["sent"] == 2)
        async with stock:
            await begun.wait()
            await until(lambda: stock.counters["received"] >= 2)

            renewals.clear()
            await asyncio.sleep(LEASE_S * 2)  # the lease runs out, and nothing can be seen of that
            go_on.set()
            await until(lambda: bool(heard))
            renewals.set()
            for number in range(3, 13):
                await publish(shop, number)
            await until(lambda: len(heard) == 12)

    assert heard == list(range(1, 13))
    assert stock.counters["dead"] == 0
