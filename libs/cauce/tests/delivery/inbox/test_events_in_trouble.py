"""Trouble with the database that one event has, and others do not: it holds no worker, and is the event's own in the end."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, on
from cauce.delivery.inbox import transactions, troubles, waiting_room
from cauce.delivery.inbox.troubles import CHARGED_AFTER, Troubles
from cauce.dev.servers import ScratchDatabases
from cauce.events.envelope import Envelope
from cauce.listeners.retry import Retry
from cauce.ports.inbox import Dead
from cauce.ports.lanes import Lane
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from testsupport.databases import query
from testsupport.long_form import PROVE
from testsupport.shop_and_mail import TROUBLE
from testsupport.waiting import until


class Ordered(IntegrationEvent, name="trouble.ordered", version=1, source="trouble-ms", key="key"):
    key: str
    number: int = 0
    bad: bool = False
    fails: int = 0


class Noted(DomainEvent, name="trouble.noted", key="key"):
    key: str
    bad: bool = False


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty troubles in a moment."""
    monkeypatch.setattr(troubles, "_FIRST_S", 0.001)
    monkeypatch.setattr(troubles, "_CAP_S", 0.002)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the end of a long pause."""
    monkeypatch.setattr(troubles, "_FIRST_S", 0.02)
    monkeypatch.setattr(troubles, "_CAP_S", 0.2)


@dataclass
class Stock:
    """Handles orders, of which some meet trouble for as long as `lasts` says."""

    url: str
    lasts: bool = True
    handled: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    calls: int = 0
    failed: dict[str, int] = field(default_factory=dict[str, int])
    holds: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, whoever is in trouble stays with its worker."""
    held: int = 0

    def __post_init__(self) -> None:
        self.holds.set()

    @on(Ordered, name="pack", retry=Retry(attempts=2, base=0.001, cap=0.001))
    async def pack(self, event: Ordered, session: AsyncSession) -> None:
        if self.failed.get(event.key, 0) < event.fails:
            self.failed[event.key] = self.failed.get(event.key, 0) + 1
            raise ValueError(event.key)
        await self._handle(session, event.key, event.number, bad=event.bad)

    @on(Noted, when="durable", name="note", retry=Retry(attempts=2, base=0.001, cap=0.001))
    async def note(self, event: Noted, session: AsyncSession) -> None:
        await self._handle(session, event.key, 0, bad=event.bad)

    async def _handle(self, session: AsyncSession, key: str, number: int, *, bad: bool) -> None:
        if bad:
            self.calls += 1
        if bad and not self.holds.is_set():
            self.held += 1
            await self.holds.wait()
            self.held -= 1
        if bad and self.lasts:
            await session.execute(text(TROUBLE[self.url.partition("+")[0]]))
        self.handled.append((key, number))

    def waiting(self) -> Sequence[tuple[Any, ...]]:
        return query(
            self.url, "SELECT key, attempts, troubles, error FROM cauce_waiting WHERE in_trouble_since IS NOT NULL"
        )


@asynccontextmanager
async def running(stock: Stock) -> AsyncGenerator[Service]:
    service = Service(
        "trouble-ms",
        modules=[stock],
        store=SqlAlchemyStore(create_engine(stock.url)),
        transport=MemoryStreams(),
        publishes=[Ordered],
        start="retained",
    )
    async with service:
        yield service


async def dead(service: Service) -> Sequence[Dead]:
    assert isinstance(service.store, SqlAlchemyStore)
    return await service.store.message_store().dead()


async def publish(service: Service, *events: Ordered | Noted) -> None:
    async with service.transaction() as tx:
        for event in events:
            await tx.publish(event)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # in SQLite one transaction holds all others anyway
