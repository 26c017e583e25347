"""What cannot be read, recorded or said still ends: within its attempts, and holding nothing but its own key."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, on
from cauce.dev.servers import ScratchDatabases
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import to_json
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.retry import Retry
from cauce.ports.inbox import Dead
from cauce.ports.lanes import lane_of
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from testsupport.waiting import until

Store = MemoryStore | SqlAlchemyStore

TWO_ATTEMPTS = Retry(attempts=2, base=0.001, cap=0.001)


class Told(IntegrationEvent, name="door.told", version=1, source="shop-ms", key="who"):
    who: str


class Noted(DomainEvent, name="door.noted", key="who"):
    who: str


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = f"sqlite+aiosqlite:///{tmp_path}/door.sqlite"
    if request.param == "postgresql":
        postgres: ScratchDatabases = request.getfixturevalue("postgres")
        url = postgres.database()
    store = SqlAlchemyStore(create_engine(url))
    await store.prepare()
    yield store
    await store.close()


@asynccontextmanager
async def hearing(store: Store, *modules: object) -> AsyncGenerator[tuple[Service, MemoryStreams]]:
    """A service of these modules, and the broker that it hears."""
    broker = MemoryStreams()
    service = Service("ledger-ms", modules=modules, store=store, transport=broker, start="retained")
    async with service:
        yield service, broker


async def tell(broker: MemoryStreams, *who: str) -> None:
    for one in who:
        envelope = Envelope.of(Told(who=one))
        await broker.append("shop-ms", lane_of(envelope), [to_json(envelope)])


async def dead(store: Store) -> Sequence[Dead]:
    return await store.message_store().dead()


def has(service: Service, **counted: int) -> Callable[[], bool]:
    return lambda: {name: service.counters[name] for name in counted} == counted


# What a listener says


def endless() -> str:
    return endless()


class HostileError(Exception):
    def __init__(self, says: Callable[[], Any]) -> None:
        super().__init__()
        self._says = says

    def __str__(self) -> str:
        return self._says()


HOSTILE: Mapping[str, Callable[[], Any]] = {
    "NUL": lambda: "a\0b",
    "half a surrogate": lambda: "a\ud800b",
    "no text": lambda: None,
    "no end of calls": endless,
    "five megabytes": lambda: "x" * 5_000_000,
    "other lines and colours": lambda: "a\n\x1b[31mb\x85c\u2028d",
}


class Failing:
    """Fails for whoever is named in HOSTILE, in the way the name says; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def act(self, who: str) -> None:
        self.calls.append(who)
        if who in HOSTILE:
            raise HostileError(HOSTILE[who])


class InTheDatabase(Failing):
    @on(Told, name="listener", retry=TWO_ATTEMPTS)
    async def hear(self, event: Told) -> None:
        self.act(event.who)


class Outside(Failing):
    @on(Told, name="listener", retry=TWO_ATTEMPTS, effect=AtLeastOnce())
    async def hear(self, event: Told) -> None:
        self.act(event.who)


class Together(Failing):
    @on(Told, name="listener", retry=TWO_ATTEMPTS, shared_transaction=True)
    async def hear(self, event: Told) -> None:
        self.act(event.who)


class Domain(Failing):
    @on(Noted, name="listener", retry=TWO_ATTEMPTS, when="durable")
    async def hear(self, event: Noted) -> None:
        self.act(event.who)


@pytest.mark.parametrize("listener", [InTheDatabase, Outside, Together, Domain])
async def test_whatever_an_error_says_its_attempts_count_and_only_its_key_waits(
    store: Store, listener: type[Failing]
) -> None:
    module = listener()
    good = [f"good {number}" for number in range(5)]
    async with hearing(store, module) as (service, broker):
        if listener is Domain:
            async with service.transaction() as tx:
                for who in (*HOSTILE, *good):
                    await tx.publish(Noted(who=who))
        else:
            await tell(broker, *HOSTILE, *good)
        await until(has(service, handled=len(good), dead=len(HOSTILE), waiting=len(HOSTILE)))

    letters = await dead(store)
    assert {one.key for one in letters} == set(HOSTILE)
    assert {(one.reason, one.attempts) for one in letters} == {("exhausted", 2)}
    assert all(one.error.startswith("HostileError") and one.error.isprintable() for one in letters)
    for who in HOSTILE:
        # One that fails among others is tried alone, which is no attempt.
        assert module.calls.count(who) in ((2, 3) if listener is Together else (2,))
