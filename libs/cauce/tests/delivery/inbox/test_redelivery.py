"""The decision table (cauce.delivery.inbox.decision_table), a test for each row.

Over a real broker, on both databases. What an event means is told by its id, its number among those of its key, the
incarnation of the database that gave the number, and its age.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import redis
from cauce import IntegrationEvent, Service, on
from cauce.dev.servers import ValkeyServer
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import Lane, lane_of
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from cauce.transports.redis_streams import RedisStreams
from msgspec.structs import replace
from sqlalchemy import text

LONG_AGO = timedelta(days=8)
"""Longer than an inbox remembers (`Keep.inbox_s`: 7 days)."""


class Moved(IntegrationEvent, name="again.moved", version=1, source="shop-ms", key="cart"):
    cart: str
    number: int


class Ticked(IntegrationEvent, name="again.ticked", version=1, source="shop-ms"):
    number: int


@dataclass
class Hearing:
    """A service that hears both, and what became of what it was sent."""

    service: Service
    store: SqlAlchemyStore
    broker: RedisStreams
    called: list[int] = field(default_factory=list[int])

    async def becomes(self, *envelopes: Envelope) -> Mapping[str, int]:
        """Send these, one after the other; the outcomes of all so far."""
        for envelope in envelopes:
            before = sum(self.outcomes().values())
            await self.send(envelope)
            await self.settled(before + 1)
        return self.outcomes()

    async def send(self, envelope: Envelope) -> None:
        await self.broker.append("shop-ms", lane_of(envelope), [to_json(envelope)])

    async def settled(self, how_many: int) -> None:
        async with asyncio.timeout(30):
            while sum(self.outcomes().values()) < how_many:  # noqa: ASYNC110  # counters of the service's loops
                await asyncio.sleep(0.005)

    def outcomes(self) -> Mapping[str, int]:
        counters = self.service.counters
        return {name: counters[name] for name in ("handled", "duplicate", "waiting", "dead") if counters[name]}

    async def dead(self) -> Sequence[str]:
        return [one.reason for one in await self.store.message_store().dead()]


@asynccontextmanager
async def hearing(url: str, valkey: ValkeyServer) -> AsyncGenerator[Hearing]:
    called: list[int] = []

    @on(Moved, name="moved")
    async def move(event: Moved) -> None:
        called.append(event.number)

    @on(Ticked, name="ticked")
    async def tick(event: Ticked) -> None:
        called.append(event.number)

    store, broker = SqlAlchemyStore(create_engine(url)), RedisStreams(valkey.url)
    service = Service("ledger-ms", modules=[move, tick], store=store, transport=broker, start="retained")
    async with service:
        yield Hearing(service, store, broker, called)


def moved(number: int, *, incarnation: str = "first", age: timedelta = timedelta(0)) -> Envelope:
    """Number `number` of its key."""
    envelope = Envelope.of(Moved(cart="ana's", number=number))
    return replace(envelope, key_seq=number, incarnation=incarnation, occurred_on=datetime.now(UTC) - age)


def ticked(number: int, *, age: timedelta = timedelta(0)) -> Envelope:
    return replace(Envelope.of(Ticked(number=number)), occurred_on=datetime.now(UTC) - age)


async def test_an_id_that_is_known_is_acknowledged(url: str, valkey: ValkeyServer) -> None:
    first = moved(1)
    async with hearing(url, valkey) as heard:
        assert await heard.becomes(first, first) == {"handled": 1, "duplicate": 1}
    assert heard.called == [1]


async def test_without_a_key_every_id_runs_once(url: str, valkey: ValkeyServer) -> None:
    first, second = ticked(2), ticked(1)
    async with hearing(url, valkey) as heard:
        assert await heard.becomes(first, second, first) == {"handled": 2, "duplicate": 1}
    assert heard.called == [2, 1]


async def test_a_first_delivery_is_never_too_old(url: str, valkey: ValkeyServer) -> None:
    async with hearing(url, valkey) as heard:
        assert await heard.becomes(ticked(1, age=LONG_AGO), moved(2, age=LONG_AGO)) == {"handled": 2}
    assert heard.called == [1, 2]


async def test_a_higher_number_runs_and_those_between_may_be_of_events_not_heard_here(
    url: str, valkey: ValkeyServer
) -> None:
    async with hearing(url, valkey) as heard:
        await heard.becomes(moved(1))
        for number in (2, 3):
            await heard.send(replace(moved(number), name="again.of-no-interest"))
        assert await heard.becomes(moved(4)) == {"handled": 2}
        assert heard.service.counters["unheard"] == 2
        assert heard.service.counters["gap_detected"] == 0
    assert heard.called == [1, 4]


async def test_missing_numbers_are_counted_and_logged_and_stop_no_listener(
    url: str, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with hearing(url, valkey) as heard:
        assert await heard.becomes(moved(1), moved(4)) == {"handled": 2}
        assert heard.service.counters["gap_detected"] == 2
    assert heard.called == [1, 4]
    assert "(number 4) 2 of its key did not come" in caplog.text


async def test_a_number_that_was_passed_is_a_dead_letter_and_never_dropped(url: str, valkey: ValkeyServer) -> None:
    async with hearing(url, valkey) as heard:
        assert await heard.becomes(moved(5), moved(4)) == {"handled": 1, "dead": 1}
        assert await heard.dead() == ["late"]
    assert heard.called == [5]


async def test_a_number_that_was_passed_longer_ago_than_ids_are_remembered_is_acknowledged(
    url: str, valkey: ValkeyServer
) -> None:
    async with hearing(url, valkey) as heard:
        assert await heard.becomes(moved(5), moved(4, age=LONG_AGO)) == {"handled": 1, "duplicate": 1}
        assert await heard.dead() == []
    assert heard.called == [5]


@pytest.mark.parametrize("days", [-8, 8])
async def test_f3_how_old_it_is_is_told_without_the_clock_of_its_publisher(
    url: str, valkey: ValkeyServer, days: int
) -> None:
    """Eight days behind, every event looked older than the inbox remembers, and one out of order was dropped for it;
    eight days ahead, what comes again after a long time was a dead letter."""
    off = timedelta(days=days)
    async with hearing(url, valkey) as heard:
        assert await heard.becomes(moved(5, age=off), moved(4, age=off)) == {"handled": 1, "dead": 1}
        assert await heard.becomes(moved(3, age=off + LONG_AGO)) == {"handled": 1, "dead": 1, "duplicate": 1}
        assert await heard.dead() == ["late"]
        async with heard.store.engine.begin() as connection:
            await connection.execute(
                text(f"UPDATE cauce_position SET moved_at = moved_at - {LONG_AGO.total_seconds()}")
            )
        assert await heard.becomes(moved(2, age=off)) == {"handled": 1, "dead": 1, "duplicate": 2}
        async with heard.store.engine.begin() as connection:
            await connection.execute(text("UPDATE cauce_position SET moved_at = NULL, occurred_at = NULL"))
        await heard.becomes(moved(1, age=LONG_AGO))
        assert heard.outcomes()["duplicate"] == 3, "where an earlier version kept no times, its age is by its own clock"
    assert heard.called == [5]


async def test_another_incarnation_runs_and_the_count_begins_again(url: str, valkey: ValkeyServer) -> None:
    async with hearing(url, valkey) as heard:
        outcomes = await heard.becomes(
            moved(5), moved(1, incarnation="second"), moved(2, incarnation="second"), moved(1, incarnation="second")
        )
        assert outcomes == {"handled": 3, "dead": 1}
        assert heard.service.counters["began_anew"] == 1
        assert await heard.dead() == ["late"], "an unknown id with a number that was passed in the new count"
    assert heard.called == [5, 1, 2]


async def test_g4_forged_incarnations_are_counted_and_cost_one_line(
    url: str, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    forged = [moved(1, incarnation=f"forged-{number}") for number in range(200)]
    async with hearing(url, valkey) as heard:
        await heard.becomes(moved(1))
        for envelope in forged:
            await heard.send(envelope)
        await heard.settled(1 + len(forged))
        assert heard.service.counters["began_anew"] == len(forged)
    assert sum("made anew or restored" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    ("age", "with_the_broker", "outcomes", "dead"),
    [
        (timedelta(0), timedelta(0), {"handled": 1}, []),
        (LONG_AGO, LONG_AGO, {"dead": 1}, ["too old to dedupe"]),
        (LONG_AGO, timedelta(0), {"handled": 1}, []),
        (timedelta(0), LONG_AGO, {"dead": 1}, ["too old to dedupe"]),
    ],
    ids=[
        "young",
        "older than the inbox remembers",
        "its publisher's clock is behind",
        "its publisher's clock is ahead",
    ],
)
async def test_without_a_key_a_redelivered_event_runs_unless_we_may_have_had_it_before_the_inbox_remembers(
    url: str,
    valkey: ValkeyServer,
    age: timedelta,
    with_the_broker: timedelta,
    outcomes: Mapping[str, int],
    dead: Sequence[str],
) -> None:
    envelope = ticked(1, age=age)
    _given_to_somebody_who_died(valkey, envelope, ago=with_the_broker)
    async with hearing(url, valkey) as heard:
        await heard.settled(1)
        assert heard.outcomes() == outcomes
        assert await heard.dead() == dead
    assert heard.called == [1] * outcomes.get("handled", 0)


def _given_to_somebody_who_died(valkey: ValkeyServer, envelope: Envelope, *, ago: timedelta) -> None:
    stream = StreamKeys("cauce").stream("shop-ms", Lane(lane_of(envelope)))
    with redis.Redis(host=valkey.host, port=valkey.port, password=valkey.password) as broker:
        appended_at_ms = int((datetime.now(UTC) - ago).timestamp() * 1000)
        broker.xadd(stream, {FIELD: to_json(envelope)}, id=f"{appended_at_ms}-0")
        broker.xgroup_create(stream, "ledger-ms", "0")
        assert broker.xreadgroup("ledger-ms", "lane", {stream: ">"})
