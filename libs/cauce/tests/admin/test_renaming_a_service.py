"""A service gets another name, step by step as docs/how-to/retire-a-service.md says: nothing is lost, nothing twice."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cauce import IntegrationEvent, Service, on
from cauce.dev.servers import ValkeyServer
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from testsupport.shop_and_mail import FAST, Command, Project, publish, until


class Sold(IntegrationEvent, name="shop.sold", version=1, source="shop-ms", key="cart"):
    cart: str
    number: int


class SoldByStore(
    IntegrationEvent, name="shop.sold", version=1, source="store-ms", earlier_sources=("shop-ms",), key="cart"
):
    cart: str
    number: int


@asynccontextmanager
async def selling(project: Project, broker: ValkeyServer, name: str = "shop-ms") -> AsyncGenerator[Service]:
    service = Service(
        name,
        publishes=[Sold if name == "shop-ms" else SoldByStore],
        store=SqlAlchemyStore(create_engine(project.urls["shop"])),
        transport=RedisStreams(broker.url),
        pace=FAST,
    )
    async with service:
        yield service


@asynccontextmanager
async def thanking(
    project: Project, broker: ValkeyServer, name: str = "mail-ms", *, event: type[IntegrationEvent] = Sold
) -> AsyncGenerator[Service]:
    @on(event, name="mail.thank")
    async def thank(sold: Any, session: AsyncSession) -> None:
        await session.execute(
            text("INSERT INTO thanks (cart, number) VALUES (:cart, :number)"),
            {"cart": sold.cart, "number": sold.number},
        )

    async with project.database("mail") as database:
        await database.run(f"CREATE TABLE IF NOT EXISTS thanks ({_ID[project.dialect]}, cart text, number integer)")
    service = Service(
        name,
        modules=[thank],
        store=SqlAlchemyStore(create_engine(project.urls["mail"])),
        transport=RedisStreams(broker.url),
        start="now" if name == "post-ms" else "retained",
        pace=FAST,
    )
    async with service:
        yield service


_ID = {"sqlite": "id integer PRIMARY KEY AUTOINCREMENT", "postgresql": "id serial PRIMARY KEY"}
CARTS = [f"cart {no}" for no in range(7)]


async def sell(service: Service, event: type[Sold | SoldByStore], numbers: Sequence[int]) -> None:
    for number in numbers:
        await publish(service, *(event(cart=cart, number=number) for cart in CARTS))


async def thanked(project: Project) -> list[tuple[str, int]]:
    async with project.database("mail") as database:
        return [(row.cart, row.number) for row in await database.run("SELECT cart, number FROM thanks ORDER BY id")]


async def drained(cauce: Command) -> bool:
    """What the page has one look at: nothing unsent, nothing the group was not given or has not acknowledged, no work left."""
    status = (await cauce("status", "--json")).json
    groups = (await cauce("topic", "list", "--json")).json["shop-ms"]["groups"]
    outbox, of = status["shop"]["outbox"], status["mail"]["listeners"]
    return (
        outbox["waiting"] == outbox["set_aside"] == outbox["behind"] == 0
        and all(one["lag"] == one["pending"] == 0 for one in groups)
        and all(one["waiting"] == one["dead"] == 0 for one in of)
    )


async def all_thanked_once_in_order(project: Project, numbers: Sequence[int]) -> None:
    async def all_there() -> bool:
        return len(await thanked(project)) >= len(CARTS) * len(numbers)

    await until(all_there)
    rows = await thanked(project)
    for cart in CARTS:
        assert [number for one, number in rows if one == cart] == list(numbers)


async def test_a_service_that_hears_gets_another_name(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    async with thanking(project, broker):
        async with selling(project, broker) as shop:
            await sell(shop, Sold, range(20))
        # Who publishes to it is stopped, and the old one works off what is left.
        await until(lambda: drained(cauce))
    async with thanking(project, broker, "post-ms"), selling(project, broker) as shop:
        await sell(shop, Sold, range(20, 30))
        await all_thanked_once_in_order(project, range(30))
        assert (await cauce("topic", "forget", "mail-ms", "--force")).code == 0
        groups = (await cauce("topic", "list", "--json")).json["shop-ms"]["groups"]
        assert [one["name"] for one in groups] == ["post-ms"]


async def test_a_service_that_publishes_gets_another_name(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with thanking(project, broker), selling(project, broker) as shop:
        await sell(shop, Sold, range(20))
        await until(lambda: drained(cauce))
    async with thanking(project, broker, event=SoldByStore), selling(project, broker, "store-ms") as store:
        await sell(store, SoldByStore, range(20, 30))
        await all_thanked_once_in_order(project, range(30))