async def test_however_many_are_in_trouble_at_once_there_is_room_for_others(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a worker until it gives up, and more are due than the workers take."""
    monkeypatch.setattr(waiting_room, "_IN_TROUBLE", 6)
    monkeypatch.setattr(waiting_room, "BOUND", 10)
    stock = Stock(url)
    async with running(stock) as service:
        await publish(service, *(Ordered(key=f"bad {no}", bad=True) for no in range(30)))
        await until(lambda: len(stock.waiting()) == 30)
        stock.holds.clear()
        await until(lambda: stock.held == 4)
        await asyncio.sleep(0.3)  # all the others are due by now
        await publish(service, *(Ordered(key=f"good {no}", fails=1) for no in range(20)))
        await until(lambda: len(stock.handled) == 20)
        assert stock.held == 4
        stock.lasts = False
        stock.holds.set()
        await until(lambda: len(stock.handled) == 50)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("url", "many"),
    [("postgresql", 9), ("sqlite", 80), *([("sqlite", 9), ("postgresql", 80)] if PROVE else [])],
    indirect=["url"],
)
async def test_events_in_trouble_never_stop_the_others(url: str, many: int, caplog: pytest.LogCaptureFixture) -> None:
    stock = Stock(url)
    async with running(stock) as service:
        with caplog.at_level(logging.WARNING, logger="cauce.durable"):
            await publish(service, *(Ordered(key=f"bad {no}", bad=True) for no in range(many)))
            await publish(service, *(Ordered(key=f"good {no}") for no in range(20)))
            await until(lambda: len(stock.handled) == 20)
            await until(lambda: len(stock.waiting()) == many)
        assert {attempts for _, attempts, _, _ in stock.waiting()} == {0}
        assert all("trouble with the database" in error for _, _, _, error in stock.waiting())
        assert not await dead(service)
        await until(lambda: "events" in service.readiness())
        assert "pack cannot handle trouble.ordered" in service.readiness()["events"]

        stock.lasts = False
        await until(lambda: len(stock.handled) == 20 + many)
        await until(lambda: not service.readiness())
    said = [one.getMessage() for one in caplog.records if "cannot handle" in one.getMessage()]
    assert len(said) == many, "one line for each, not for each try"
    assert all("pack" in line and "trouble.ordered" in line and "no attempt is counted" in line for line in said)


@pytest.mark.usefixtures("brief")
async def test_what_follows_an_event_in_trouble_waits_behind_it_in_order(url: str) -> None:
    stock = Stock(url)
    async with running(stock) as service:
        await publish(service, Ordered(key="a", bad=True), *(Ordered(key="a", number=no) for no in range(1, 6)))
        await publish(service, Ordered(key="b"))
        await until(lambda: ("b", 0) in stock.handled and len(stock.waiting()) == 1)
        assert stock.handled == [("b", 0)]
        stock.lasts = False
        await until(lambda: len(stock.handled) == 7)
    assert stock.handled == [("b", 0), *(("a", no) for no in range(6))]


@pytest.mark.usefixtures("brief")
async def test_durable_domain_events_in_trouble_wait_as_well(url: str) -> None:
    stock = Stock(url)
    async with running(stock) as service:
        await publish(service, *(Noted(key=f"bad {no}", bad=True) for no in range(9)))
        await publish(service, *(Noted(key=f"good {no}") for no in range(20)))
        await until(lambda: len(stock.handled) == 20 and len(stock.waiting()) == 9)
        stock.lasts = False
        await until(lambda: len(stock.handled) == 29)


@pytest.mark.usefixtures("hasty")
async def test_an_event_that_meets_trouble_while_others_are_handled_is_charged_in_the_end(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    stock = Stock(url)
    async with running(stock) as service:
        await publish(service, Ordered(key="bad", bad=True))
        sent = 0
        async with asyncio.timeout(30):
            while not service.counters["dead"]:
                sent += 1
                await publish(service, Ordered(key="good", number=sent))
                await until(lambda sent=sent: ("good", sent) in stock.handled)
        (letter,) = await dead(service)
    assert (letter.reason, letter.attempts) == ("exhausted", 2)
    assert stock.calls >= CHARGED_AFTER + 2
    assert "counts as a failed attempt" in caplog.text


@pytest.mark.usefixtures("hasty")
async def test_an_event_that_is_in_trouble_alone_is_never_charged(url: str) -> None:
    stock = Stock(url)
    async with running(stock) as service:
        await publish(service, Ordered(key="bad", bad=True))
        await until(lambda: stock.calls > 2 * CHARGED_AFTER)
        assert not service.counters["dead"]
        stock.lasts = False
        await until(lambda: bool(stock.handled))


async def test_a_database_that_is_away_is_waited_for_and_then_everything_is_handled(
    own_postgres: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No attempt is counted, and it is not asked all the time."""
    stock = Stock(own_postgres.create_database("trouble"), lasts=False)
    async with running(stock) as service:
        await publish(service, Ordered(key="before"))
        await until(lambda: len(stock.handled) == 1)
        own_postgres.stop()
        await asyncio.sleep(0.3)
        own_postgres.start()
        async with asyncio.timeout(20):
            while True:
                try:
                    await publish(service, *(Ordered(key=f"after {no}") for no in range(20)))
                    break
                except Exception:
                    await asyncio.sleep(0.05)
        await until(lambda: len(stock.handled) >= 21)
        assert not service.counters["dead"]


# A listener that blocks its process


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database ends a transaction that is idle for 0.1 s longer than its listener's limit."""
    monkeypatch.setattr(transactions, "IDLE_BEYOND_S", 0.1)
    monkeypatch.setattr(transactions, "_OUTLASTED_BY_S", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_a_listener_that_blocks_its_process_is_a_crash_loop_in_the_end(postgres: ScratchDatabases) -> None:
    url = postgres.database()
    calls: list[str] = []

    @on(Ordered, name="pack", limit_s=0.2)
    async def pack(event: Ordered, session: AsyncSession) -> None:
        calls.append(event.key)
        await session.execute(text("SELECT 1"))
        if event.bad:
            time.sleep(0.45)  # noqa: ASYNC251  # as somebody may

    service = Service(
        "trouble-ms",
        modules=[pack],
        store=SqlAlchemyStore(create_engine(url)),
        transport=MemoryStreams(),
        publishes=[Ordered],
        start="retained",
    )
    async with service:
        await publish(service, Ordered(key="bad", bad=True), *(Ordered(key=f"good {no}") for no in range(10)))
        await until(lambda: service.counters["dead"] == 1 and service.counters["handled"] == 10)
        (letter,) = await dead(service)
    assert letter.reason == "crash loop"
    assert calls.count("bad") == 4, "once with others, three times alone"
    assert not query(url, "SELECT * FROM cauce_started")


# The rule, without a database


def test_trouble_counts_only_while_others_are_handled() -> None:
    found = Troubles("trouble-ms")
    event, other = Envelope.of(Ordered(key="a")), Envelope.of(Ordered(key="b"))

    def meet() -> troubles.Trouble:
        return found.met("pack", event, Lane(0), OSError("away"), before=0)

    assert [meet().times for _ in range(50)] == [1] * 50
    for _ in range(CHARGED_AFTER):
        assert not meet().charged
        found.settled("pack", other, handled=True)
    assert meet().charged


def test_what_a_row_tells_of_earlier_troubles_counts_in_another_process() -> None:
    found = Troubles("trouble-ms")
    assert found.met("pack", Envelope.of(Ordered(key="a")), Lane(0), OSError(), before=CHARGED_AFTER).charged


def test_an_event_that_was_settled_elsewhere_is_no_problem_any_more() -> None:
    now = 0.0
    found = Troubles("trouble-ms", clock=lambda: now)
    event = Envelope.of(Ordered(key="a"))
    for _ in range(3):
        found.met("pack", event, Lane(3), OSError("away"), before=0)
    assert "OSError: away" in str(found.problem({Lane(3)}))
    assert found.problem({Lane(4)}) is None
    now = 61.0
    assert found.problem({Lane(3)}) is None
