"""A running service: what arrives is handled once by everyone, in order per key, and nothing goes wrong in silence."""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

import msgspec
import pytest
from cauce import (
    CauceError,
    ConfigurationError,
    Context,
    DomainEvent,
    Envelope,
    IntegrationEvent,
    Service,
    Transaction,
    TransportUnavailableError,
    on,
)
from cauce.delivery.volatile.queue import AfterCommitQueue
from cauce.events.envelope import Emission
from cauce.ports.lanes import LANES, Lane, lane_of
from cauce.ports.transport import BrokerId, Deliver, Delivery, Status, Subscription
from cauce.publishing.pending import AfterCommit, ToSend
from cauce.service import Happening
from cauce.stores.memory import MemoryStore
from cauce.transports.memory import MemoryTransport
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from testsupport.waiting import until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Mood(Enum):
    CALM = "calm"


class Opened(IntegrationEvent, name="hear.account-opened", version=1, source="bank-ms", key="id",
             earlier_names=("hear.account-created",)):  # fmt: skip
    id: str
    number: int = 0
    mood: Mood | None = None
    tags: tuple[str, ...] = ()


class Closed(IntegrationEvent, name="hear.account-closed", version=1, source="bank-ms", key="id"):
    id: str


class Noted(DomainEvent, name="hear.noted"):
    word: str = ""


class Broker:
    """A transport that does what the test says."""

    name = "broker"
    durable = False

    def __init__(self, *, first: Literal["up", "down", "silent"] = "up") -> None:
        self._first = first
        self.deliver: Deliver | None = None
        self.status: Status | None = None
        self.subscription: Subscription | None = None
        self.sent: list[Envelope] = []
        self.fails: Exception | None = None
        self.crash = asyncio.Event()
        self.closed = 0

    async def publish(self, lane: Lane, batch: Sequence[Envelope]) -> Sequence[BrokerId]:
        if self.fails is not None:
            raise self.fails
        self.sent.extend(batch)
        return [BrokerId(envelope.id) for envelope in batch]

    async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
        self.subscription, self.deliver, self.status = subscription, deliver, status
        if self._first == "up":
            status.up()
        elif self._first == "down":
            status.down("no broker at here:1 (refused) → is it running?", retry_in_s=0.1)
        await self.crash.wait()
        raise RuntimeError("a bug in the transport")

    async def close(self) -> None:
        self.closed += 1

    async def bring(self, delivery: Delivery) -> None:
        assert self.deliver is not None
        await self.deliver(delivery)


