"""The NestJS packets: written to the byte, read with forgiveness, refused with a sentence."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from cauce import IntegrationEvent
from cauce.errors import PublishError
from cauce.events.envelope import Envelope
from cauce.formats.nestjs import (
    MAX_DEPTH,
    MAX_SIZE,
    Packet,
    Pattern,
    channel_of,
    encode,
    json_text,
    read,
    reply_to,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

EMITTED: dict[str, list[dict[str, str]]] = json.loads((Path(__file__).parent / "nest_emissions.json").read_text())[
    "published"
]
NAME = "com.clonespotify.accounts.users.integration.user-created"
ARTICLE_NAME = "com.clonespotify.accounts.users.integration.user-updated"
NOW = datetime(2026, 11, 24, 6, 46, 18, 914000, tzinfo=UTC)


class UserCreated(
    IntegrationEvent, name=NAME, version=1, key="id", source="accounts-ms", earlier_names=(ARTICLE_NAME,)
):
    id: str
    username: str
    email: str


class Song(msgspec.Struct, frozen=True, rename="camel"):
    song_title: str
    length_s: float
    added_on: datetime


class Listened(IntegrationEvent, name="music.listened", version=3, source="music-discovery-ms", rename="camel"):
    user_id: str
    songs: tuple[Song, ...]
    device: str | None = None


JOHN = UserCreated(id="12345678-1234-1234-1234-123456789abc", username="john_doe", email="john.doe@example.com")


def an_envelope(**changes: Any) -> Envelope:
    made = Envelope.of(JOHN, id="061b4f14-295d-40b8-aa74-dd4aa8a248bf", occurred_on=NOW)
    return msgspec.structs.replace(made, **changes)


def heard(data: object, **options: Any) -> Packet:
    raw = data if isinstance(data, bytes) else json.dumps({"pattern": NAME, "data": data}).encode()
    return read(raw, name=options.pop("name", NAME), clock=lambda: NOW, make_id=lambda: "made-here", **options)


def event_of(packet: Packet) -> Envelope:
    assert packet.envelope is not None, packet.problem
    return packet.envelope


def typed(event: Envelope) -> UserCreated:
    assert isinstance(event.payload, Raw)
    return msgspec.json.decode(event.payload, type=UserCreated)


def payload_of(packet: Packet) -> Any:
    payload = event_of(packet).payload
    assert isinstance(payload, Raw)
    return json.loads(bytes(payload))


ARTICLE_SHAPE: dict[str, Any] = {
    "service": "accounts-ms",
    "name": ARTICLE_NAME,
    "payload": {"id": "1"},
    "id": "061b4f14",
    "occurredOn": "2026-11-24T06:46:18.914Z",
}


# --- writing --------------------------------------------------------------------------------------------------


def test_an_event_is_written_byte_for_byte_as_nestjs_wrote_it() -> None:
    [recorded] = EMITTED["emit_seed_event"]

    assert encode(an_envelope(), pattern=ARTICLE_NAME) == recorded["payload"].encode()
    assert channel_of(ARTICLE_NAME) == recorded["channel"]


@pytest.mark.parametrize("case", [case for case, packets in EMITTED.items() if packets])
def test_every_recorded_emission_is_reproduced_from_its_values(case: str) -> None:
    [recorded] = EMITTED[case]
    packet = json.loads(recorded["payload"])

    assert json_text(packet) == recorded["payload"]
    assert channel_of(packet["pattern"]) == recorded["channel"]


def test_an_object_pattern_has_sorted_keys_in_the_channel_and_its_own_order_in_the_body() -> None:
    pattern: Pattern = {"service": "a", "cmd": "b", "n": 1}

    written = encode(an_envelope(), pattern=pattern)

    assert channel_of(pattern) == '{"cmd":"b","n":1,"service":"a"}'
    assert written.startswith(b'{"pattern":{"service":"a","cmd":"b","n":1},"data":{"service":"accounts-ms",')
    assert f'"name":"{NAME}"'.encode() in written


@pytest.mark.parametrize(
    ("pattern", "channel"),
    [
        (7, "7"),
        (5.0, "5"),
        ({}, "{}"),
        ({"a": True, "b": None}, '{"a":true,"b":null}'),
        ({"cmd": {"z": 1, "y": "x"}}, '{"cmd":{"y":"x","z":1}}'),
        ({"list": ["x", 2]}, '{"list":{"0":"x","1":2}}'),
        ({"b": 1, "B": 2, "a": 3, "_": 4, "1": 5}, '{"_":4,"1":5,"a":3,"b":1,"B":2}'),
    ],
)
def test_other_patterns_become_channels_as_in_nestjs(pattern: Pattern, channel: str) -> None:
    assert channel_of(pattern) == channel


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        float("nan"),
        {"quote": 'a"b'},
        {"back\\slash": 1},
        {"ñ": 1},
        dict.fromkeys((str(number) for number in range(21)), 1),
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
    ],
)
def test_patterns_that_nestjs_versions_read_differently_are_refused(pattern: Pattern) -> None:
    with pytest.raises(ValueError, match="NestJS"):
        channel_of(pattern)


def test_what_the_article_does_not_have_follows_and_only_if_it_says_something() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    written = encode(
        an_envelope(version=2, correlation_id="first", causation_id="cause", traceparent=trace, tracestate="a=1")
    )

    assert written.endswith(
        b'"occurredOn":"2026-11-24T06:46:18.914Z","version":2,"correlationId":"first","causationId":"cause",'
        b'"traceparent":"' + trace.encode() + b'","tracestate":"a=1"}}'
    )
    assert b"version" not in encode(an_envelope())


def test_a_payload_is_written_with_its_wire_names_and_javascript_values() -> None:
    paris = timezone(timedelta(hours=2))
    songs = (Song("Ñandú 日本 😀", 5.0, datetime(2026, 7, 1, 12, 0, 0, 123999, paris)), Song("b", 1e21, NOW))
    written = encode(Envelope.of(Listened(user_id="u", songs=songs), id="1", occurred_on=NOW))

    assert (
        '"payload":{"userId":"u","songs":['
        '{"songTitle":"Ñandú 日本 😀","lengthS":5,"addedOn":"2026-07-01T10:00:00.123Z"},'
        '{"songTitle":"b","lengthS":1e+21,"addedOn":"2026-11-24T06:46:18.914Z"}],"device":null}'
    ) in written.decode()


def test_an_event_beyond_the_limits_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PublishError, match="more than the limit of 262144"):
        encode(an_envelope(payload=UserCreated(id="1", username="x" * MAX_SIZE, email="")))


def test_a_lone_surrogate_is_written_as_v8_does_and_read_as_the_replacement_character() -> None:
    written = encode(an_envelope(payload=UserCreated(id="1", username="cut \ud83d", email="\ud83d\ude00")))

    assert b'"username":"cut \\ud83d","email":"\xf0\x9f\x98\x80"' in written
    assert payload_of(heard(written)) == {"id": "1", "username": "cut \ufffd", "email": "😀"}


# --- reading --------------------------------------------------------------------------------------------------


def test_what_a_nestjs_service_emitted_is_an_event() -> None:
    [recorded] = EMITTED["emit_seed_event"]

    event = event_of(heard(recorded["payload"].encode(), name=ARTICLE_NAME))

    assert (event.id, event.source, event.name) == (
        "061b4f14-295d-40b8-aa74-dd4aa8a248bf",
        "accounts-ms",
        ARTICLE_NAME,
    )
    assert (event.version, event.occurred_on, event.correlation_id) == (1, NOW, event.id)
    assert typed(event) == JOHN


@given(
    username=st.text(),
    version=st.integers(1, 9),
    ids=st.tuples(*[st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=128)] * 3),
    occurred_on=st.datetimes(timezones=st.just(UTC)),
)
def test_what_is_written_is_read_back(
    username: str, version: int, ids: tuple[str, str, str], occurred_on: datetime
) -> None:
    event_id, correlation_id, causation_id = ids
    sent = an_envelope(
        payload=UserCreated(id="1", username=username, email=""),
        id=event_id,
        correlation_id=correlation_id,
        causation_id=causation_id,
        version=version,
        occurred_on=occurred_on.replace(microsecond=occurred_on.microsecond // 1000 * 1000),
    )

    got = event_of(heard(encode(sent)))

    assert msgspec.structs.replace(got, payload=sent.payload, key="x") == msgspec.structs.replace(sent, key="x")
    assert typed(got) == sent.payload


def test_a_raw_packet_without_pattern_and_data_is_all_data_as_in_nestjs() -> None:
    assert event_of(heard(json.dumps(ARTICLE_SHAPE).encode())).id == "061b4f14"
    assert payload_of(heard(b'{"raw":true,"id":"mine"}')) == {"raw": True, "id": "mine"}


def test_a_packet_may_lack_its_pattern() -> None:
    assert event_of(heard(json.dumps({"data": ARTICLE_SHAPE}).encode())).id == "061b4f14"


def test_data_without_the_articles_shape_is_the_payload() -> None:
    packet = heard({"username": "john", "version": "of the user"})

    assert payload_of(packet) == {"username": "john", "version": "of the user"}
    event = event_of(packet)
    assert (event.id, event.source, event.name, event.occurred_on) == ("made-here", "unknown", NAME, NOW)
    assert packet.headers == {"assumed": "id,occurredOn"}


def test_an_event_without_payload_is_not_taken_for_a_payload() -> None:
    assert heard({key: ARTICLE_SHAPE[key] for key in ("service", "id")}).problem == "the event has no payload"


@pytest.mark.parametrize(
    ("occurred_on", "meant"),
    [
        ("2026-11-24T06:46:18.914Z", NOW),
        ("2026-11-24T08:46:18.914+02:00", NOW),
        ("2026-11-24T06:46:18.914", NOW),
        (NOW.timestamp() * 1000, NOW),
        (int(NOW.timestamp() * 1000), NOW),
    ],
)
def test_times_are_read_in_the_forms_javascript_gives_them(occurred_on: object, meant: datetime) -> None:
    packet = heard(ARTICLE_SHAPE | {"occurredOn": occurred_on})

    assert event_of(packet).occurred_on == meant
    assert not packet.headers


@pytest.mark.parametrize("odd", [None, "yesterday", True, {}, [], 1e300, "", -1e18])
def test_an_unreadable_time_is_the_time_of_arrival(odd: object) -> None:
    packet = heard(ARTICLE_SHAPE | {"occurredOn": odd})

    assert event_of(packet).occurred_on == NOW
    assert packet.headers == {"assumed": "occurredOn"}


@pytest.mark.parametrize(("id_", "read_as"), [("x" * 128, "x" * 128), (42, "42"), ("ñ 😀", "ñ 😀")])
def test_ids_are_opaque(id_: object, read_as: str) -> None:
    assert event_of(heard(ARTICLE_SHAPE | {"id": id_})).id == read_as


def test_a_missing_id_is_made_here() -> None:
    packet = heard(ARTICLE_SHAPE | {"id": None})

    assert event_of(packet).id == "made-here"
    assert packet.headers == {"assumed": "id"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": "x" * 129}, "the event's id has 129 characters, expected 1 to 128"),
        ({"id": ""}, "the event's id has 0 characters, expected 1 to 128"),
        ({"id": "a\nb"}, "the event's id has control characters"),
        ({"id": "a\u2028b"}, "the event's id has control characters"),
        ({"id": {}}, "the event's id is neither a text nor a whole number"),
        ({"id": 1.5}, "the event's id is neither a text nor a whole number"),
        ({"version": "2"}, "the event's version is not a whole number from 1"),
        ({"version": 0}, "the event's version is not a whole number from 1"),
        ({"version": None}, "the event's version is not a whole number from 1"),
        ({"payload": "text"}, "the payload is a text, expected an object"),
        ({"payload": None}, "the payload is null, expected an object"),
        ({"payload": [1]}, "the payload is an array, expected an object"),
    ],
)
def test_what_cannot_be_an_event_is_said(changes: dict[str, object], problem: str) -> None:
    packet = heard(ARTICLE_SHAPE | changes)

    assert packet.envelope is None
    assert packet.problem == problem


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"not json", "not JSON"),
        (b"", "not JSON"),
        (b"\x80\x04\x95", "not UTF-8"),
        (b"null", "the data is null, an event is an object"),
        (b'"hola"', "the data is a text, an event is an object"),
        (b"[1,2]", "the data is an array, an event is an object"),
        (b'{"pattern":"p","data":7}', "the data is a number, an event is an object"),
        (b'{"pattern":"p","data":false}', "the data is false, an event is an object"),
        (b'{"pattern":"p"}', "the packet has no data"),
        (b'{"data":{"payload":{"a":NaN}}}', "not JSON"),
        (
            b'{"data":{"payload":{"a":1,"a":2}}}',
            "a key is there twice in one object, and parsers disagree on which one counts",
        ),
        (b" " * (MAX_SIZE + 1), "262145 bytes are more than the limit of 262144"),
        (b'{"data":' + b"[" * 100_000, "nested deeper than the limit of 32"),
        (b'{"data":{"payload":{"a":' + b"9" * 5000 + b"}}}", None),
    ],
)
def test_raw_packets_that_are_no_events_are_said_without_repeating_them(raw: bytes, problem: str | None) -> None:
    assert heard(raw).problem == problem


def test_depth_is_counted_outside_of_texts() -> None:
    nested = {"text": "[" * 100 + '\\"{'}
    for _ in range(MAX_DEPTH - 4):
        nested = {"deeper": nested}

    assert heard(ARTICLE_SHAPE | {"payload": nested}).problem is None
    assert "nested deeper" in (heard(ARTICLE_SHAPE | {"payload": {"one": {"more": nested}}}).problem or "")


brackets = st.recursive(
    st.sampled_from(['"[[[["', '"\\\\"', '"\\""', "1", "[]", "{}"]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2).map(lambda items: f"[{','.join(items)}]")
        | inner.map(lambda item: f'{{"{{":{item}}}')
    ),
)


@given(inside=brackets, levels=st.integers(0, 40))
def test_depth_is_that_of_the_deepest_place(inside: str, levels: int) -> None:
    packet = "[" * levels + inside + "]" * levels

    problem = heard(packet.encode()).problem or ""

    assert problem.startswith("nested deeper") == (depth_of(json.loads(packet)) > MAX_DEPTH)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, cast("dict[str, object]", value).values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, cast("list[object]", value)), default=0)
    return 0


def test_the_channel_names_the_event_as_nestjs_routes_by_it() -> None:
    assert event_of(heard(ARTICLE_SHAPE, name="the.channel")).name == "the.channel"
    assert event_of(heard(ARTICLE_SHAPE, name=None)).name == ARTICLE_NAME
    assert heard({"service": "s", "payload": {}}, name=None).problem == (
        "the event has no name, and its channel stands for none"
    )


def test_conversation_and_trace_are_read_if_they_are_well_formed() -> None:
    good = {
        "correlationId": "conversation",
        "causationId": "cause",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=1",
    }
    event = event_of(heard(ARTICLE_SHAPE | good))
    assert (event.correlation_id, event.causation_id) == ("conversation", "cause")
    assert (event.traceparent, event.tracestate) == (good["traceparent"], "a=1")

    odd = dict.fromkeys(good, "x\r\ny: z")
    event = event_of(heard(ARTICLE_SHAPE | odd | {"service": "s\r\n"}))
    assert (event.correlation_id, event.causation_id) == (event.id, None)
    assert (event.traceparent, event.tracestate, event.source) == (None, None, "unknown")


@pytest.mark.parametrize("request_id", ['"dG9rZW4tb2YtMjEtaGV4"', "7", '"\\u00f1 \\" "'])
def test_an_outer_id_makes_it_a_request_that_is_answered_with_the_same_id(request_id: str) -> None:
    raw = f'{{"pattern":"p","data":{json.dumps(ARTICLE_SHAPE)},"id": {request_id} }}'.encode()

    packet = heard(raw)

    assert event_of(packet).id == "061b4f14"
    assert packet.request_id is not None
    answer = json.loads(reply_to(packet.request_id))
    assert answer == {"isDisposed": True, "id": json.loads(request_id)}
    assert reply_to(packet.request_id).startswith(b'{"isDisposed":true,"id":')


def test_a_request_that_is_no_event_can_be_answered_too() -> None:
    packet = heard(b'{"pattern":"p","data":7,"id":"abc"}')

    assert packet.problem is not None
    assert packet.request_id == b'"abc"'


@given(raw=st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(raw: bytes) -> None:
    packet = read(raw, name=NAME)
    assert (packet.envelope is None) == (packet.problem is not None)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
nearly_events = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        [*ARTICLE_SHAPE, "version", "correlationId", "causationId", "traceparent", "tracestate"],
        plain | st.just(dict[str, Any]()),
    ),
)


@given(packet=st.fixed_dictionaries({}, optional={"pattern": plain, "data": nearly_events | plain, "id": plain}))
def test_whatever_stands_in_the_fields_never_raises(packet: dict[str, Any]) -> None:
    got = read(json.dumps(packet).encode(), name=NAME)

    assert (got.envelope is None) == (got.problem is not None)
    if got.envelope is not None:
        encode(got.envelope)  # what was accepted can be passed on


@given(raw=st.binary(max_size=60), at=st.integers(0, 400))
def test_a_damaged_packet_never_raises(raw: bytes, at: int) -> None:
    whole = encode(an_envelope())
    read(whole[:at] + raw + whole[at + len(raw) :], name=NAME)
