"""Gate C: real NestJS 10, 11 and 12 on the other side of the wire, both ways, byte for byte."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from cauce import Context, Envelope, IntegrationEvent, Service, on
from cauce.dev.servers import ValkeyServer
from cauce.formats.nestjs import Pattern, channel_of, encode
from cauce.ports.lanes import Lane
from cauce.transports.redis_pubsub import NestNames, RedisPubSub
from contracts.accounts import NEST_NAMES, UserCreated, UserDeleted
from redis.asyncio import Redis
from testsupport.nest_peers import NestPeer
from testsupport.waiting import until

ARTICLE_NAME = "com.clonespotify.accounts.users.integration.user-updated"
JOHN = UserCreated(id="12345678-1234-1234-1234-123456789abc", username="john_doe", email="john.doe@example.com")
JOHN_AS_SENT = {"id": JOHN.id, "username": JOHN.username, "email": JOHN.email}
AWKWARD = UserCreated(
    id="1", username='ñandú — 日本 — 😀 — <b>&"\\/ \u2028\u2029 \b\f\n\r\t\x00\x1f\x7f', email="cut off: \ud83d"
)
LANE = Lane(0)


class Mailing:
    """A service of ours that listens, as the article's mailing-ms does."""

    def __init__(self) -> None:
        self.heard: list[tuple[IntegrationEvent, Context]] = []

    @on(UserCreated)
    async def user_created(self, event: UserCreated, context: Context) -> None:
        self.heard.append((event, context))

    @on(UserDeleted)
    async def user_deleted(self, event: UserDeleted, context: Context) -> None:
        self.heard.append((event, context))


@asynccontextmanager
async def mailing(valkey: ValkeyServer, **options: Any) -> AsyncGenerator[tuple[Mailing, Service]]:
    listener = Mailing()
    service = Service("mailing-ms", modules=[listener], transport=RedisPubSub(valkey.url, **options))
    async with service:
        await until(lambda: not service.readiness(), what="mailing-ms is ready")
        yield listener, service


@asynccontextmanager
async def publishing(valkey: ValkeyServer, nest_names: NestNames = NEST_NAMES) -> AsyncGenerator[RedisPubSub]:
    transport = RedisPubSub(valkey.url, nest_names=nest_names)
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def wiretap(valkey: ValkeyServer, *channels: str) -> AsyncGenerator[Any]:
    """Call it for the next payload that goes over the channels, as bytes."""
    client: Any = cast("Any", Redis).from_url(valkey.url, protocol=2)
    tap = client.pubsub()
    await tap.subscribe(*channels)
    for _ in channels:
        await tap.get_message(timeout=10)

    async def next_payload() -> bytes:
        message = await tap.get_message(timeout=10, ignore_subscribe_messages=True)
        assert message is not None, "nothing was published"
        return message["data"]

    try:
        yield next_payload
    finally:
        await tap.aclose()
        await client.aclose()


async def subscribed(valkey: ValkeyServer, *channels: str, patterns: int = 0) -> None:
    """NestJS says that it listens before the server has acknowledged it."""
    client: Any = cast("Any", Redis).from_url(valkey.url, protocol=2)

    async def is_so() -> bool:
        counts = await client.pubsub_numsub(*channels) if channels else []
        return all(count for _, count in counts) and await client.pubsub_numpat() >= patterns

    try:
        await until(is_so, f"NestJS subscribes {channels}")
    finally:
        await client.aclose()


# --- NestJS speaks, we hear -----------------------------------------------------------------------------------


async def test_the_articles_event_is_heard_typed_and_with_its_circumstances(
    nest: NestPeer, valkey: ValkeyServer
) -> None:
    async with mailing(valkey) as (listener, _):
        sent = await nest.do("publishUserCreated", payload=JOHN_AS_SENT)
        await until(lambda: bool(listener.heard), "the event")

    [(event, context)] = listener.heard
    assert event == JOHN
    assert context.event_id == sent["id"]
    assert context.source == "accounts-ms"
    assert context.channel == ARTICLE_NAME
    assert context.envelope.occurred_on.isoformat(timespec="milliseconds") == sent["occurredOn"].replace("Z", "+00:00")
    assert (context.envelope.version, context.envelope.causation_id) == (1, None)


async def test_a_request_runs_the_listener_and_is_answered(nest: NestPeer, valkey: ValkeyServer) -> None:
    data = {"service": "accounts-ms", "name": ARTICLE_NAME, "payload": JOHN_AS_SENT, "id": "e-1"}
    async with mailing(valkey) as (listener, _):
        outcome = await nest.do("send", pattern=ARTICLE_NAME, data=data, limitMs=10_000)

    assert outcome == {"answers": []}  # done, with no value: what NestJS's own handler without a result gives
    assert [(event, context.event_id) for event, context in listener.heard] == [(JOHN, "e-1")]


async def test_a_request_that_is_no_event_is_answered_too(nest: NestPeer, valkey: ValkeyServer) -> None:
    async with mailing(valkey) as (listener, service):
        outcome = await nest.do("send", pattern=ARTICLE_NAME, data="hola", limitMs=10_000)

        assert outcome == {"answers": []}
        assert service.counters["refused"] == 1
    assert listener.heard == []


