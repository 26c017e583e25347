"""A listener's name is where its past is: renamed, replaced or added, nothing happens twice and nothing is forgotten."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cauce import ConfigurationError, DefinitionError, DomainEvent, IntegrationEvent, Service, on
from cauce.delivery.pace import Pace
from cauce.listeners.retry import Reject
from cauce.ports.lanes import LANES, Lane
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.testing.store_contract import StoreUnderTest
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import text

FAST = Pace(lease_s=2, beat_every_s=0.05)


class Ordered(IntegrationEvent, name="rename.ordered", version=1, source="shop", key="cart"):
    cart: str | None
    number: int


class Invoiced(DomainEvent, name="rename.invoiced", version=1):
    number: int


class _Outlives(MemoryStreams):
    """As the port requires beside a database."""

    durable = True


@pytest.fixture
def broker(store: StoreUnderTest) -> MemoryStreams:
    return MemoryStreams() if isinstance(store, MemoryStore) else _Outlives()


@pytest.fixture
async def shop() -> MemoryStore:
    """What the shop has published and sent."""
    return MemoryStore()


def invoicing(name: str, done: list[int], *earlier_names: str, fails: bool = False) -> object:
    options: dict[str, Any] = {"earlier_names": earlier_names} if earlier_names else {}

    @on(Ordered, name=name, **options)
    async def invoice(event: Ordered) -> None:
        if fails:
            raise Reject("not yet")
        done.append(event.number)

    return invoice


def ledger(store: StoreUnderTest, broker: MemoryStreams, *modules: object, **options: Any) -> Service:
    return Service("ledger", modules=modules, store=store, transport=broker, start="retained", pace=FAST, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the services' loops
            await asyncio.sleep(0.01)


@asynccontextmanager
async def ordering(kept: MemoryStore, broker: MemoryStreams, numbers: Sequence[int]) -> AsyncGenerator[Service]:
    """The shop, which publishes these: every second one without a key."""
    store = kept if isinstance(broker, _Outlives) is False else _OutlivesStore(kept)
    async with Service("shop", store=store, transport=broker, publishes=[Ordered], pace=FAST) as service:
        async with service.transaction() as tx:
            for number in numbers:
                await tx.publish(Ordered(cart=f"cart {number % 3}" if number % 2 else None, number=number))
        await until(lambda: service.counters["sent"] >= len(numbers))
        yield service


class _OutlivesStore(MemoryStore):
    """The shop's rows, for a broker that says it outlives the process."""

    durable = True

    def __init__(self, kept: MemoryStore) -> None:
        super().__init__()
        self._rows = kept._rows


async def settled(service: Service, count: int) -> None:
    """That many outcomes, of whatever kind."""
    await until(lambda: sum(service.counters[one] for one in ("handled", "duplicate", "dead", "waiting")) >= count)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        pytest.param([("bill", "invoice")], {}, id="renamed, with its earlier name"),
        pytest.param([("bill",)], {"retired": ["invoice"]}, id="replaced"),
        pytest.param([("invoice",), ("audit",)], {}, id="beside another"),
    ],
)
async def test_what_the_broker_sends_again_has_no_second_effect_under_another_name(
    names: Sequence[Sequence[str]],
    options: dict[str, Any],
    store: StoreUnderTest,
    shop: MemoryStore,
    broker: MemoryStreams,
) -> None:
    done: list[int] = []
    async with ordering(shop, broker, range(12)), ledger(store, broker, invoicing("invoice", done)):
        await until(lambda: len(done) == 12)
    assert sorted(done) == list(range(12))

    done.clear()
    broker.forget_everything()
    modules = [invoicing(name, done, *earlier) for name, *earlier in names]
    async with ordering(shop, broker, []) as selling, ledger(store, broker, *modules, **options) as service:
        await settled(service, 12 * len(modules))
        assert done == []
        async with selling.transaction() as tx:
            await tx.publish(Ordered(cart="cart 1", number=12))
        await until(lambda: len(done) == len(modules))
    assert done == [12] * len(modules)


async def test_a_rename_that_is_not_said_is_refused_before_anything_is_written(
    store: StoreUnderTest, shop: MemoryStore, broker: MemoryStreams
) -> None:
    done: list[int] = []
    async with ordering(shop, broker, range(3)), ledger(store, broker, invoicing("invoice", done)):
        await until(lambda: len(done) == 3)
    before = await registered(store)

    with pytest.raises(ConfigurationError) as refused:
        async with ledger(store, broker, invoicing("bill", done)):
            pass

    (problem,) = refused.value.problems
    assert problem == (
        "bill is unknown and listens to rename.ordered, and invoice, which listened to it, is gone and has a past "
        '(events it has handled). The same listener under a new name? Then on bill: @on(…, earlier_names=("invoice",)). '
        'Another one? Then Service(…, retired=["invoice"])'
    )
    assert await registered(store) == before


