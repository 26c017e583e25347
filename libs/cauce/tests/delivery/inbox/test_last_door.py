"""What cannot be read, recorded or said still ends: within its attempts, and holding nothing but its own key."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from cauce import DomainEvent, IntegrationEvent, Service, on
from cauce.delivery.retention import Keep
from cauce.events.envelope import Envelope, new_id, utc_now
from cauce.formats.cloudevents import to_json
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.retry import Retry
from cauce.ports.inbox import Dead, Whole
from cauce.ports.lanes import Lane, lane_of
from cauce.stores.memory import MemoryStore
from cauce.stores.sql import dead_letters
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from testsupport.waiting import until

Store = MemoryStore | SqlAlchemyStore

TWO_ATTEMPTS = Retry(attempts=2, base=0.001, cap=0.001)


class Told(IntegrationEvent, name="door.told", version=1, source="shop-ms", key="who"):
    who: str


class Noted(DomainEvent, name="door.noted", key="who"):
    who: str


@pytest.fixture
async def database(url: str) -> AsyncGenerator[SqlAlchemyStore]:
    """For what needs the commands."""
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


# What a class makes of what it is given


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    a: int = 0


class Picky(IntegrationEvent, name="door.picky", version=2, source="shop-ms", key="who"):
    """Does not take everything, each in its own way."""

    who: str
    does: str = ""
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.does == "assert":
            raise AssertionError("secret")
        if self.does == "value":
            raise ValueError("secret")
        if self.does == "recursion":
            endless()
        if self.does == "leave":
            raise SystemExit(3)


class Pick:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @on(Picky, name="pick")
    async def hear(self, event: Picky) -> None:
        self.heard.append(event.who)


def said(
    who: str | None, data: str, *, number: int = 0, version: int = 2, source: str = "shop-ms", name: str = "door.picky"
) -> Envelope:
    """An event as another service might say it, whatever this one's classes make of it."""
    id_ = new_id()
    return Envelope(
        id=id_,
        source=source,
        name=name,
        version=version,
        occurred_on=utc_now(),
        payload=msgspec.Raw(data.encode()),
        correlation_id=id_,
        key=who,
        key_seq=number or None,
        incarnation="first" if number else None,
    )


def good(who: str, number: int = 0) -> Envelope:
    return said(who, f'{{"who":"{who}"}}', number=number)


async def say(broker: MemoryStreams, *envelopes: Envelope, topic: str = "shop-ms") -> None:
    for one in envelopes:
        await broker.append(topic, lane_of(one), [to_json(one)])


UNREADABLE = {
    "an assertion": (
        '{"who":"w","does":"assert"}',
        r"\$: its class refuses it \(AssertionError at test_last_door\.py:\d+\)",
    ),
    "a value": ('{"who":"w","does":"value"}', r"\$: its class refuses it \(ValueError at test_last_door\.py:\d+\)"),
    "no end": (
        '{"who":"w","does":"recursion"}',
        r"\$: its class refuses it \(RecursionError at test_last_door\.py:\d+\)",
    ),
    "an exit": ('{"who":"w","does":"leave"}', r"\$: its class refuses it \(SystemExit at test_last_door\.py:\d+\)"),
    "a name with NUL": (
        '{"who":"w","inner":{"a":1,"b\\u0000c":2}}',
        r"\$\.inner: object contains unknown field b\\x00c",
    ),
    "another type": ('{"who":7}', r"\$\.who: expected str, got int"),
    "no object": ("[]", r"\$: expected object, got array"),
}


