"""What its readers could not read, or would read as something else, is refused by `publish`, before anything is written."""

import asyncio
import enum
import math
import types
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import uuid_utils
from cauce import DomainEvent, IntegrationEvent, PublishError, Service, Transaction, on
from cauce.delivery.volatile.queue import AfterCommitQueue
from cauce.dev.servers import ScratchDatabases
from cauce.events.envelope import Envelope, key_of
from cauce.events.event import describe
from cauce.formats.decoding import decode
from cauce.formats.publication import published
from cauce.ports.lanes import LANES, Lane, lane_of
from cauce.ports.transport import BrokerId
from cauce.publishing.pending import AfterCommit, ToSend
from cauce.stores.memory import MemoryStore
from cauce.stores.outbox import Outbox
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory import MemoryTransport
from cauce.transports.memory_streams import MemoryStreams
from cauce.transports.redis_pubsub import RedisPubSub
from msgspec import Meta, Struct
from sqlalchemy import create_engine as create_plain_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from testsupport.databases import query
from testsupport.waiting import until

LONDON = ZoneInfo("Europe/London")
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001  # as a field without a zone holds it


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


class Mood(str, enum.Enum):  # noqa: UP042  # as people wrote it before there was StrEnum
    CALM = "calm"


class Inner(Struct, frozen=True, rename="camel"):
    how_much: float = 0.0
    count: int = 0


class Point(NamedTuple):
    x: int
    y: float = 0.0


@dataclass(frozen=True)
class Tight:
    at: datetime | None = None
    inner: Inner | None = None


class Chain(Struct, frozen=True):
    next: "Chain | None" = None