class Acks:
    """What was acknowledged, by event id."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def of(self, name: str) -> Callable[[], Awaitable[None]]:
        async def ack() -> None:
            self.ids.append(name)

        return ack


def arriving(event: IntegrationEvent, *, id: str = "e-1", acks: Acks | None = None, **changes: Any) -> Delivery:  # noqa: A002
    raw = msgspec.json.encode(event)
    envelope = msgspec.structs.replace(
        Envelope.of(event, id=id, occurred_on=NOON), payload=msgspec.Raw(raw), key=None, **changes
    )
    return Delivery(channel=envelope.name, raw=raw, envelope=envelope, ack=(acks or Acks()).of(id))


def arriving_raw(raw: bytes, *, acks: Acks | None = None, **changes: Any) -> Delivery:
    envelope = Envelope(
        id=changes.pop("id", "e-1"),
        source=changes.pop("source", "bank-ms"),
        name=changes.pop("name", "hear.account-opened"),
        version=1,
        occurred_on=NOON,
        payload=msgspec.Raw(raw),
        correlation_id="e-1",
    )
    return Delivery(channel=envelope.name, raw=raw, envelope=envelope, ack=(acks or Acks()).of(envelope.id))


@asynccontextmanager
async def running(*modules: object, **options: Any) -> AsyncGenerator[tuple[Service, Broker]]:
    broker = options.pop("broker", None) or Broker()
    service = Service("mail-ms", modules=modules, transport=broker, **options)
    async with service:
        yield service, broker


# Starting and being ready


async def test_a_service_has_started_when_the_broker_acknowledged_its_subscriptions() -> None:
    @on(Opened)
    async def by_class(event: Opened) -> None: ...

    @on("hear.*", kind=IntegrationEvent)
    async def by_pattern(event: IntegrationEvent) -> None: ...

    async with running(by_class, by_pattern) as (service, broker):
        assert service.readiness() == {}
        assert await service.check() == {}
        assert broker.subscription is not None
        assert broker.subscription.patterns == ("hear.*",)
        assert broker.subscription.names >= {"hear.account-opened", "hear.account-created"}
        assert service.hears >= {"hear.account-opened", "hear.*"}
    assert not service.running
    assert broker.closed == 1


async def test_a_service_starts_without_its_broker_and_its_readiness_says_so() -> None:
    @on(Opened)
    async def hear(event: Opened) -> None: ...

    async with running(hear, broker=Broker(first="down")) as (service, broker):
        assert service.readiness() == {"broker": "no broker at here:1 (refused)"}
        assert broker.status is not None
        broker.status.up()
        assert service.readiness() == {}
        broker.status.down("it went away", retry_in_s=1)
        assert service.readiness() == {"broker": "it went away"}


async def test_a_silent_broker_does_not_hold_up_the_start_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cauce.service.run._FIRST_ANSWER_S", 0.05)

    @on(Opened)
    async def hear(event: Opened) -> None: ...

    async with asyncio.timeout(5), running(hear, broker=Broker(first="silent")) as (service, _):
        assert service.readiness() == {"broker": "not subscribed yet"}


async def test_a_start_that_is_cancelled_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(first="silent")
    service = Service("mail-ms", transport=broker)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02), service:
            raise AssertionError("never gets here")
    assert broker.closed == 1
    await until(lambda: len(asyncio.all_tasks()) == 1)
    async with asyncio.timeout(5):
        broker._first = "up"  # pyright: ignore[reportPrivateUsage]  # the test's own
        async with service:
            assert service.readiness() == {}


async def test_before_and_after_its_life_a_service_is_not_ready() -> None:
    service = Service("mail-ms")
    assert service.readiness() == {"mail-ms": "not started"}
    async with service:
        assert service.readiness() == {}
    assert service.readiness() == {"mail-ms": "stopping"}


async def test_a_wrong_configuration_found_by_a_loop_is_raised_by_the_start() -> None:
    class Wrong(MemoryTransport):
        async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
            raise ConfigurationError(["no such broker"], where="the transport")

    service = Service("mail-ms", transport=Wrong())
    with pytest.raises(ConfigurationError, match="no such broker"):
        async with service:
            raise AssertionError("never gets here")


async def test_a_loop_that_crashes_is_loud_and_takes_the_service_down(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    with pytest.raises(RuntimeError, match="a bug in the transport"):
        async with Service("mail-ms", transport=broker) as service:
            broker.crash.set()
            await service.stopped()
            assert not service.running
            assert service.readiness() == {"mail-ms": "crashed: RuntimeError"}
    [record] = [one for one in caplog.records if one.levelno == logging.CRITICAL]
    assert record.getMessage() == "mail-ms: crashed: RuntimeError('a bug in the transport')"
    assert record.exc_info is not None
    assert broker.closed == 1


async def test_a_transport_that_stops_without_an_error_is_a_crash_too() -> None:
    class Ends(MemoryTransport):
        async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
            status.up()

    with pytest.raises(CauceError, match="the transport 'memory' stopped by itself, without an error"):
        async with Service("mail-ms", transport=Ends()) as service:
            await service.stopped()


async def test_a_transport_that_cannot_be_closed_does_not_keep_the_database_open() -> None:
    closed: list[str] = []

    class Stubborn(MemoryTransport):
        async def close(self) -> None:
            raise OSError("it will not close")

    class Closing(MemoryStore):
        async def close(self) -> None:
            closed.append("store")

    with pytest.raises(OSError, match="it will not close"):
        async with Service("mail-ms", transport=Stubborn(), store=Closing()):
            pass
    assert closed == ["store"]


# Draining


async def test_leaving_drains_what_was_accepted_and_takes_no_more() -> None:
    handled: list[str] = []
    begun, go_on = asyncio.Event(), asyncio.Event()
    acks = Acks()

    @on(Opened)
    async def slow(event: Opened, tx: Transaction) -> None:
        begun.set()
        await go_on.wait()
        handled.append(event.id)
        await tx.publish(Noted(word=event.id))

    @on(Noted, when="after_commit")
    async def afterwards(event: Noted) -> None:
        await asyncio.sleep(0)
        handled.append("after " + event.word)

    broker = Broker()
    service = Service("mail-ms", modules=[slow, afterwards], transport=broker)
    async with asyncio.TaskGroup() as tasks, service:
        await broker.bring(arriving(Opened(id="a"), id="e-1", acks=acks))
        await broker.bring(arriving(Opened(id="a"), id="e-2", acks=acks))
        await begun.wait()
        assert service.unfinished == 2

        async def later() -> None:
            await until(lambda: not service.running)
            assert acks.ids == []
            go_on.set()

        tasks.create_task(later())
    assert handled[:2] == ["a", "after a"] or handled[:2] == ["a", "a"]
    assert sorted(handled) == ["a", "a", "after a", "after a"]
    assert acks.ids == ["e-1", "e-2"]
    await broker.bring(arriving(Opened(id="late"), acks=acks))  # a transport that has not heard yet
    assert acks.ids == ["e-1", "e-2"]
    assert service.unfinished == 0


async def test_a_drain_has_a_limit_and_says_what_it_left(caplog: pytest.LogCaptureFixture) -> None:
    acks = Acks()

    @on(Opened)
    async def for_ever(event: Opened) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5), running(for_ever, drain_limit_s=0.05) as (_, broker):
        for number in range(3):
            await broker.bring(arriving(Opened(id="a"), id=f"e-{number}", acks=acks))
    assert "mail-ms: 3 events were still being handled; they are lost" in caplog.messages
    assert acks.ids == []


async def test_what_one_run_left_is_no_part_of_the_next() -> None:
    handled: list[str] = []
    stuck = True

    @on(Opened)
    async def hear(event: Opened) -> None:
        if stuck:
            await asyncio.Event().wait()
        handled.append(event.id)

    broker = Broker()
    service = Service("mail-ms", modules=[hear], transport=broker, drain_limit_s=0.02)
    async with service:
        for name in "abc":
            await broker.bring(arriving(Opened(id=name)))
    stuck = False
    async with service:
        assert service.unfinished == 0
        await broker.bring(arriving(Opened(id="d")))
        await service.idle()
    assert handled == ["d"]


# Errors of listeners


async def test_a_listeners_error_is_one_line_with_id_and_place_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []
    acks = Acks()

    @on(Opened, name="mailing.welcome")
    async def welcome(event: Opened) -> None:
        called.append("welcome")
        raise RuntimeError("smtp\nsaid no")

    @on(Opened)
    async def other(event: Opened, tx: Transaction) -> None:
        called.append("other")

    happened: list[Happening] = []
    async with running(welcome, other) as (service, broker):
        service.observe(happened.append)
        await broker.bring(arriving(Opened(id="a"), acks=acks))
        await service.idle()
        assert service.counters == {"received": 1, "failed": 1, "handled": 1}
    assert called == ["welcome", "other"]
    assert acks.ids == ["e-1"]
    [record] = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert re.fullmatch(
        r"mail-ms: mailing\.welcome failed on hear\.account-opened e-1: RuntimeError: smtp said no · "
        r"test_handling_order\.py:\d+ · not tried again",
        record.getMessage(),
    )
    assert record.exc_info is not None
    assert [(one.what, one.listener) for one in happened if one.what == "failed"] == [("failed", "mailing.welcome")]


async def test_the_place_is_the_listeners_even_if_a_library_raised(caplog: pytest.LogCaptureFixture) -> None:
    @on(Opened)
    async def hear(event: Opened) -> None:
        datetime.fromisoformat("no date")
        msgspec.json.decode(b"no json")

    async with running(hear) as (service, broker):
        await broker.bring(arriving(Opened(id="a")))
        await service.idle()
    assert "· test_handling_order.py:" in caplog.text


async def test_after_the_commit_too(caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    @on(Noted, when="after_commit", name="first")
    async def first(event: Noted) -> None:
        raise KeyError("x")

    @on(Noted, when="after_commit", name="second")
    async def second(event: Noted) -> None:
        called.append("second")

    async with running(first, second) as (service, _):
        async with service.transaction() as tx:
            await tx.publish(Noted())
        await service.idle()
        assert service.counters == {"published": 1, "failed": 1, "handled": 1}
    assert called == ["second"]
    [line] = [one for one in caplog.messages if "failed" in one]
    assert line.startswith("mail-ms: first failed on hear.noted ")


@pytest.mark.parametrize("when", ["on arrival", "after the commit"])
async def test_a_listener_that_awaited_something_cancelled_fails_alone(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[str] = []

    async def wait_for_the_cancelled() -> None:
        never = asyncio.get_running_loop().create_future()
        never.cancel()
        await never

    @on(Opened, name="arrival")
    async def arrival(event: Opened, tx: Transaction) -> None:
        if event.number == 0:
            await wait_for_the_cancelled()
        handled.append(event.id)

    @on(Noted, when="after_commit", name="after")
    async def after(event: Noted) -> None:
        if event.word == "first":
            await wait_for_the_cancelled()
        handled.append(event.word)

    async with running(arrival, after) as (service, broker):
        if when == "on arrival":
            await broker.bring(arriving(Opened(id="a", number=0), id="e-1"))
            await broker.bring(arriving(Opened(id="a", number=1), id="e-2"))
        else:
            async with service.transaction() as tx:
                await tx.publish(Noted(word="first"))
                await tx.publish(Noted(word="second"))
        await service.idle()
        assert service.running
    assert handled == (["a"] if when == "on arrival" else ["second"])
    assert "awaited something that was cancelled" in caplog.text


async def test_each_listener_has_its_own_transaction_and_only_if_it_needs_one() -> None:
    class Counting(MemoryStore):
        begun = 0

        def begin(self, savepoints: Any, **options: Any) -> Any:
            self.begun += 1
            return super().begin(savepoints, **options)

    @on(Opened)
    async def plain(event: Opened, context: Context, envelope: Envelope) -> None: ...

    @on(Opened)
    async def one(event: Opened, tx: Transaction) -> None: ...

    @on(Opened)
    async def two(event: Opened, tx: Transaction) -> None: ...

    store = Counting()
    async with running(plain, one, two, store=store) as (service, broker):
        await broker.bring(arriving(Opened(id="a")))
        await service.idle()
    assert store.begun == 2


async def test_a_blocking_listener_does_not_hold_up_the_loop() -> None:
    moved = asyncio.Event()
    loop = asyncio.get_running_loop()

    @on(Opened, blocking=True)
    def blocks(event: Opened) -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(5)
        loop.call_soon_threadsafe(moved.set)

    async with running(blocks) as (service, broker):
        await broker.bring(arriving(Opened(id="a")))
        await moved.wait()
        await service.idle()
        assert service.counters["handled"] == 1


# What is no event of ours


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"id":7}', "$.id: expected str, got int"),
        (b'{"id":{"secret":"hunter2"}}', "$.id: expected str, got object"),
        (b"{}", "$: object missing required field id"),
        (b'{"id":"a","mood":"hunter2"}', "$.mood: invalid enum value"),
        (b'{"id":"a","tags":["fine",2]}', "$.tags[1]: expected str, got int"),
        (b'{"id":"a","number":"hunter2"}', "$.number: expected int, got str"),
        (b"[]", "$: expected object, got array"),
        (b"hunter2", "$: not JSON (DecodeError)"),
        (b'{"id":"hunter2\xff"}', "$: not JSON (UnicodeDecodeError)"),
        (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"id":"a"}', "$: not JSON (RecursionError)"),
    ],
)
async def test_a_payload_that_does_not_fit_is_one_line_with_the_place_and_without_the_value(
    raw: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[object] = []
    acks = Acks()

    @on(Opened)
    async def hear(event: Opened) -> None:
        called.append(event)

    async with running(hear) as (service, broker):
        await broker.bring(arriving_raw(raw, acks=acks))
        await service.idle()
        assert service.counters == {"received": 1, "refused": 1}
    assert (called, acks.ids) == ([], ["e-1"])
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == [
        (
            f"mail-ms refused hear.account-opened e-1 · {problem} · from bank-ms · {len(raw)} bytes, not kept → "
            f"correct the sender, or {__name__}.Opened"
        )
    ]
    assert "hunter2" not in caplog.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(min_size=4).map(lambda t: "\N{SNOWMAN}" + t),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "number", "mood", "tags", "x"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=json_values)
async def test_whatever_arrives_is_handled_or_refused_and_its_texts_stay_out_of_the_log(
    payload: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    acks = Acks()

    @on(Opened)
    async def hear(event: Opened) -> None: ...

    async with running(hear) as (service, broker):
        await broker.bring(arriving_raw(msgspec.json.encode(payload), acks=acks))
        await service.idle()
        assert service.counters["handled"] + service.counters["refused"] == 1
    assert acks.ids == ["e-1"]
    assert "\N{SNOWMAN}" not in caplog.text


async def test_text_from_the_wire_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    @on(Opened, name="hear")
    async def hear(event: Opened) -> None:
        raise ValueError

    forged = "e\nCRITICAL mail-ms: crashed\u2028\x1b[31m"
    async with running(hear) as (service, broker):
        await broker.bring(arriving(Opened(id="a"), id=forged))
        await broker.bring(arriving_raw(b"{}", id=forged, source=forged))
        await broker.bring(Delivery(channel=forged, raw=b"x", envelope=None, problem="not JSON"))
        await service.idle()
    lines = [one for one in caplog.messages if "crashed" in one]
    assert len(lines) == 3
    for line in lines:
        assert not re.search(r"[\x00-\x1f\u2028]", line)
        assert r"e\nCRITICAL" in line


async def test_what_is_no_event_at_all_is_refused_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    acks = Acks()
    async with running() as (service, broker):
        await broker.bring(
            Delivery(channel="ch", raw=b"123", envelope=None, problem="the data is a number", ack=acks.of("x"))
        )
        assert service.counters == {"received": 1, "refused": 1}
    assert acks.ids == ["x"]
    assert (
        "mail-ms refused a message on ch · the data is a number · 3 bytes, not kept → correct whoever publishes it there"
        in (caplog.messages)
    )


async def test_events_under_earlier_names_are_known_and_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    @on(Opened)
    async def hear(event: Opened, context: Context) -> None:
        seen.append(context.name)

    async with running(hear) as (service, broker):
        await broker.bring(arriving(Opened(id="a"), name="hear.account-created"))
        await broker.bring(arriving(Closed(id="a")))
        await service.idle()
        assert service.counters == {"received": 2, "handled": 1, "unheard": 1}
    assert seen == ["hear.account-opened"]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_failed_acknowledgement_is_logged_and_the_lane_continues(caplog: pytest.LogCaptureFixture) -> None:
    handled: list[str] = []

    @on(Opened)
    async def hear(event: Opened) -> None:
        handled.append(event.id)

    async def broken() -> None:
        raise OSError("gone")

    async with running(hear) as (service, broker):
        first = arriving(Opened(id="a"))
        await broker.bring(Delivery(channel="ch", raw=first.raw, envelope=first.envelope, ack=broken))
        await broker.bring(arriving(Opened(id="a")))
        await service.idle()
    assert handled == ["a", "a"]
    assert "ch: could not be acknowledged: gone" in caplog.messages


# Order, parallelism, back-pressure


def keys_of_different_lanes() -> tuple[str, str]:
    first = "key-0"
    lane = lane_of(Envelope.of(Opened(id=first)))
    return first, next(name for n in range(100) if lane_of(Envelope.of(Opened(id=(name := f"key-{n}")))) != lane)


async def test_events_of_one_key_are_handled_in_order_and_other_keys_at_the_same_time() -> None:
    seen: defaultdict[str, list[int]] = defaultdict(list)
    at_once = most_at_once = 0

    @on(Opened)
    async def hear(event: Opened) -> None:
        nonlocal at_once, most_at_once
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        for _ in range(hash((event.id, event.number)) % 5):
            await asyncio.sleep(0)
        seen[event.id].append(event.number)
        at_once -= 1

    @on(Opened)
    async def also(event: Opened) -> None:
        await asyncio.sleep(0)

    async with running(hear, also) as (service, broker):
        for number in range(30):
            for key in range(20):
                await broker.bring(arriving(Opened(id=f"key-{key}", number=number), id=f"{key}-{number}"))
        await service.idle()
    assert seen == {f"key-{key}": list(range(30)) for key in range(20)}
    assert 1 < most_at_once <= LANES


async def test_a_stuck_key_does_not_hold_up_the_others() -> None:
    stuck_key, free_key = keys_of_different_lanes()
    handled: list[str] = []
    go_on = asyncio.Event()

    @on(Opened)
    async def hear(event: Opened) -> None:
        if event.id == stuck_key:
            await go_on.wait()
        handled.append(event.id)

    async with running(hear) as (_, broker):
        await broker.bring(arriving(Opened(id=stuck_key)))
        await broker.bring(arriving(Opened(id=free_key)))
        await until(lambda: handled == [free_key])
        go_on.set()
    assert handled == [free_key, stuck_key]


async def test_a_full_lane_holds_the_transport_back_and_a_cancelled_delivery_leaves_no_trace() -> None:
    go_on = asyncio.Event()
    handled = 0

    @on(Opened)
    async def hear(event: Opened) -> None:
        nonlocal handled
        await go_on.wait()
        handled += 1

    async with running(hear) as (service, broker):
        taken = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    await broker.bring(arriving(Opened(id="a"), id=f"e-{taken}"))
                    taken += 1
        assert 1 < taken < 2000
        assert service.unfinished == taken
        go_on.set()
        await service.idle()
        await broker.bring(arriving(Opened(id="a")))
    assert handled == taken + 1


# Sending


async def test_what_the_broker_does_not_take_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    happened: list[Happening] = []
    async with running(publishes=[OwnNews]) as (service, broker):
        service.observe(happened.append)
        for error in (TransportUnavailableError("gone"), ValueError("an adapter's bug")):
            broker.fails = error
            async with service.transaction() as tx:
                await tx.publish(OwnNews())
            await service.idle()
        broker.fails = None
        async with service.transaction() as tx:
            sent = await tx.publish(OwnNews())
        await service.idle()
        assert service.counters == {"published": 3, "lost": 2, "sent": 1}
    assert broker.sent == [sent]
    lost = [one.envelope.id for one in happened if one.what == "lost"]
    assert len(lost) == 2
    for event_id in lost:
        assert f"mail-ms: event {event_id} is lost: the broker did not take it" in caplog.text
    assert "an adapter's bug" in caplog.text


class OwnNews(IntegrationEvent, name="hear.news", version=1, source="mail-ms"):
    pass


async def test_a_full_after_commit_queue_drops_counts_and_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    counted: defaultdict[str, int] = defaultdict(int)
    ran: list[str] = []
    lost: list[Envelope] = []

    async def run_listeners(due: AfterCommit) -> None:
        event: Any = due.emission.event
        ran.append(event.word)

    def count(what: str) -> None:
        counted[what] += 1

    queue = AfterCommitQueue(transport=Broker(), run_listeners=run_listeners, lost=lost.extend, count=count, bound=3)
    queue.open()
    a_listener: Any = "only counted"
    queue.accept(AfterCommit(Emission(Noted(word=str(n))), (), (a_listener,)) for n in range(10))
    queue.accept(ToSend(Envelope.of(OwnNews()), (b"{}", b"")) for _ in range(5))
    assert counted == {"after_commit_dropped": 7}
    assert len(lost) == 2

    loop = asyncio.get_running_loop().create_task(queue.run())
    await until(lambda: not queue.unfinished)
    queue.accept([AfterCommit(Emission(Noted(word="again")), (), (a_listener,))])
    await until(lambda: not queue.unfinished)
    loop.cancel()
    assert ran == ["0", "1", "2", "again"]
    assert counted["sent"] == 3
    assert caplog.messages == [
        "the after-commit queue is full (3 wait); events are dropped, counted as after_commit_dropped",
        "the after-commit queue has room again; 7 events were dropped",
    ]


async def test_a_service_can_be_asked_to_be_idle_within_a_limit() -> None:
    @on(Opened)
    async def for_ever(event: Opened) -> None:
        await asyncio.Event().wait()

    async with running(for_ever, drain_limit_s=0.01) as (service, broker):
        await broker.bring(arriving(Opened(id="a")))
        with pytest.raises(TimeoutError):
            await service.idle(limit_s=0.01)


async def test_two_starts_at_once_are_refused() -> None:
    async with running() as (service, _):
        with pytest.raises(CauceError, match="the service mail-ms is running already"):
            await service.__aenter__()
        assert service.running