@pytest.mark.parametrize("what", UNREADABLE)
async def test_an_event_that_cannot_be_read_is_a_dead_letter_and_holds_its_key_only(store: Store, what: str) -> None:
    data, why = UNREADABLE[what]
    module = Pick()
    async with hearing(store, module) as (service, broker):
        await say(broker, said("w", data, number=1), *(good("w", number) for number in (2, 3)))
        await say(broker, *(good(f"other {number}") for number in range(32)))
        await until(has(service, handled=32, dead=1, waiting=2))

    (letter,) = await dead(store)
    assert (letter.reason, letter.key, letter.attempts, letter.consumer) == ("undecodable", "w", 1, "ledger-ms/pick")
    assert re.fullmatch(why, letter.error), letter.error
    assert "w" not in module.heard


@pytest.mark.parametrize("key", ["with \\u0000 in it", "x" * 5_000, "\\u0085", "with \\n a line"])
async def test_a_key_from_the_payload_is_checked_as_one_that_was_sent(store: Store, key: str) -> None:
    module = Pick()
    async with hearing(store, module) as (service, broker):
        await say(broker, said(None, f'{{"who":"{key}"}}'), *(good(f"other {number}") for number in range(5)))
        await until(has(service, handled=5, dead=1))

    (letter,) = await dead(store)
    assert (letter.reason, letter.key) == ("undecodable", None)
    assert letter.error.startswith("$.who: ")


async def test_a_class_that_learns_to_read_it_handles_it_after_a_replay_and_what_waited_behind_it(
    database: SqlAlchemyStore,
) -> None:
    class Strict(IntegrationEvent, name="door.picky", version=2, source="shop-ms", key="who"):
        who: str
        does: int

    class BeforeTheFix:
        @on(Strict, name="pick")
        async def hear(self, event: Strict) -> None:
            raise AssertionError

    broker = MemoryStreams()

    def service(module: object) -> Service:
        return Service("ledger-ms", modules=[module], store=database, transport=broker, start="retained")

    async with service(BeforeTheFix()) as before:
        await say(broker, good("w", 1), good("w", 2))
        await until(has(before, dead=1, waiting=1))
    await replay(database)
    async with service(BeforeTheFix()) as before:
        await until(has(before, dead=1))  # no better than it was
    await replay(database)
    fixed = Pick()
    async with service(fixed) as after:
        await until(has(after, handled=2))

    assert fixed.heard == ["w", "w"]
    assert await dead(database) == []


async def replay(database: SqlAlchemyStore) -> None:
    """As `cauce dead replay` does."""
    async with database.engine.connect() as connection:
        (letter,) = await dead_letters.select(connection, dead_letters.DeadLetterFilter())
    assert await dead_letters.replay(database.engine, letter, why=None)


async def test_after_a_discard_the_next_of_the_key_is_handled(database: SqlAlchemyStore) -> None:
    module = Pick()
    async with hearing(database, module) as (service, broker):
        await say(broker, said("w", "[]", number=1), *(good("w", number) for number in (2, 3)))
        await until(has(service, dead=1, waiting=2))
        async with database.engine.connect() as connection:
            (letter,) = await dead_letters.select(connection, dead_letters.DeadLetterFilter())
        assert letter.behind == 2
        assert await dead_letters.discard(database.engine, letter, why="no")
        await until(has(service, handled=2))


async def test_a_durable_domain_event_that_its_class_no_longer_reads_holds_its_key_only(store: Store) -> None:
    class Then(DomainEvent, name="door.changing", key="who"):
        who: str

    class Now(DomainEvent, name="door.changing", key="who"):
        who: str
        amount: int

        def __post_init__(self) -> None:
            assert self.amount != 13

    heard: list[str] = []

    class Hear:
        @on(Now, name="change", when="durable")
        async def hear(self, event: Now) -> None:
            heard.append(event.who)

    class Never:
        @on(Then, name="change", when="durable")
        async def hear(self, event: Then) -> None:
            await asyncio.Event().wait()

    async with (
        Service("ledger-ms", modules=[Never()], store=store, drain_limit_s=0.0) as before,
        before.transaction() as tx,
    ):
        await tx.publish(Then(who="old"))
    async with Service("ledger-ms", modules=[Hear()], store=store) as after:
        async with after.transaction() as tx:
            for who in ("old", "a", "b", "c"):
                await tx.publish(Now(who=who, amount=1))
        await until(has(after, handled=3, dead=1))

    (letter,) = await dead(store)
    assert (letter.reason, letter.key) == ("undecodable", "old")
    assert sorted(heard) == ["a", "b", "c"]


