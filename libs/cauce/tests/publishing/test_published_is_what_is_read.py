"""Whatever class and whatever values: refused when the class is made, refused by `publish`, or read as an equal event."""

import enum
import json
import types
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import uuid_utils
from cauce import DefinitionError, IntegrationEvent, PublishError
from cauce.events import envelope as envelopes
from cauce.events import plain as plain_data
from cauce.events.envelope import Envelope, key_of
from cauce.events.event import describe
from cauce.formats import nestjs
from cauce.formats.cloudevents import from_json, numbered
from cauce.formats.decoding import decode
from cauce.formats.publication import published
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Leaf(Struct, frozen=True, rename="camel"):
    the_number: float = 0.0
    at: datetime | None = None


class Tagged(Struct, frozen=True, tag=True):
    x: int


class Other(Struct, frozen=True, tag=True):
    x: Decimal


class Row(Struct, frozen=True, array_like=True, eq=False):
    a: int
    b: float


@dataclass(frozen=True)
class Record:
    when: date
    raw: bytes = b""


class Pair(NamedTuple):
    left: int
    right: UUID


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "?"


class Whole(int): ...


class Moment(datetime):
    """As freezegun's: its class methods make its own kind again."""


SCALARS: Sequence[Any] = [
    str, int, float, bool, bytes, datetime, date, time, timedelta, Decimal, UUID, Colour, Size, Leaf, Tagged, Row, Record,
    Pair, Literal["a", 1], Annotated[int, Meta(ge=0, le=9)], Annotated[str, Meta(max_length=3)],
    Annotated[datetime, Meta(tz=True)], Tagged | Other, type(None), Path, complex,
]  # fmt: skip


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda one: tuple[one, ...]),
        inner.map(lambda one: frozenset[one]),
        st.tuples(inner, inner).map(lambda pair: tuple[pair[0], pair[1]]),
        st.tuples(inner, inner).map(_either),
        inner.map(lambda one: _either((one, None))),
    )


def _either(pair: tuple[Any, Any]) -> Any:
    return Union[pair]  # noqa: UP007  # of values, not of names


annotations = st.recursive(st.sampled_from(SCALARS), _nested, max_leaves=4)

zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.sampled_from([ZoneInfo("Europe/London"), ZoneInfo("Australia/Lord_Howe"), timezone(timedelta(hours=14))]),
    st.integers(-86_000, 86_000).map(lambda s: timezone(timedelta(seconds=s))),
)
moments = st.datetimes(timezones=zones, allow_imaginary=True)
texts = st.one_of(st.text(max_size=4), st.sampled_from(["\ud800", "a\nb", "a\x00b", "k" * 300, "red", "a", "nan"]))
scalars: st.SearchStrategy[Any] = st.one_of(
    texts,
    texts.map(Text),
    st.integers(),
    st.integers(-3, 3).map(Whole),
    st.sampled_from([2**53 + 1, 2**63, 2**64, -(2**70)]),
    st.floats(),
    st.booleans(),
    st.binary(max_size=3),
    st.binary(max_size=3).map(bytearray),
    moments,
    moments.map(lambda m: Moment.combine(m.date(), m.timetz())),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.uuids().map(lambda one: uuid_utils.UUID(int=one.int)),
    st.sampled_from([Colour.RED, Size.SMALL, None, Path("a"), 1j, object(), float, len]),
    st.builds(Leaf, the_number=st.floats(), at=st.one_of(st.none(), moments)),
    st.builds(Tagged, x=st.one_of(st.integers(), st.booleans(), texts)),
    st.builds(Other, x=st.one_of(st.decimals(), st.floats())),
    st.builds(Row, a=st.integers(), b=st.one_of(st.floats(), st.integers())),
    st.builds(Record, when=st.one_of(st.dates(), moments), raw=st.binary(max_size=2)),
    st.builds(
        Pair, left=st.integers(), right=st.one_of(st.uuids(), st.uuids().map(lambda u: uuid_utils.UUID(int=u.int)))
    ),
)


def _hashable(thing: Any) -> bool:
    try:
        hash(thing)
    except TypeError:
        return False
    return True


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner.filter(_hashable), max_size=3).map(frozenset),
        st.dictionaries(texts, inner, max_size=2),
    ),
    max_leaves=4,
)


def _value_for(annotation: Any) -> st.SearchStrategy[Any]:
    """Mostly what the class asks for; anything at all now and then."""
    try:
        fitting = st.from_type(annotation)
    except Exception:
        return values
    return st.one_of(fitting, values)


def made(annotation: Any) -> Any:
    words = {"name": "read.any", "version": 1, "source": "shop", "key": "key"}
    body = {"__annotations__": {"key": annotation, "value": annotation}, "__module__": __name__}
    return types.new_class("Any", (IntegrationEvent,), words, lambda namespace: namespace.update(body))