async def registered(store: StoreUnderTest) -> object:
    if not isinstance(store, SqlAlchemyStore):
        return None
    async with store.engine.connect() as connection:
        listeners = (await connection.execute(text("SELECT * FROM cauce_listener ORDER BY consumer"))).all()
        return listeners, (await connection.execute(text("SELECT * FROM cauce_meta ORDER BY name"))).all()


async def test_dead_letters_and_parked_keys_stay_with_a_listener_that_is_renamed(
    store: StoreUnderTest, shop: MemoryStore, broker: MemoryStreams
) -> None:
    async with ordering(shop, broker, [1, 7]), ledger(store, broker, invoicing("invoice", [], fails=True)) as service:
        await settled(service, 2)
    async with ordering(shop, broker, [4 + 9, 3]), ledger(store, broker, invoicing("bill", [], "invoice")) as service:
        await settled(service, 2)
        assert service.counters["waiting"] == 1, "number 13 of the key behind the dead letter of number 1"

    dead = await store.message_store().dead()
    assert [one.consumer for one in dead] == ["ledger/invoice"]


async def test_code_of_before_and_of_after_a_rename_share_the_work_and_nothing_happens_twice(
    store: StoreUnderTest, shop: MemoryStore, broker: MemoryStreams
) -> None:
    done: list[int] = []
    old = ledger(store, broker, invoicing("invoice", done))
    new = ledger(store, broker, invoicing("bill", done, "invoice"))
    async with ordering(shop, broker, range(60)) as selling:
        async with old:
            await until(lambda: len(done) >= 5)
            async with new:
                await until(lambda: len(done) >= 60)
                await asyncio.sleep(0)
                broker.forget_everything()
                async with selling.transaction() as tx:
                    for number in range(60, 90):
                        await tx.publish(Ordered(cart=f"cart {number % 3}", number=number))
                await until(lambda: len(done) >= 90)
        async with new:
            broker.forget_everything()
            async with selling.transaction() as tx:
                await tx.publish(Ordered(cart=None, number=90))
            await settled(new, 91)
    assert sorted(done) == list(range(91))


async def test_names_may_change_again_and_only_the_last_one_has_to_be_named(
    store: StoreUnderTest, shop: MemoryStore, broker: MemoryStreams
) -> None:
    done: list[int] = []
    async with ordering(shop, broker, range(4)) as selling:
        for number, names in enumerate((["invoice"], ["bill", "invoice"], ["charge", "bill"]), start=4):
            broker.forget_everything()
            async with selling.transaction() as tx:
                await tx.publish(Ordered(cart=None, number=number))
            async with ledger(store, broker, invoicing(names[0], done, *names[1:])) as service:
                await settled(service, number + 1)
    assert sorted(done) == list(range(7))


async def test_waiting_domain_events_go_to_the_renamed_listener(store: StoreUnderTest) -> None:
    done: list[int] = []

    def counting(name: str, *earlier: str, fails: bool) -> object:
        options: dict[str, Any] = {"earlier_names": earlier} if earlier else {}

        @on(Invoiced, when="durable", name=name, **options)
        async def count(event: Invoiced) -> None:
            if fails:
                raise ValueError("once more")
            done.append(event.number)

        return count

    async with Service("ledger", modules=[counting("count", fails=True)], store=store) as service:
        async with service.transaction() as tx:
            await tx.publish(Invoiced(number=1))
        await until(lambda: service.counters["waiting"] >= 1)
    with pytest.raises(ConfigurationError, match=r"a past \(1 waiting\)"):
        async with Service("ledger", modules=[counting("sum", fails=False)], store=store):
            pass
    async with Service("ledger", modules=[counting("sum", "count", fails=False)], store=store) as service:
        await until(lambda: done == [1])
        async with service.transaction() as tx:
            await tx.publish(Invoiced(number=2))
        await until(lambda: done == [1, 2])
    every = [Lane(lane) for lane in range(LANES)]
    assert not await store.message_store().due(every, limit=10)


# What can be seen in the code


def test_names_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(DefinitionError, match="a tuple of names"):
        on(Ordered, earlier_names="invoice")
    with pytest.raises(DefinitionError, match='add when="durable"'):
        on(Invoiced, earlier_names=("count",))
    broker, store = MemoryStreams(), MemoryStore()
    with pytest.raises(ConfigurationError) as caught:
        ledger(store, broker, invoicing("a", []), invoicing("b", [], "a", "b"), retired=["a"])
    assert [problem.split(" · ")[0] for problem in caught.value.problems] == [
        "earlier_names=(…, 'a') of b: that is a name of a; leave it out",
        "earlier_names=(…, 'b') of b: that is its own name; leave it out",
        "retired=[…, 'a']: a is here, so it is not retired",
        "retired=[…, 'a']: b is here, so it is not retired",
    ]