# Versions


async def test_a_newer_version_waits_for_the_code_that_reads_it_and_holds_its_key_only(store: Store) -> None:
    class Newer(IntegrationEvent, name="door.picky", version=3, source="shop-ms", key="who"):
        who: str
        more: int

    class After:
        def __init__(self) -> None:
            self.heard: list[int] = []

        @on(Newer, name="pick")
        async def hear(self, event: Newer) -> None:
            self.heard.append(event.more)

    broker, old, new = MemoryStreams(), Pick(), After()

    def service(module: object) -> Service:
        return Service("ledger-ms", modules=[module], store=store, transport=broker, start="retained")

    async with service(old) as before:
        await say(broker, *(said("w", f'{{"who":"w","more":{n}}}', number=n, version=3) for n in (1, 2)), good("other"))
        await until(has(before, handled=1, waiting=2, newer_version=2))
    async with service(old) as before:  # a second process of the old code looks once more, and leaves it
        await until(has(before, waiting=1))
        assert await dead(store) == []
    async with service(new) as after:
        await until(has(after, handled=2))

    assert new.heard == [1, 2]


async def test_a_newer_version_that_no_code_reads_in_time_is_a_dead_letter(store: Store) -> None:
    module, broker = Pick(), MemoryStreams()
    service = Service(
        "ledger-ms", modules=[module], store=store, transport=broker, start="retained", keep=Keep(inbox_s=0.3)
    )
    async with service:
        await say(broker, said("w", '{"who":"w"}', number=1, version=3))
        await until(has(service, dead=1))

    (letter,) = await dead(store)
    assert (letter.reason, letter.key) == ("newer version", "w")
    assert letter.error == "it is of version 3, and Picky of this version of the service reads up to 2"


# Whose event it is


async def test_an_event_in_the_topic_of_a_service_that_does_not_own_it_reaches_no_listener(store: Store) -> None:
    class Ours(IntegrationEvent, name="door.ours", version=1, source="accounts-ms", key="who"):
        who: str

    class Both(Pick):
        @on(Ours, name="ours")
        async def hear_ours(self, event: Ours) -> None:
            self.heard.append(f"ours {event.who}")

    module = Both()
    async with hearing(store, module) as (service, broker):
        forged = said("ana", '{"who":"ana"}', number=999_999, name="door.ours", version=1)
        await say(broker, forged, good("ana", 1))
        await say(
            broker,
            said("ana", '{"who":"ana"}', number=1, name="door.ours", version=1, source="accounts-ms"),
            topic="accounts-ms",
        )
        await until(has(service, handled=2, dead=1, wrong_source=1))

    (letter,) = await dead(store)
    assert (letter.reason, letter.key, letter.consumer) == ("wrong source", None, "ledger-ms/ours")
    assert letter.error == (
        "shop-ms said it, and door.ours is accounts-ms's. If it moved from one service to another: "
        "earlier_sources=('shop-ms',) in Ours"
    )
    assert sorted(module.heard) == ["ana", "ours ana"]


async def test_an_event_in_the_topic_of_another_service_is_refused_and_counted(store: Store) -> None:
    module = Pick()
    async with hearing(store, module) as (service, broker):
        elsewhere = said("ana", '{"who":"ana"}', number=7, source="accounts-ms")
        await say(broker, elsewhere, good("ana", 1))
        await until(has(service, handled=1, dead=1, wrong_source=1))

    (letter,) = await dead(store)
    assert (letter.reason, letter.key, letter.consumer) == ("wrong source", None, "ledger-ms")
    assert letter.error == "it says it comes from 'accounts-ms' and stands in the topic of 'shop-ms'"
    assert module.heard == ["ana"]


