"""What arrives from a broker is data: whatever it is, it is read or refused, quickly, with nothing but a DecodeError."""

import asyncio
import json
import logging
import pickle  # noqa: TID251  # as an attacker would
import random
import resource
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from cauce import IntegrationEvent, Service, on
from cauce.dev.servers import ValkeyServer
from cauce.errors import DecodeError, PublishError
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import (
    MAX_DEPTH,
    MAX_KEY_LENGTH,
    MAX_MESSAGE_BYTES,
    from_json,
    outgoing,
    read_of_topic,
    to_json,
)
from cauce.ports.lanes import LANES, Lane, lane_of
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from cauce.transports.redis_streams import RedisStreams
from redis.asyncio import Redis


def envelope(**changes: Any) -> Envelope:
    fields: dict[str, Any] = {
        "id": "event-1",
        "source": "accounts-ms",
        "name": "accounts.user-created",
        "version": 1,
        "occurred_on": datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC),
        "payload": msgspec.Raw(b'{"id":"1","username":"ana"}'),
        "correlation_id": "event-0",
    }
    return Envelope(**(fields | changes))


def document(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "specversion": "1.0",
        "id": "event-1",
        "source": "accounts-ms",
        "type": "accounts.user-created",
        "time": "2026-11-24T12:00:00Z",
        "data": {"id": "1"},
    }
    return fields | changes


def refused(raw: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as raised:
        from_json(raw)
    return raised.value


class Explodes:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (print, ("executed",))


# --- what is ours -----------------------------------------------------------------------------------------------


def test_an_envelope_survives_the_journey() -> None:
    before = envelope(
        key="42", key_seq=7, incarnation="db-1", causation_id="event-0", traceparent="00-aa-bb-01", tracestate="a=b"
    )
    after = from_json(to_json(before))

    assert msgspec.structs.replace(after, payload=before.payload) == before
    assert bytes(after.payload) == b'{"id":"1","username":"ana"}'  # pyright: ignore[reportArgumentType]  # it is Raw
    assert from_json(to_json(after)) == msgspec.structs.replace(after, payload=from_json(to_json(after)).payload)


def test_a_time_with_another_zone_is_the_same_moment_in_utc() -> None:
    raw = json.dumps(document(time="2026-11-24T13:00:00+01:00")).encode()
    assert from_json(raw).occurred_on == datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert from_json(raw).occurred_on.tzinfo is UTC


def test_attributes_we_do_not_know_are_no_reason_to_refuse() -> None:
    assert from_json(json.dumps(document(subject="x", theirs=1)).encode()).id == "event-1"


def test_what_no_service_could_read_is_not_published() -> None:
    assert from_json(outgoing(envelope())).id == "event-1"
    for changes, what in (
        ({"payload": msgspec.Raw(b'"' + b"x" * MAX_MESSAGE_BYTES + b'"')}, str(MAX_MESSAGE_BYTES)),
        ({"key": "k" * (MAX_KEY_LENGTH + 1)}, "partitionkey"),
        ({"key": "a\x00b"}, "control characters"),
        ({"name": ""}, "type"),
        ({"source": "s" * 200}, "source"),
        ({"payload": msgspec.Raw(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))}, "nesting"),
    ):
        with pytest.raises(PublishError, match=what):
            outgoing(envelope(**changes))


def test_a_topic_is_for_one_service() -> None:
    raw = to_json(envelope())
    assert read_of_topic(raw, "accounts-ms").envelope is not None
    elsewhere = read_of_topic(raw, "music-ms")
    assert (elsewhere.envelope, elsewhere.foreign) == (None, True)
    assert "accounts-ms" in (elsewhere.problem or "")


# --- what is not ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"specversion": "0.3"}, "$.specversion"),
        ({"id": ""}, "$.id"),
        ({"id": "x" * 129}, "$.id"),
        ({"id": 7}, "$.id"),
        ({"id": "a\u0000b"}, "$"),
        ({"partitionkey": "a\u009fb"}, "$"),
        ({"type": "a\x7fb"}, "$"),
        ({"source": "x" * 129}, "$.source"),
        ({"type": "x" * 257}, "$.type"),
        ({"time": "yesterday"}, "$.time"),
        ({"time": "0001-01-01T00:00:00+23:00"}, "$.time"),
        ({"time": 7}, "$.time"),
        ({"eventversion": 0}, "$.eventversion"),
        ({"eventversion": 10**30}, "$.eventversion"),
        ({"eventversion": True}, "$.eventversion"),
        ({"sequence": "-1"}, "$.sequence"),
        ({"sequence": "\u0661"}, "$.sequence"),
        ({"sequence": "9" * 19}, "$.sequence"),
        ({"sequence": ""}, "$.sequence"),
        ({"correlationid": "x" * 129}, "$.correlationid"),
        ({"tracestate": "x" * 2000}, "$.tracestate"),
    ],
)
def test_an_attribute_that_no_database_could_hold_is_refused(changes: dict[str, object], path: str) -> None:
    assert refused(json.dumps(document(**changes)).encode()).path == path


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type", "time", "data"])
def test_a_missing_attribute_is_refused(missing: str) -> None:
    fields = document()
    del fields[missing]
    assert missing in refused(json.dumps(fields).encode()).expectation


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    refused(json.dumps(document()).replace('"1"}', number + "}").encode())


@pytest.mark.parametrize(
    "twice",
    [
        '"id": "event-2"',
        '"i\\u0064": "event-2"',  # another spelling of the same name
        '"extension": {"a": 1, "a": 2}',
        '"data": {"id": "2"}',
    ],
)
def test_a_name_given_twice_in_one_object_is_refused(twice: str) -> None:
    raw = json.dumps(document())[:-1] + f", {twice}}}"
    assert "twice" in refused(raw.encode()).expectation