def equal(said: Any, read: Any) -> bool:
    """Whether a reader has what was said. Written here anew, to judge the product by."""
    if isinstance(read, Struct) or hasattr(read, "__dataclass_fields__"):
        names = read.__struct_fields__ if isinstance(read, Struct) else tuple(read.__dataclass_fields__)
        return type(said) is type(read) and all(equal(getattr(said, one), getattr(read, one)) for one in names)
    if isinstance(read, tuple):
        items = cast("tuple[Any, ...]", read)
        return (
            isinstance(said, (tuple, list))
            and len(cast(Any, said)) == len(items)
            and all(map(equal, cast(Any, said), items))
        )
    if isinstance(read, frozenset):
        members = cast("frozenset[Any]", read)
        return (
            said is not None
            and len(said) == len(members)
            and all(any(equal(one, other) for other in members) for one in said)
        )
    if isinstance(read, UUID):
        return said.int == read.int
    if isinstance(read, datetime) and read.tzinfo is not None:
        there = said.replace(tzinfo=timezone(said.utcoffset()))
        return bool(there - read == timedelta())
    if isinstance(read, bool) or isinstance(said, bool):
        return said is read
    return bool(said == read)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_an_event_is_refused_or_read_as_it_was_published(data: st.DataObject) -> None:
    annotation = data.draw(annotations)
    try:
        cls = made(annotation)
    except DefinitionError:
        return
    event: Any = cls(key=data.draw(_value_for(annotation)), value=data.draw(_value_for(annotation)))
    try:
        sent, around = published(event, Envelope.of)
    except PublishError as error:
        assert (error.path or "").startswith("$")  # noqa: PT017  # either of the two is right
        return

    received = from_json(numbered(around, 7 if sent.key is not None else None, "database"))
    read = decode(cast(Any, received.payload), cls)
    assert equal(event, read), (annotation, event, read)
    assert received.key == sent.key
    if "frozenset" not in str(annotation):  # members of several types have no order; those of one type: see below
        assert received.key == key_of(read, describe(cls))

    packet = nestjs.read(nestjs.encode(sent), name="read.any")  # as NestJS's peers, and a bridge, have it
    assert packet.envelope is not None, packet.problem
    decode(cast(Any, packet.envelope.payload), cls)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_what_is_right_is_never_refused(data: st.DataObject) -> None:
    """Values that the class asks for, as the standard library makes them."""

    class Right(IntegrationEvent, name="read.right", version=1, source="shop"):
        text: str
        number: int
        real: float
        exact: Decimal
        at: datetime
        day: date
        clock: time
        span: timedelta
        id: UUID
        raw: bytes
        colour: Colour
        leaf: Leaf
        record: Record
        pair: Pair
        rows: tuple[Row, ...]
        words: frozenset[str]
        either: Tagged | Other | None

    real = st.floats(allow_nan=False, allow_infinity=False)
    event = data.draw(
        st.builds(
            Right,
            text=st.text(st.characters(exclude_categories=["Cs"])),
            words=st.frozensets(st.text(st.characters(exclude_categories=["Cs"]))),
            number=st.integers(),
            real=real,
            exact=st.decimals(allow_nan=False),
            at=st.datetimes(timezones=st.one_of(st.none(), st.just(UTC), st.just(timezone(timedelta(hours=-11))))),
            day=st.dates(),
            clock=st.times(),
            span=st.timedeltas(),
            id=st.uuids(),
            raw=st.binary(),
            colour=st.just(Colour.RED),
            leaf=st.builds(Leaf, the_number=real, at=st.none()),
            record=st.builds(Record, when=st.dates(), raw=st.binary()),
            pair=st.builds(Pair, left=st.integers(), right=st.uuids()),
            rows=st.lists(st.builds(Row, a=st.integers(), b=real), max_size=3).map(tuple),
            either=st.one_of(
                st.none(),
                st.builds(Tagged, x=st.integers()),
                st.builds(Other, x=st.decimals(allow_nan=False, allow_infinity=False)),
            ),
        )
    )

    _, (before, after) = published(event, Envelope.of)

    assert equal(event, decode((before + after).partition(b'"data":')[2][:-1], Right))


class Seen(IntegrationEvent, name="read.seen", version=1, source="shop", key="at"):
    at: datetime
    day: date


def test_time_may_stand_still_as_freezegun_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It puts classes of its own in the place of every `datetime` and `date` that a module imported."""

    class FakeDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "FakeDatetime":
            return cls(2026, 1, 1, tzinfo=tz)

    class FakeDate(date): ...

    for module in (plain_data, envelopes):
        monkeypatch.setattr(module, "datetime", FakeDatetime)
    monkeypatch.setattr(plain_data, "date", FakeDate)

    envelope, around = published(Seen(at=FakeDatetime.now(UTC), day=FakeDate(2026, 1, 1)), Envelope.of)

    assert type(envelope.occurred_on) is FakeDatetime
    received = from_json(numbered(around, 1, "database"))
    assert received.key == "2026-01-01T00:00:00Z"
    assert received.occurred_on == datetime(2026, 1, 1, tzinfo=UTC)


def test_many_values_in_a_set_are_compared_in_a_moment() -> None:
    class Many(IntegrationEvent, name="read.many", version=1, source="shop"):
        ids: frozenset[UUID]

    event: Any = Many(ids=frozenset(uuid_utils.UUID(int=number) for number in range(5_000)))  # pyright: ignore[reportArgumentType]

    assert published(event, Envelope.of)[0].payload is event


def test_a_set_as_a_key_has_one_text_in_every_process() -> None:
    cls = made(frozenset[str])
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    sent, _ = published(cls(key=frozenset(letters), value=frozenset[str]()), Envelope.of)
    assert sent.key == json.dumps(letters, separators=(",", ":"))
