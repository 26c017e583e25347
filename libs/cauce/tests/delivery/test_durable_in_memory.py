"""Durable delivery without a server: the same story as on real ones, as long as the process lives, and never silently."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cauce import ConfigurationError, Context, DomainEvent, IntegrationEvent, Service, Transaction, on
from cauce.listeners.retry import Retry
from cauce.ports.store import Store
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing import story
from cauce.transports.memory_streams import MemoryStreams
from cauce.transports.redis_streams import RedisStreams


class SignedUp(IntegrationEvent, name="in-memory.signed-up", version=1, key="id", source="front"):
    id: str


class Greeted(DomainEvent, name="in-memory.greeted", version=1):
    id: str


class Back:
    """A service that hears, and hands what it heard on to itself, durably."""

    def __init__(self, *, failures: int = 0) -> None:
        self.greeted: list[str] = []
        self.counted: list[str] = []
        self._failures = failures

    @on(SignedUp, retry=Retry(attempts=5, base=0.01, cap=0.02))
    async def greet(self, event: SignedUp, context: Context, tx: Transaction) -> None:
        await tx.publish(Greeted(id=event.id))
        if self._failures:
            self._failures -= 1
            raise ValueError(event.id)
        self.greeted.append(context.event_id)

    @on(Greeted, when="durable")
    async def count(self, event: Greeted) -> None:
        self.counted.append(event.id)


def front(broker: MemoryStreams) -> Service:
    return Service("front", transport=broker, store=MemoryStore(), publishes=[SignedUp])


def back(broker: MemoryStreams, module: Back, store: MemoryStore | None = None) -> Service:
    return Service("back", modules=[module], transport=broker, store=store or MemoryStore(), start="retained")


async def test_what_is_committed_is_applied_and_what_is_rolled_back_was_never_there() -> None:
    broker, module = MemoryStreams(), Back()
    sender = front(broker)
    async with story(sender, back(broker, module)) as s:
        with pytest.raises(ZeroDivisionError):
            async with sender.transaction() as tx:
                await tx.publish(SignedUp(id="nobody"))
                raise ZeroDivisionError
        for user in ("ana", "bea", "ana"):
            await s.publish(SignedUp(id=user))

        await s.until(lambda: len(module.counted) == 3)

    assert len(set(module.greeted)) == 3
    assert sorted(module.counted) == ["ana", "ana", "bea"]


async def test_a_failing_event_publishes_nothing_and_its_key_waits_behind_it_in_order() -> None:
    broker, module = MemoryStreams(), Back(failures=2)
    sender = front(broker)
    async with story(sender, back(broker, module)) as s:
        async with sender.transaction() as tx:
            published = [(await tx.publish(SignedUp(id="ana"))).id for _ in range(5)]

        for _ in range(2):
            assert str(await s.failed(module.greet)) == "ana"
        await s.until(lambda: len(module.counted) == 5)

    assert module.greeted == published


def test_what_a_service_had_not_sent_and_not_heard_is_there_when_it_starts_again() -> None:
    broker, module, kept = MemoryStreams(), Back(), MemoryStore()
    broker.stop()
    sender = front(broker)

    async def publish() -> None:
        async with sender, sender.transaction() as tx:
            await tx.publish(SignedUp(id="ana"))

    async def send() -> None:
        async with story(sender) as s:
            await s.until(lambda: sender.counters["sent"] == 1)

    async def hear() -> None:
        async with story(back(broker, module, kept)) as s:
            await s.until(lambda: module.counted == ["ana"])

    asyncio.run(publish())
    broker.start()
    asyncio.run(send())
    for _ in range(2):  # the second time as well: it is not heard again
        asyncio.run(hear())

    assert len(module.greeted) == 1


# What is refused


def problems_of(**parts: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        Service("back", modules=[Back()], start="retained", **parts)
    return caught.value.problems


def test_a_store_in_memory_has_to_be_asked_for() -> None:
    assert problems_of(transport=MemoryStreams()) == (
        (
            "durable delivery is written down in the service's database, and it has none: "
            "store=SqlAlchemyStore(engine), or in tests store=MemoryStore()"
        ),
    )


@pytest.mark.parametrize(
    ("store", "name"),
    [(MemoryStore, "memory"), (lambda: SqlAlchemyStore(create_engine("sqlite+aiosqlite://")), "sqlite")],
    ids=["memory", "sqlite in memory"],
)
def test_a_store_that_ends_with_the_process_is_refused_beside_a_broker_that_does_not(
    store: Callable[[], Store], name: str
) -> None:
    assert problems_of(store=store(), transport=RedisStreams("redis://127.0.0.1:1")) == (
        (
            f"its store ({name}) is gone when the process ends, and with it what redis was still to be given: "
            "store=SqlAlchemyStore(engine), or in tests transport=MemoryStreams()"
        ),
    )


class _Outlives(MemoryStreams):
    """As the port requires beside a database."""

    durable = True


async def test_two_databases_of_one_name_are_told_apart_here_too_and_two_memories_are_not(tmp_path: Path) -> None:
    broker = _Outlives()
    first, second = (
        Service("front", transport=broker, store=SqlAlchemyStore(create_engine(url)), publishes=[SignedUp])
        for url in (f"sqlite+aiosqlite:///{tmp_path}/{number}.sqlite" for number in range(2))
    )
    async with first:
        with pytest.raises(ConfigurationError, match="front is registered on this broker with another database"):
            async with second:
                pass
    await broker.forget("front", "front")
    async with second:
        pass

    forgetful = MemoryStreams()
    for _ in range(2):
        async with front(forgetful):
            pass