async def test_an_event_that_moved_is_heard_from_both_services(store: Store) -> None:
    class Moved(
        IntegrationEvent, name="door.moved", version=1, source="new-ms", earlier_sources=("shop-ms",), key="who"
    ):
        who: str

    heard: list[str] = []

    class Hear:
        @on(Moved, name="moved")
        async def hear(self, event: Moved, envelope: Envelope) -> None:
            heard.append(envelope.source)

    async with hearing(store, Hear()) as (service, broker):
        for number, source in enumerate(("shop-ms", "new-ms"), 1):
            await say(
                broker,
                said("w", '{"who":"w"}', number=number, name="door.moved", version=1, source=source),
                topic=source,
            )
        await until(has(service, handled=2))

    assert sorted(heard) == ["new-ms", "shop-ms"]


# Bytes


async def test_of_bytes_that_are_no_event_a_bounded_part_is_kept_with_size_and_hash(store: Store) -> None:
    whole = b"x" * 3_000_000

    class TakesAnything(MemoryStreams):
        """Brokers take entries of any size from whoever may write."""

        async def put(self, raw: bytes) -> None:
            (entry,) = await self.append("shop-ms", Lane(3), [b""])
            at, _ = self._log("shop-ms", Lane(3)).entries[int(entry)]
            self._log("shop-ms", Lane(3)).entries[int(entry)] = (at, raw)

    broker = TakesAnything()
    await broker.put(whole)
    await broker.put(b"small")
    async with Service("ledger-ms", modules=[Pick()], store=store, transport=broker, start="retained") as service:
        await say(broker, good("other"))
        await until(has(service, handled=1, dead=2))

    large, small = sorted(await dead(store), key=lambda one: -len(one.message))
    assert large.message == whole[: 256 * 1024]
    assert large.whole == Whole(len(whole), sha256(whole).hexdigest())
    assert (small.message, small.whole) == (b"small", None)
    assert {(one.reason, one.key, one.consumer) for one in (large, small)} == {("undecodable", None, "ledger-ms")}


# Numbers


async def test_a_number_that_cannot_be_true_moves_nothing_and_holds_nobody(store: Store) -> None:
    module = Pick()
    async with hearing(store, module) as (service, broker):
        await say(broker, good("w", 999_999_999_999_999_999), good("w", 1), good("w", 1_000_002), good("w", 2))
        await until(has(service, handled=2, dead=2))
        assert not service.counters["gap_detected"]

    letters = await dead(store)
    assert {one.reason for one in letters} == {"impossible number"}
    assert sorted(one.error.split(";")[0] for one in letters) == [
        "number 1000002 of key 'w', of which 1 is the last known here",
        "number 999999999999999999 of key 'w', of which none is the last known here",
    ]


async def test_a_new_listener_believes_a_high_number_that_another_one_of_its_service_has_reached(store: Store) -> None:
    class Too(Pick):
        @on(Picky, name="too")
        async def hear_too(self, event: Picky) -> None:
            self.heard.append(f"too {event.who}")

    async with hearing(store, Pick()) as (service, broker):
        await say(broker, *(good("w", number) for number in (999_999, 1_999_999)))
        await until(has(service, handled=2))
    module = Too()
    async with hearing(store, module) as (service, broker):
        await say(broker, good("w", 2_000_000))
        await until(has(service, handled=2))

    assert await dead(store) == []


async def test_an_operator_who_replays_such_a_number_says_that_it_is_true(database: SqlAlchemyStore) -> None:
    module = Pick()
    async with hearing(database, module) as (service, broker):
        await say(broker, good("w", 3_000_000))
        await until(has(service, dead=1))
        await replay(database)
        await until(has(service, handled=1))
        await say(broker, good("w", 3_000_001))
        await until(has(service, handled=2))

    assert await dead(database) == []
