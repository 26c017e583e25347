"""What one process of a service commits for the lane of another, that one is told; a lost hint costs a wait, nothing more."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, on
from cauce.delivery.inbox import waiting_room
from cauce.delivery.outbox import relay
from cauce.delivery.pace import Pace
from cauce.delivery.wakeups import wake_ups
from cauce.delivery.wakeups.datagrams import Datagrams
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from cauce.ports.lanes import MemberId
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from testsupport.databases import query
from testsupport.waiting import until

_LANES_OF_EACH = "SELECT count(*) FROM cauce_lane WHERE member IS NOT NULL GROUP BY member"
KEYS = 48
"""Enough for every one of the sixteen lanes to have one, nearly always."""


class Counted(IntegrationEvent, name="shop.counted", version=1, source="shop", key="cart"):
    cart: str


class Noted(DomainEvent, name="shop.noted", key="cart"):
    cart: str


class Pair:
    """Two processes of one service; what each of them has handled."""

    def __init__(self, url: str, broker_url: str) -> None:
        self.url = url
        self.noted: dict[str, list[str]] = {"first": [], "second": []}
        self.first, self.second = (self._process(name, broker_url) for name in self.noted)

    def _process(self, name: str, broker_url: str) -> Service:
        @on(Noted, name="shop.note", when="durable")
        async def note(event: Noted) -> None:
            self.noted[name].append(event.cart)

        return Service(
            "shop",
            modules=[note],
            publishes=[Counted],
            store=SqlAlchemyStore(create_engine(self.url)),
            transport=RedisStreams(broker_url),
            pace=Pace(lease_s=4, beat_every_s=0.1),
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with self.first, self.second:
            await until(lambda: sorted(lanes for (lanes,) in query(self.url, _LANES_OF_EACH)) == [8, 8])
            yield

    async def publish(self, numbers: range) -> None:
        async with self.first.transaction() as tx:
            for number in numbers:
                await tx.publish(Counted(cart=f"c{number}"))
                await tx.publish(Noted(cart=f"c{number}"))

    def sent(self) -> list[int]:
        return [one.counters.get("sent", 0) for one in (self.first, self.second)]

    async def done(self, count: int) -> None:
        await until(lambda: sum(self.sent()) == count and sum(map(len, self.noted.values())) == count)


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop looks once, and then only when it is woken."""
    for module in (relay, waiting_room):
        monkeypatch.setattr(module, "_POLL_FIRST_S", 1e6)
        monkeypatch.setattr(module, "_POLL_CAP_S", 1e6)


@pytest.fixture
def other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every process ran on another machine."""

    def nothing(_me: MemberId) -> None:
        return None

    monkeypatch.setattr(Datagrams, "open", nothing)
    monkeypatch.setattr(wake_ups, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(wake_ups, "_AGAIN_S", 0.05)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    def url(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite"
        postgres: ScratchDatabases = request.getfixturevalue("postgres")
        return postgres.database()

    return url


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_on_one_machine_a_datagram_wakes_the_owner(
    valkey: ValkeyServer, database: Callable[[str], str], kind: str
) -> None:
    pair = Pair(database(kind), valkey.url)
    async with pair.running():
        await pair.publish(range(KEYS))
        await pair.done(KEYS)

        assert all(pair.sent())
        assert all(pair.noted.values())


@pytest.mark.usefixtures("no_polling", "other_machines")
async def test_on_other_machines_the_database_tells_the_owner(
    valkey: ValkeyServer, database: Callable[[str], str]
) -> None:
    pair = Pair(database("postgresql"), valkey.url)
    async with pair.running():
        await until(lambda: len(_listening(pair.url)) == 2)
        for turn in range(3):
            await pair.publish(range(turn * KEYS, (turn + 1) * KEYS))
            await pair.done((turn + 1) * KEYS)

        assert all(pair.sent())
        assert all(pair.noted.values())
    await until(lambda: not _listening(pair.url))


@pytest.mark.usefixtures("other_machines")
async def test_events_move_when_the_connections_that_listen_are_ended_and_are_made_anew(
    valkey: ValkeyServer, database: Callable[[str], str]
) -> None:
    pair = Pair(database("postgresql"), valkey.url)
    async with pair.running():
        await until(lambda: len(_listening(pair.url)) == 2)
        before = _listening(pair.url)
        query(pair.url, f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{sorted(before)}) AS p(pid)")
        await pair.publish(range(KEYS))
        await pair.done(KEYS)

        await until(lambda: len(_listening(pair.url) - before) == 2)


async def test_processes_on_one_machine_do_not_listen_to_the_database(
    valkey: ValkeyServer, database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake_ups, "_LOOK_EVERY_S", 0.02)
    pair = Pair(database("postgresql"), valkey.url)
    async with pair.running():
        await pair.publish(range(KEYS))
        await pair.done(KEYS)

        assert not _listening(pair.url)


def _listening(url: str) -> set[int]:
    """The processes of the server whose connection listens."""
    found = query(
        url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'",
    )
    return {int(pid) for (pid,) in found}