def test_a_name_twice_in_one_object_is_refused_and_the_same_name_in_two_is_not() -> None:
    for payload, count in (
        ('{"id":"1","id":"2"}', 1),
        ('[{"deep":{"a":1e5,"b":2,"a":1}}]', 1),
        ('[{"a":1},{"a":1}]', 0),
    ):
        raw = json.dumps(document(), separators=(",", ":")).replace('{"id":"1"}', payload).encode()
        if count:
            assert "twice" in refused(raw).expectation
        else:
            assert from_json(raw).id == "event-1"


def test_depth_counts_where_it_is_depth() -> None:
    deepest = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    for harmless in (deepest, json.dumps(["[" * 500, '\\"{{{{', "}" * 90] * 40), json.dumps([{}] * 500)):
        raw = json.dumps(document()).replace('{"id": "1"}', harmless).encode()
        assert from_json(raw).id == "event-1"
    too_deep = json.dumps(document()).replace('{"id": "1"}', f"[{deepest}]")
    assert "nesting" in refused(too_deep.encode()).expectation
    hidden = json.dumps(document()).replace('{"id": "1"}', '{"}":' * 40 + "1" + "}" * 40)
    assert "nesting" in refused(hidden.encode()).expectation


def test_huge_and_deep_messages_are_refused_without_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for raw in (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'"' + b'\\"' * 130_000,
        b"\\" * 262_000 + b"{" * 40,
        b"x" * 200_000_000,
        zlib.compress(b"0" * 50_000_000),
        b'{"specversion":"1.0","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ):
        refused(raw)
    del raw
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # the hostile bytes themselves


def test_ten_thousand_hostile_messages_raise_nothing_else() -> None:
    outcomes = {"read": 0, "refused": 0}
    longest = 0
    for raw in hostile_messages(10_000):
        try:
            read = from_json(raw)
        except DecodeError as error:
            outcomes["refused"] += 1
            longest = max(longest, len(str(error)))
        else:
            outcomes["read"] += 1
            from_json(outgoing(read))  # what was read can be stored and sent again
    assert longest < 500
    assert min(outcomes.values()) > 100


class UserCreated(IntegrationEvent, name="accounts.user-created", version=1, key="id", source="accounts-ms"):
    id: str
    username: str


async def test_hostile_stream_entries_are_put_aside_and_a_good_one_after_them_is_handled(
    valkey: ValkeyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    heard: list[str] = []

    @on(UserCreated, name="mailing.welcome")
    async def welcome(event: UserCreated) -> None:
        heard.append(event.id)

    hostile = [*hostile_messages(1_000), b"[" * 100_000, b'{"a":' * 50_000, b"x" * 1_000_000]
    keys, before = StreamKeys("cauce"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    redis: Any = cast("Any", Redis).from_url(valkey.url)  # half typed
    for number, raw in enumerate(hostile):
        await redis.xadd(keys.stream("accounts-ms", Lane(number % LANES)), {FIELD: raw})
    store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/mailing.sqlite"))
    transport = RedisStreams(valkey.url)
    async with Service("mailing", modules=[welcome], store=store, transport=transport, start="retained") as mailing:
        good = envelope(id="good", key="good", payload=msgspec.Raw(b'{"id":"good","username":"ana"}'))
        await transport.append("accounts-ms", lane_of(good), [to_json(good)])
        async with asyncio.timeout(120):
            while "good" not in heard or mailing.counters["received"] <= len(hostile):  # noqa: ASYNC110  # its loops
                await asyncio.sleep(0.05)
        await mailing.idle(limit_s=30)
        assert mailing.crash is None
        dead = await store.message_store().dead(limit=2_000)
    for lane in range(LANES):
        pending = await redis.xpending(keys.stream("accounts-ms", Lane(lane)), "mailing")
        assert pending["pending"] == 0
    await redis.aclose()

    assert len(dead) > 500
    assert {one.reason for one in dead} <= {"undecodable", "late", "wrong source"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def hostile_messages(count: int) -> Iterator[bytes]:
    """The same ones at every call."""
    chance = random.Random(3)
    good = to_json(envelope(key="42", key_seq=7, incarnation="db-1"))
    leaves: list[object] = [None, True, -1, 1e308, "", "x" * 300, "\u0000", "\ud800", [], {}, [[]] * 40, 10**40, "1.0"]
    names = [*document(), "eventversion", "partitionkey", "sequence", "incarnation", "correlationid", "traceparent"]
    makers: list[Callable[[], bytes]] = [
        lambda: pickle.dumps(Explodes()),
        lambda: pickle.dumps(document(), protocol=chance.randrange(6)),
        lambda: chance.randbytes(chance.randrange(400)),
        lambda: good[: chance.randrange(len(good))],
        lambda: _flipped(good, chance),
        lambda: _spliced(good, chance),
        lambda: json.dumps(document(**{chance.choice(names): chance.choice(leaves)})).encode(),
        lambda: json.dumps({chance.choice(names): chance.choice(leaves) for _ in range(chance.randrange(9))}).encode(),
        lambda: json.dumps([document()] * chance.randrange(3)).encode("utf-16"),
        lambda: json.dumps(chance.choice(leaves)).encode(),
        lambda: b'{"id":"1",' * chance.randrange(60) + good,
        lambda: zlib.compress(good),
    ]
    for number in range(count):
        yield makers[number % len(makers)]()


def _flipped(good: bytes, chance: random.Random) -> bytes:
    changed = bytearray(good)
    for _ in range(chance.randrange(1, 4)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _spliced(good: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(good))
    return good[:at] + chance.choice([b"\x00", b'"', b"}", b",", b"\\", b"\xff\xfe", b"\xed\xa0\x80"]) + good[at:]
