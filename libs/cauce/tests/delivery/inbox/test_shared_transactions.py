"""`shared_transaction=True`: many events in one transaction of the listener, and still each one once and in order."""

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, Transaction, on
from cauce.dev.servers import ValkeyServer
from cauce.errors import DefinitionError
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import to_json
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.retry import Retry
from cauce.ports.lanes import lane_of
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from msgspec.structs import replace
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from testsupport.waiting import until

metadata = MetaData()
ledger_table = Table(
    "ledger",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("cart", Text),
    Column("number", Integer),
)


class Moved(IntegrationEvent, name="shared.moved", version=1, source="shop-ms", key="cart"):
    cart: str
    number: int


class Noted(DomainEvent, name="shared.noted"):
    number: int


class Ledger:
    """Writes every event down, without any constraint, and remembers which transaction it was called in."""

    def __init__(self, poison: Iterable[tuple[str, int]] = ()) -> None:
        self.calls: list[tuple[str, int, Transaction]] = []
        self._poison = set(poison)

    @on(Moved, name="ledger", shared_transaction=True, retry=Retry(attempts=1))
    async def write(self, event: Moved, tx: Transaction) -> None:
        self.calls.append((event.cart, event.number, tx))
        await tx.session.execute(insert(ledger_table).values(cart=event.cart, number=event.number))
        if (event.cart, event.number) in self._poison:
            raise ValueError("this one does not work")

    @property
    def transactions(self) -> Sequence[Sequence[str]]:
        """The carts that were together, call by call."""
        together: dict[int, list[str]] = defaultdict(list)
        for cart, _, tx in self.calls:
            together[id(tx)].append(cart)
        return list(together.values())


class Alone:
    """Hears the same event, in transactions of its own."""

    def __init__(self) -> None:
        self.calls: list[Transaction] = []

    @on(Moved, name="alone")
    async def hear(self, event: Moved, tx: Transaction) -> None:
        self.calls.append(tx)


def messages(carts: Sequence[str], each: int, *, first: int = 1) -> list[Envelope]:
    """`each` events of every cart, numbered from `first`, as a producer with one incarnation would send them."""
    return [
        replace(Envelope.of(Moved(cart=cart, number=number)), key_seq=number, incarnation="the only one")
        for number in range(first, first + each)
        for cart in carts
    ]


async def send(broker: RedisStreams, envelopes: Sequence[Envelope]) -> None:
    lanes: dict[Any, list[bytes]] = defaultdict(list)
    for envelope in envelopes:
        lanes[lane_of(envelope)].append(to_json(envelope))
    for lane, batch in lanes.items():
        await broker.append("shop-ms", lane, batch)


@asynccontextmanager
async def hearing(url: str, broker: RedisStreams, *modules: object) -> AsyncGenerator[tuple[Service, AsyncEngine]]:
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    service = Service("ledger-ms", modules=modules, store=SqlAlchemyStore(engine), transport=broker, start="retained")
    async with service:
        yield service, engine


async def written(engine: AsyncEngine) -> list[tuple[str, int]]:
    async with engine.connect() as connection:
        rows = await connection.execute(select(ledger_table).order_by(ledger_table.c.position))
        return [(row.cart, row.number) for row in rows]


def settled(service: Service, how_many: int) -> Callable[[], bool]:
    return lambda: sum(service.counters[one] for one in ("handled", "duplicate", "dead", "waiting")) >= how_many


CARTS = [f"cart-{number}" for number in range(40)]


async def test_many_events_share_a_transaction_and_each_is_applied_once_in_the_order_of_its_key(
    url: str, valkey: ValkeyServer
) -> None:
    broker, ledger = RedisStreams(valkey.url), Ledger()
    await send(broker, messages(CARTS, 10))
    async with hearing(url, broker, ledger) as (service, engine):
        await until(settled(service, 400))
        rows = await written(engine)

    assert Counter(rows) == Counter((cart, number) for cart in CARTS for number in range(1, 11))
    for cart in CARTS:
        assert [number for one, number in rows if one == cart] == list(range(1, 11))
    assert len(ledger.transactions) < 200, "several events in most transactions"


async def test_a_transaction_never_holds_two_events_of_one_key(url: str, valkey: ValkeyServer) -> None:
    broker, ledger = RedisStreams(valkey.url), Ledger()
    await send(broker, messages(CARTS[:3], 20))
    async with hearing(url, broker, ledger) as (service, _):
        await until(settled(service, 60))

    assert all(len(set(carts)) == len(carts) for carts in ledger.transactions)
    assert max(map(len, ledger.transactions)) > 1


async def test_if_one_fails_all_are_rolled_back_and_handled_one_by_one(url: str, valkey: ValkeyServer) -> None:
    broker, ledger = RedisStreams(valkey.url), Ledger(poison=[("cart-7", 1)])
    await send(broker, messages(CARTS, 1))
    async with hearing(url, broker, ledger) as (service, engine):
        await until(settled(service, 40))
        rows = await written(engine)

        assert Counter(rows) == Counter((cart, 1) for cart in CARTS if cart != "cart-7")
        assert service.counters["dead"] == 1
        assert service.counters["handled"] == 39
    failed = next(carts for carts in ledger.transactions if "cart-7" in carts)
    assert len(failed) > 1, "it failed in company first"
    repeated = Counter(cart for cart, _, _ in ledger.calls)
    assert repeated["cart-7"] == 2, "once with the others, once by itself"


async def test_later_events_of_a_failed_key_wait_behind_it(url: str, valkey: ValkeyServer) -> None:
    broker, ledger = RedisStreams(valkey.url), Ledger(poison=[("cart-7", 1)])
    await send(broker, messages(CARTS, 3))
    async with hearing(url, broker, ledger) as (service, engine):
        await until(settled(service, 120))
        rows = await written(engine)

    assert Counter(rows) == Counter((cart, number) for cart in CARTS if cart != "cart-7" for number in (1, 2, 3))
    assert service.counters["waiting"] == 2


async def test_copies_in_one_batch_or_a_later_one_are_applied_once(url: str, valkey: ValkeyServer) -> None:
    broker, ledger = RedisStreams(valkey.url), Ledger()
    envelopes = messages(CARTS, 3)
    await send(broker, envelopes)
    await send(broker, envelopes)
    async with hearing(url, broker, ledger) as (service, engine):
        await until(settled(service, 240))
        await send(broker, envelopes)
        await until(settled(service, 360))
        rows = await written(engine)

    assert Counter(rows) == Counter((cart, number) for cart in CARTS for number in (1, 2, 3))
    assert service.counters["duplicate"] == 240


async def test_an_event_with_listeners_in_own_transactions_is_handled_by_itself(url: str, valkey: ValkeyServer) -> None:
    broker, ledger, alone = RedisStreams(valkey.url), Ledger(), Alone()
    await send(broker, messages(CARTS, 1))
    async with hearing(url, broker, ledger, alone) as (service, _):
        await until(settled(service, 80))

    assert all(len(carts) == 1 for carts in ledger.transactions)
    assert len({id(tx) for tx in alone.calls}) == 40


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (Moved, {"effect": AtLeastOnce()}),
        (Moved, {"blocking": True}),
        (Noted, {"when": "durable"}),
    ],
)
def test_only_what_a_rollback_undoes_may_share_a_transaction(target: Any, options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="whole effect is in the session"):
        on(target, shared_transaction=True, **options)