async def test_an_object_pattern_of_theirs_is_heard(nest: NestPeer, valkey: ValkeyServer) -> None:
    pattern: Pattern = {"service": "accounts", "cmd": "user-created", "n": 1}
    data = {"service": "accounts-ms", "name": "whatever", "payload": JOHN_AS_SENT, "id": "e-2"}
    async with mailing(valkey, nest_names={UserCreated: pattern}) as (listener, _):
        await nest.do("emit", pattern=pattern, data=data)
        await until(lambda: bool(listener.heard), "the event")

    [(event, context)] = listener.heard
    assert event == JOHN
    assert context.channel == '{"cmd":"user-created","n":1,"service":"accounts"}'
    assert context.name == "com.clonespotify.accounts.users.integration.user-created"


async def test_a_plain_object_is_heard_as_the_payload(nest: NestPeer, valkey: ValkeyServer) -> None:
    async with mailing(valkey) as (listener, _):
        await nest.do("emit", pattern=ARTICLE_NAME, data=JOHN_AS_SENT)
        await until(lambda: bool(listener.heard), "the event")

    [(event, context)] = listener.heard
    assert event == JOHN
    assert (context.source, context.headers["assumed"]) == ("unknown", "id,occurredOn")


async def test_what_is_no_event_of_ours_is_counted_and_hurts_nobody(nest: NestPeer, valkey: ValkeyServer) -> None:
    async with mailing(valkey) as (listener, service):
        for data in ("hola", 7, False, [1, None], {"payload": {"username": 5}}):
            await nest.do("emit", pattern=ARTICLE_NAME, data=data)
        await nest.do("publishUserCreated", payload=JOHN_AS_SENT)
        await until(lambda: bool(listener.heard), "the event after them")

        assert service.counters["refused"] == 5
    assert [event for event, _ in listener.heard] == [JOHN]