class Text(str):
    """A text that shows itself as something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "***"


class Moment(datetime):
    """As freezegun's FakeDatetime and pendulum's DateTime are."""


class Day(date): ...


class Clock(time): ...


class Span(timedelta): ...


class Whole(int):
    def __str__(self) -> str:
        return "whole"


class Real(float): ...


class Exact(Decimal): ...


class Id(UUID): ...


class Noted(IntegrationEvent, name="refused.noted", version=1, source="shop", key="key"):
    """A field of every kind."""

    key: str = "k"
    number: int = 0
    real: float = 0.0
    maybe: float | None = None
    flag: bool = False
    exact: Decimal = Decimal(0)
    text: str = ""
    raw: bytes = b""
    at: datetime = NAIVE
    aware: Annotated[datetime, Meta(tz=True)] = datetime(2026, 1, 1, tzinfo=UTC)
    day: date = date(2026, 1, 1)
    clock: time = time()
    span: timedelta = timedelta()
    id: UUID = UUID(int=0)
    colour: Colour = Colour.RED
    word: Literal["a", "b"] = "a"
    few: Annotated[int, Meta(ge=1, le=3)] = 1
    inner: Inner = Inner()
    tight: Tight = Tight()
    point: Point = Point(1)
    items: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "")
    words: frozenset[str] = frozenset()
    ids: frozenset[UUID] = frozenset()
    chain: Chain | None = None
    choice: int | str | None = None


def noted(**fields: Any) -> Noted:
    """As code that no type checker has seen makes one."""
    return Noted(**fields)


class _Deep:
    """Makes itself deeper than anybody reads."""

    @staticmethod
    def chain(levels: int) -> Chain:
        made = Chain()
        for _ in range(levels):
            made = Chain(next=made)
        return made


REFUSED: Sequence[tuple[Mapping[str, Any], str, str]] = [
    # I1: not a number, not of the type
    ({"real": math.nan}, "$.real", "expected a finite number"),
    ({"real": math.inf}, "$.real", "expected a finite number"),
    ({"real": Real("nan")}, "$.real", "expected a finite number"),
    ({"maybe": -math.inf}, "$.maybe", "expected a finite number"),
    ({"inner": Inner(how_much=math.nan)}, "$.inner.howMuch", "expected a finite number"),
    ({"items": (Inner(), Inner(how_much=math.nan))}, "$.items[1].howMuch", "expected a finite number"),
    ({"point": Point(1, math.nan)}, "$.point[1]", "expected a finite number"),
    ({"tight": Tight(inner=Inner(how_much=math.inf))}, "$.tight.inner.howMuch", "expected a finite number"),
    ({"exact": Decimal("nan")}, "$.exact", "expected a number"),
    ({"exact": Decimal("snan")}, "$.exact", "expected a number"),
    ({"exact": 1.5}, "$.exact", "expected Decimal, got float"),
    ({"exact": True}, "$.exact", "expected decimal, got bool"),
    ({"number": "two"}, "$.number", "expected int, got str"),
    ({"number": True}, "$.number", "expected int, got bool"),
    ({"number": 1.0}, "$.number", "expected int, got float"),
    ({"number": None}, "$.number", "expected int, got null"),
    ({"number": 10**5000}, "$.number", "expected a number of fewer digits"),
    ({"real": 2**53 + 1}, "$.real", "expected a float that is read as it is said"),
    ({"real": "1.0"}, "$.real", "expected float, got str"),
    ({"flag": 1}, "$.flag", "expected bool, got int"),
    ({"text": 5}, "$.text", "expected str, got int"),
    ({"text": b"a"}, "$.text", "expected str, got bytes"),
    ({"text": Colour.RED}, "$.text", "expected str, got Colour"),
    ({"text": UUID(int=1)}, "$.text", "expected str, got UUID"),
    ({"text": "\ud800"}, "$.text", "expected text without half a surrogate pair, which UTF-8 cannot say"),
    ({"words": frozenset({"\udfff"})}, "$.words[0]", "expected text without half a surrogate pair, which UTF-8 cannot say"),
    ({"raw": "eA=="}, "$.raw", "expected bytes, got str"),
    ({"colour": "red"}, "$.colour", "expected Colour, got str"),
    ({"colour": "green"}, "$.colour", "invalid enum value"),
    ({"word": "c"}, "$.word", "invalid enum value"),
    ({"few": 4}, "$.few", "expected int <= 3"),
    ({"id": "00000000-0000-0000-0000-000000000001"}, "$.id", "expected UUID, got str"),
    ({"at": "2026-01-01T00:00:00"}, "$.at", "expected datetime, got str"),
    ({"at": date(2026, 1, 1)}, "$.at", "invalid RFC3339 encoded datetime"),
    ({"day": NAIVE}, "$.day", "invalid RFC3339 encoded date"),
    ({"aware": NAIVE}, "$.aware", "expected datetime with a timezone component"),
    ({"at": datetime(1800, 1, 1, tzinfo=LONDON)}, "$.at", "expected a datetime whose offset from UTC is in whole minutes"),
    ({"tight": Tight(at="now")}, "$.tight.at", "invalid RFC3339 encoded datetime"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ({"span": 5}, "$.span", "expected duration, got int"),
    ({"inner": {"howMuch": 1.0, "count": 1}}, "$.inner", "expected Inner, got dict"),
    ({"inner": Inner(count="many")}, "$.inner.count", "expected int, got str"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ({"pair": (1, "a", 2)}, "$.pair", "expected array of length 2"),
    ({"pair": {"1": "a"}}, "$.pair", "expected array, got object"),
    ({"items": {Inner()}}, "$.items", "expected tuple, got set"),
    ({"words": ["a", "a"]}, "$.words", "expected frozenset, got list"),
    ({"words": {"a": 1}}, "$.words", "expected array, got object"),
    ({"chain": object()}, "$.chain", "expected plain data, got object"),
    ({"choice": 1.5}, "$.choice", "expected int | str | null, got float"),
    ({"chain": _Deep.chain(40)}, "$", "at most 32 levels of nesting"),
    ({"text": "x" * 300_000}, "$", "at most 262144 bytes, got"),
    ({"text": "x" * 261_500}, "$", "at most 262144 bytes, got"),
    # I2: keys that no database could hold
    ({"key": "a\nb"}, "$.key", "expected a key of at most 256 characters, without line ends, NUL and other control"),
    ({"key": "a\x00b"}, "$.key", "expected a key of at most 256 characters"),
    ({"key": "k" * 257}, "$.key", "expected a key of at most 256 characters"),
    ({"key": "\ud800"}, "$.key", "expected text without half a surrogate pair"),
    ({"key": 7}, "$.key", "expected str, got int"),
]  # fmt: skip

ACCEPTED: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
    # what is said, and what its readers get
    ({"text": Text("a"), "key": Text("k")}, {"text": "a", "key": "k"}),
    ({"text": Mood.CALM}, {"text": "calm"}),
    ({"number": Whole(7)}, {"number": 7}),
    ({"number": Size.SMALL}, {"number": 1}),
    ({"number": 2**70}, {"number": 2**70}),
    ({"real": Real(1.5)}, {"real": 1.5}),
    ({"real": 3}, {"real": 3.0}),
    ({"exact": Exact("1.50")}, {"exact": Decimal("1.50")}),
    ({"exact": 2}, {"exact": Decimal(2)}),
    ({"at": Moment(2026, 1, 1, 12, tzinfo=UTC)}, {"at": datetime(2026, 1, 1, 12, tzinfo=UTC)}),
    ({"day": Day(2026, 1, 2)}, {"day": date(2026, 1, 2)}),
    ({"clock": Clock(1, 2, tzinfo=UTC)}, {"clock": time(1, 2, tzinfo=UTC)}),
    ({"span": Span(days=1, microseconds=1)}, {"span": timedelta(days=1, microseconds=1)}),
    ({"id": Id(int=3)}, {"id": UUID(int=3)}),
    ({"id": uuid_utils.UUID(int=3)}, {"id": UUID(int=3)}),
    ({"ids": frozenset({uuid_utils.UUID(int=3)})}, {"ids": frozenset({UUID(int=3)})}),
    ({"raw": bytearray(b"x")}, {"raw": b"x"}),
    ({"items": [Inner(count=1)]}, {"items": (Inner(count=1),)}),
    ({"items": [Inner(how_much=1)]}, {"items": (Inner(how_much=1.0),)}),
    ({"point": (1, 2)}, {"point": Point(1, 2.0)}),
    ({"words": {"a", "b"}}, {"words": frozenset({"a", "b"})}),
    ({"at": datetime(2026, 10, 25, 1, 30, fold=1, tzinfo=LONDON)}, {"at": datetime(2026, 10, 25, 1, 30, tzinfo=UTC)}),
    (
        {"at": datetime(2026, 10, 25, 1, 30, tzinfo=LONDON)},
        {"at": datetime(2026, 10, 25, 1, 30, tzinfo=timezone(timedelta(hours=1)))},
    ),
    (
        {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))},
        {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))},
    ),
    ({"chain": _Deep.chain(25)}, {"chain": _Deep.chain(25)}),
]


@pytest.mark.parametrize(("fields", "path", "expectation"), REFUSED, ids=range(len(REFUSED)))
def test_what_would_not_be_read_as_it_is_said_is_refused(
    fields: Mapping[str, Any], path: str, expectation: str
) -> None:
    with pytest.raises(PublishError) as caught:
        published(noted(**fields), Envelope.of)

    assert caught.value.path == path
    assert (caught.value.expectation or "").startswith(expectation)
    assert str(caught.value) == (
        f"refused.noted cannot be published · {path}: {caught.value.expectation}. Nothing was published."
    )


@pytest.mark.parametrize(("said", "read"), ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_means_the_same_is_published_as_its_class_says_it(
    said: Mapping[str, Any], read: Mapping[str, Any]
) -> None:
    event, wanted = noted(**said), Noted(**read)

    envelope, (before, after) = published(event, Envelope.of)

    assert envelope.payload is event
    assert envelope.key == wanted.key
    assert type(envelope.key) is str
    assert published(wanted, lambda _: _same_but(envelope, wanted))[1] == (before, after)
    data = (before + after).partition(b'"data":')[2][:-1]
    assert decode(data, Noted) == wanted
    assert [type(getattr(decode(data, Noted), name)) for name in read] == [type(value) for value in read.values()]


def _same_but(envelope: Envelope, event: Noted) -> Envelope:
    return Envelope.of(event, id=envelope.id, occurred_on=envelope.occurred_on)


# --- nothing is written, by whatever way it is published ------------------------------------------------------------


class Measured(DomainEvent, name="refused.measured", key="at"):
    at: str
    value: float


class Counted(IntegrationEvent, name="refused.counted", version=1, source="shop", key="at"):
    at: str
    value: float


ALL = [Lane(lane) for lane in range(LANES)]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Any]:
    if request.param == "memory":
        made: Any = MemoryStore()
    elif request.param == "sqlite":
        made = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite"))
    else:
        databases: ScratchDatabases = request.getfixturevalue("postgres")
        made = SqlAlchemyStore(create_engine(databases.database()))
    yield made
    await made.close()


@asynccontextmanager
async def shop(store: Any, *listeners: object) -> AsyncGenerator[Service]:
    service = Service(
        "shop", modules=listeners, store=store, transport=MemoryStreams(), publishes=[Counted], start="retained"
    )
    async with service:
        yield service


async def test_an_integration_event_is_refused_and_the_block_goes_on(store: Any) -> None:
    async with shop(store) as service:
        async with service.transaction() as tx:
            with pytest.raises(PublishError) as caught:
                await tx.publish(Counted(at="a", value=math.nan))
            kept = await tx.publish(Counted(at="a", value=1))
        sent = await store.message_store().newest_sent("shop", lane_of(kept), limit=10)
        waiting = await store.message_store().pending(ALL, limit=10)
    assert caught.value.path == "$.value"
    assert len(sent) + len(waiting) == 1  # the key's number was not used up either


async def test_no_listener_hears_a_durable_domain_event_that_is_refused(store: Any) -> None:
    told: list[str] = []

    @on(Measured, name="at once")
    async def at_once(event: Measured) -> None:
        told.append("at once")

    @on(Measured, when="after_commit", name="afterwards")
    async def afterwards(event: Measured) -> None:
        told.append("afterwards")

    @on(Measured, when="durable", name="durably")
    async def durably(event: Measured, tx: Transaction) -> None:
        told.append("durably")

    async with shop(store, at_once, afterwards, durably) as service:
        for event in (Measured(at="a", value=math.nan), Measured(at="a\n", value=1.0)):
            with pytest.raises(PublishError, match=r"\$\.(value|at)"):
                async with service.transaction() as tx:
                    await tx.publish(event)
            with pytest.raises(PublishError, match=r"\$\.(value|at)"):
                await service.publish(event)
        await service.idle()
    assert told == []


async def test_a_domain_event_that_nobody_writes_down_may_hold_anything() -> None:
    told: list[float] = []

    @on(Measured, when="after_commit")
    async def afterwards(event: Measured) -> None:
        told.append(event.value)

    async with Service("shop", modules=[afterwards]) as service:
        async with service.transaction() as tx:
            await tx.publish(Measured(at="a\n", value=math.inf))
        await service.idle()
    assert told == [math.inf]


OUTBOX = Outbox("shop", publishes=[Counted])


async def test_the_outbox_of_a_session_of_ones_own_refuses_it_when_it_is_added(url: str) -> None:
    prepared = SqlAlchemyStore(create_engine(url))
    await prepared.prepare()
    await prepared.close()

    engine = create_engine(url)
    async with AsyncSession(engine) as session, session.begin():
        with pytest.raises(PublishError, match=r"\$\.value: expected a finite number"):
            OUTBOX.add(session, Counted(at="a", value=math.nan))
        OUTBOX.add(session, Counted(at="a", value=1))
    await engine.dispose()

    plain = create_plain_engine(url.replace("+aiosqlite", ""))
    with Session(plain) as session, session.begin():
        with pytest.raises(PublishError, match=r"\$\.at: expected a key"):
            OUTBOX.add(session, Counted(at="a\x00", value=1.0))
        OUTBOX.add(session, Counted(at="a", value=2.0))
    plain.dispose()

    assert query(url, "SELECT key, key_seq FROM cauce_outbox ORDER BY position") == [("a", 1), ("a", 2)]


async def test_what_was_said_at_publish_is_what_is_written_whatever_becomes_of_it_later(store: Any) -> None:
    class Growing(IntegrationEvent, name="refused.growing", version=1, source="shop"):
        items: tuple[int, ...]

    said: Any = [1, 2]
    heard: list[Growing] = []

    @on(Growing)
    async def hear(event: Growing) -> None:
        heard.append(event)

    async with Service(
        "shop", store=store, modules=[hear], transport=MemoryStreams(), publishes=[Growing], start="retained"
    ) as service:
        async with service.transaction() as tx:
            await tx.publish(Growing(items=said))
            said.append(3)
        await until(lambda: heard != [])
    assert heard == [Growing(items=(1, 2))]


# --- the volatile way, and NestJS -----------------------------------------------------------------------------------


async def test_the_volatile_way_refuses_the_same() -> None:
    service = Service("shop", transport=MemoryTransport(), publishes=[Counted])
    async with service, service.transaction() as tx:
        with pytest.raises(PublishError, match=r"\$\.value: expected a finite number"):
            await tx.publish(Counted(at="a", value=math.nan))


class Nested(IntegrationEvent, name="refused.nested", version=1, source="shop"):
    chain: Chain
    numbers: tuple[float, ...] = ()


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (Nested(chain=_Deep.chain(29)), "nested deeper than the limit of 32"),
        (Nested(chain=Chain(), numbers=(1e20,) * 20_000), "more than the limit of 262144"),
    ],
)
def test_what_fits_a_cloudevent_and_not_nestjs_packet_is_refused_where_it_leaves_by_it(
    event: Nested, what: str
) -> None:
    envelope, (before, after) = published(event, Envelope.of)

    with pytest.raises(PublishError, match=what):
        RedisPubSub("redis://localhost:1").check(envelope, before + after)


async def test_a_service_on_nestjs_transport_asks_it_when_it_publishes() -> None:
    transport = RedisPubSub("redis://127.0.0.1:1")
    service = Service("shop", transport=transport, publishes=[Nested])
    async with service, service.transaction() as tx:
        with pytest.raises(PublishError, match="nested deeper") as caught:
            await tx.publish(Nested(chain=_Deep.chain(29)))
        await tx.publish(Nested(chain=_Deep.chain(20)))
    assert caught.value.path == "$"


# --- I5: keys -------------------------------------------------------------------------------------------------------

KEYS: Sequence[tuple[Any, Any, str]] = [
    (Colour, Colour.RED, "red"),
    (Mood, Mood.CALM, "calm"),
    (Size, Size.SMALL, "1"),
    (str, Text("a"), "a"),
    (int, Whole(7), "7"),
    (bool, True, "true"),
    (float, 1, "1.0"),
    (UUID, UUID(int=3), "00000000-0000-0000-0000-000000000003"),
    (UUID, uuid_utils.UUID(int=3), "00000000-0000-0000-0000-000000000003"),
    (datetime, datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
    (date, date(2026, 1, 2), "2026-01-02"),
    (Decimal, Decimal("1.50"), "1.50"),
    (bytes, b"x", "eA=="),
    (str, 'a"\\ñ', 'a"\\ñ'),
    (tuple[int, str], (1, "a"), '[1,"a"]'),
]


@pytest.mark.parametrize(("of_type", "value", "text"), KEYS, ids=range(len(KEYS)))
def test_a_keys_text_is_what_the_payload_says(of_type: Any, value: Any, text: str) -> None:
    words = {"name": "refused.keyed", "version": 1, "source": "shop", "key": "k"}
    body = {"__annotations__": {"k": of_type}, "__module__": __name__}
    cls: Any = types.new_class("Keyed", (IntegrationEvent,), words, lambda namespace: namespace.update(body))
    event = cls(k=value)

    envelope, (before, after) = published(event, Envelope.of)

    assert envelope.key == text
    data = (before + after).partition(b'"data":')[2][:-1]
    read = decode(data, cls)
    assert key_of(read, describe(cls)) == text  # what a service derives that is told no key, as by NestJS


def test_a_domain_event_may_have_a_key_that_json_cannot_say() -> None:
    class Filed(DomainEvent, name="refused.filed", key="path"):
        path: Path

    assert Envelope.of(Filed(path=Path("/a/b"))).key == "/a/b"


class Picky:
    """A transport that cannot write one event, and then sends none of the batch."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def publish(self, lane: Lane, batch: Sequence[Envelope]) -> Sequence[BrokerId]:
        if any(one.key == "bad" for one in batch):
            raise PublishError("it cannot be said here")
        self.sent += [one.key or "" for one in batch]
        return [BrokerId(one.id) for one in batch]


async def test_what_a_transport_cannot_say_takes_no_other_event_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_lane(_: Envelope) -> Lane:
        return Lane(0)

    monkeypatch.setattr("cauce.delivery.volatile.queue.lane_of", one_lane)
    transport: Any = Picky()
    lost: list[Envelope] = []
    queue = AfterCommitQueue(
        transport=transport, run_listeners=_nobody, lost=lost.extend, count=lambda _: None, bound=100
    )
    queue.open()
    queue.accept(ToSend(Envelope.of(Counted(at=key, value=1.0)), (b"{}", b"")) for key in ("a", "bad", "b", "c"))
    loop = asyncio.get_running_loop().create_task(queue.run())
    await until(lambda: not queue.unfinished)
    loop.cancel()
    assert transport.sent == ["a", "b", "c"]
    assert [one.key for one in lost] == ["bad"]


async def _nobody(due: AfterCommit) -> None: ...