# --- we speak, NestJS hears -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["message", "event"])
@pytest.mark.parametrize("user", [JOHN, AWKWARD], ids=["john", "awkward"])
async def test_the_articles_handlers_hear_what_we_publish(
    nest: NestPeer, valkey: ValkeyServer, kind: str, user: UserCreated
) -> None:
    await nest.listen({"kind": kind, "pattern": ARTICLE_NAME})
    await subscribed(valkey, ARTICLE_NAME)
    envelope = Envelope.of(user)

    async with publishing(valkey) as transport:
        await transport.publish(LANE, [envelope])
        [call] = await nest.hears(1)

    assert call.channel == ARTICLE_NAME
    assert call.data == {
        "service": "accounts-ms",
        "name": ARTICLE_NAME,
        "payload": {"id": user.id, "username": user.username, "email": user.email},
        "id": envelope.id,
        "occurredOn": envelope.occurred_on.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


async def test_a_service_of_ours_is_heard_after_its_transaction(nest: NestPeer, valkey: ValkeyServer) -> None:
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await subscribed(valkey, ARTICLE_NAME)
    accounts = Service("accounts-ms", publishes=[UserCreated], transport=RedisPubSub(valkey.url, nest_names=NEST_NAMES))

    async with accounts, accounts.transaction() as tx:
        await tx.publish(JOHN)
        assert nest.heard == []
    [call] = await nest.hears(1)

    assert call.data["payload"] == JOHN_AS_SENT


async def test_an_object_pattern_of_ours_is_heard(nest: NestPeer, valkey: ValkeyServer) -> None:
    pattern: Pattern = {"service": "accounts", "cmd": "user-created", "deep": {"z": 1, "a": [True, None, 5.0]}}
    await nest.listen({"kind": "event", "pattern": pattern})
    await subscribed(valkey, channel_of(pattern))

    async with publishing(valkey, nest_names={UserCreated: pattern}) as transport:
        await transport.publish(LANE, [Envelope.of(JOHN)])
        [call] = await nest.hears(1)

    assert call.data["payload"] == JOHN_AS_SENT


async def test_a_wildcard_handler_hears_us(nest: NestPeer, valkey: ValkeyServer) -> None:
    await nest.listen({"kind": "event", "pattern": "com.clonespotify.accounts.*"}, wildcards=True)
    await subscribed(valkey, patterns=1)

    async with publishing(valkey) as transport:
        await transport.publish(LANE, [Envelope.of(JOHN), Envelope.of(UserDeleted(id=JOHN.id))])
        calls = await nest.hears(2)

    assert [call.channel for call in calls] == [
        ARTICLE_NAME,
        "com.clonespotify.accounts.users.integration.user-deleted",
    ]


async def test_what_the_article_does_not_have_disturbs_no_handler(nest: NestPeer, valkey: ValkeyServer) -> None:
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await subscribed(valkey, ARTICLE_NAME)
    cause = Envelope.of(UserDeleted(id="0"))

    async with publishing(valkey) as transport:
        await transport.publish(LANE, [Envelope.of(JOHN, cause=cause)])
        [call] = await nest.hears(1)

    assert list(call.data)[5:] == ["correlationId", "causationId"]
    assert call.data["causationId"] == cause.id


# --- both at once, and to the byte ----------------------------------------------------------------------------


async def test_nestjs_and_we_hear_the_same_event_once_each(nest: NestPeer, valkey: ValkeyServer) -> None:
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await subscribed(valkey, ARTICLE_NAME)
    async with mailing(valkey, nest_names=NEST_NAMES) as (listener, service), publishing(valkey) as transport:
        await nest.do("publishUserCreated", payload=JOHN_AS_SENT)
        await transport.publish(LANE, [Envelope.of(AWKWARD)])
        await until(lambda: service.counters["handled"] == 2, "both events")
        await nest.hears(2)

        assert len(listener.heard) == 2
    assert [context.event_id for _, context in listener.heard] == [call.data["id"] for call in nest.heard]


async def test_many_events_keep_their_order_in_both_directions(nest: NestPeer, valkey: ValkeyServer) -> None:
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await subscribed(valkey, ARTICLE_NAME)
    async with mailing(valkey) as (listener, _), publishing(valkey) as transport:
        for number in range(300):
            await transport.publish(LANE, [Envelope.of(UserCreated(id="same", username=str(number), email=""))])
            nest.tell("publishUserCreated", payload={"id": "same", "username": str(1000 + number), "email": ""})
        for _ in range(300):
            await asyncio.to_thread(nest.answer)
        await until(lambda: len(listener.heard) == 600, "all, here")
        calls = await nest.hears(600)

    ours = [int(event.username) for event, _ in listener.heard if isinstance(event, UserCreated)]
    theirs = [int(call.data["payload"]["username"]) for call in calls]
    for heard in (ours, theirs):
        assert [number for number in heard if number < 1000] == list(range(300))
        assert [number for number in heard if number >= 1000] == list(range(1000, 1300))


@pytest.mark.parametrize("user", [JOHN, AWKWARD], ids=["john", "awkward"])
async def test_the_bytes_on_the_wire_are_the_same(nest: NestPeer, valkey: ValkeyServer, user: UserCreated) -> None:
    payload = {"id": user.id, "username": user.username, "email": user.email}
    async with wiretap(valkey, ARTICLE_NAME) as next_payload, publishing(valkey) as transport:
        sent = await nest.do("publishUserCreated", payload=payload)
        theirs = await next_payload()
        occurred_on = json.loads(theirs)["data"]["occurredOn"]
        envelope = Envelope.of(user, id=sent["id"], occurred_on=datetime.fromisoformat(occurred_on))
        await transport.publish(LANE, [envelope])
        ours = await next_payload()

    assert ours == theirs
    assert ours == encode(envelope, pattern=ARTICLE_NAME)


async def test_every_recorded_emission_is_what_this_version_sends(nest: NestPeer, valkey: ValkeyServer) -> None:
    emissions = json.loads((Path(__file__).parent / "emissions.json").read_text())
    channels = {emission["channel"] for emission in emissions}
    async with wiretap(valkey, *channels) as next_payload:
        for emission in emissions:
            recorded = json.loads(emission["payload"])
            await nest.do("emit", pattern=recorded["pattern"], data=recorded["data"])
            assert (await next_payload()).decode() == emission["payload"]


PATTERNS: list[Pattern] = [
    "a.b",
    7,
    1e21,
    5.0,
    {},
    {"b": 1, "B": 2, "a": "x", "A_": None, "_": True, "1": 5, "10": 6, "9": 7, "a-b": 8, "a_b": 9, "$": 0.1},
    {"deep": {"z": {"y": "x"}, "list": ["a", {"c": 1, "b": 2}]}},
    {"text": "with spaces, ñ and 日本"},
]


async def test_object_patterns_become_the_same_channels(nest: NestPeer) -> None:
    assert await nest.do("channelOf", patterns=PATTERNS) == [channel_of(pattern) for pattern in PATTERNS]


# --- after trouble --------------------------------------------------------------------------------------------


async def test_both_find_each_other_again_after_the_connections_were_cut(nest: NestPeer, valkey: ValkeyServer) -> None:
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await subscribed(valkey, ARTICLE_NAME)
    client: Any = cast("Any", Redis).from_url(valkey.url, protocol=2)
    async with mailing(valkey) as (listener, service), publishing(valkey) as transport:
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        async def all_hear() -> bool:
            [(_, count)] = await client.pubsub_numsub(ARTICLE_NAME)
            return count == 2 and service.readiness() == {}

        await until(all_hear, "both subscribe again")
        await transport.publish(LANE, [Envelope.of(JOHN)])
        await nest.hears(1)
        await until(lambda: bool(listener.heard), "the event")

    async def its_client_is_back() -> bool:
        outcome = await nest.do("send", pattern="nobody", data={}, limitMs=50)
        return outcome["error"] == "TimeoutError"  # the request went out, and nobody answered it

    await until(its_client_is_back, "NestJS publishes again")
    await client.aclose()
