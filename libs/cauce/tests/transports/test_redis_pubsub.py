"""Redis Pub/Sub on a real Valkey: delivery, wildcards, and coming back from everything that can happen to a broker."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from cauce import IntegrationEvent
from cauce.dev.servers import ValkeyServer
from cauce.errors import ConfigurationError, PublishError, TransportUnavailableError
from cauce.events.envelope import Envelope
from cauce.events.names import matches
from cauce.ports.lanes import Lane
from cauce.ports.transport import Delivery, Subscription
from cauce.transports.redis.connection import RedisServer
from cauce.transports.redis_pubsub import RedisPubSub, glob_of
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from testsupport.waiting import until

LANE = Lane(0)


class UserCreated(
    IntegrationEvent,
    name="users.user-created",
    version=1,
    source="accounts-ms",
    earlier_names=("users.user-updated",),
):
    id: str


class UserDeleted(IntegrationEvent, name="users.user-deleted", version=1, source="accounts-ms"):
    id: str


def envelope(number: int = 1, event_type: type[UserCreated] | type[UserDeleted] = UserCreated) -> Envelope:
    return Envelope.of(event_type(id=str(number)), id=f"event-{number}")


def names(*names: str, patterns: tuple[str, ...] = ()) -> Subscription:
    return Subscription(names=frozenset(names), patterns=patterns)


class Listening:
    """A running transport: what it delivered, and what it said about itself."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.reports: list[str] = []
        self.is_up = False
        self.ups = 0

    def up(self) -> None:
        self.is_up = True
        self.ups += 1

    def down(self, reason: str, *, retry_in_s: float) -> None:
        assert 0 <= retry_in_s <= 2
        self.is_up = False
        self.reports.append(reason)

    async def deliver(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def ids(self) -> list[str]:
        return [one.envelope.id for one in self.deliveries if one.envelope]

    async def is_subscribed(self) -> None:
        await until(lambda: self.is_up, "subscribed")

    async def has(self, count: int) -> None:
        await until(lambda: len(self.deliveries) >= count, f"{count} deliveries")


@asynccontextmanager
async def listening(
    transport: RedisPubSub, subscription: Subscription, *, subscribed: bool = True
) -> AsyncGenerator[Listening]:
    heard = Listening()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(transport.run(subscription, heard.deliver, heard))
        if subscribed:
            await heard.is_subscribed()
        yield heard
        running.cancel()
    await transport.close()


def quick(server: ValkeyServer | str, **options: Any) -> RedisPubSub:
    """Short limits, so that trouble is noticed while a test is watching."""
    for limit, seconds in {"ping_every_s": 0.2, "answer_limit_s": 0.5, "publish_limit_s": 0.5}.items():
        options.setdefault(limit, seconds)
    return RedisPubSub(server if isinstance(server, str) else server.url, **options)


@asynccontextmanager
async def client_of(server: ValkeyServer) -> AsyncGenerator[Any]:
    client: Any = cast("Any", Redis).from_url(server.url, protocol=2)  # its commands are half typed
    try:
        yield client
    finally:
        await client.aclose()


async def pings(redis: Any) -> int:
    return (await redis.info("commandstats")).get("cmdstat_ping", {"calls": 0})["calls"]


# --- delivery -------------------------------------------------------------------------------------------------


async def test_what_is_published_is_heard_with_its_circumstances(valkey: ValkeyServer) -> None:
    transport = quick(valkey)
    async with listening(transport, names("users.user-created")) as heard:
        assert await transport.publish(LANE, [envelope(1), envelope(2)]) == ["event-1", "event-2"]
        await heard.has(2)

    assert heard.ids == ["event-1", "event-2"]
    first = heard.deliveries[0].envelope
    assert first is not None
    assert (first.name, first.source) == ("users.user-created", "accounts-ms")
    assert heard.deliveries[0].channel == "users.user-created"


async def test_an_event_is_published_under_the_name_nestjs_knows_and_heard_under_both(valkey: ValkeyServer) -> None:
    theirs = quick(valkey, nest_names={UserCreated: "users.user-updated"})
    ours = quick(valkey)
    subscription = names("users.user-created", "users.user-updated")
    async with listening(theirs, subscription) as heard:
        await theirs.publish(LANE, [envelope(1)])
        await ours.publish(LANE, [envelope(2)])
        await heard.has(2)
        await ours.close()

    assert [one.channel for one in heard.deliveries] == ["users.user-updated", "users.user-created"]
    assert json.loads(heard.deliveries[0].raw)["data"]["name"] == "users.user-updated"


async def test_a_nest_name_that_is_no_name_of_the_event_stands_for_the_event(valkey: ValkeyServer) -> None:
    transport = quick(valkey, nest_names={UserCreated: {"event": "user", "cmd": "created"}, UserDeleted: 7})
    async with listening(transport, names("users.user-created", "users.user-deleted")) as heard:
        await transport.publish(LANE, [envelope(1), envelope(2, UserDeleted)])
        await heard.has(2)

    assert [one.channel for one in heard.deliveries] == ['{"cmd":"created","event":"user"}', "7"]
    assert [one.envelope.name for one in heard.deliveries if one.envelope] == [
        "users.user-created",
        "users.user-deleted",
    ]


async def test_only_wanted_nest_names_are_subscribed(valkey: ValkeyServer) -> None:
    transport = quick(valkey, nest_names={UserCreated: {"cmd": "created"}, UserDeleted: {"cmd": "deleted"}})
    async with (
        listening(transport, names("users.user-deleted", patterns=("users.user-c*",))),
        client_of(valkey) as redis,
    ):
        assert set(await redis.pubsub_channels()) == {b"users.user-deleted", b'{"cmd":"deleted"}'}


async def test_overlapping_subscriptions_deliver_once_and_never_what_only_the_glob_matches(
    valkey: ValkeyServer,
) -> None:
    transport = quick(valkey)
    patterns = ("users.*", "users.**", "*.user-created", "**")
    async with (
        listening(transport, names("users.user-created", patterns=patterns[:3])) as heard,
        client_of(valkey) as redis,
    ):
        for channel in (
            "users.user-created",
            "users.other",
            "users.a.b",
            "users",
            "other.user-created",
            "usersx",
            "x.y",
        ):
            await redis.publish(channel, json.dumps({"data": {"payload": {}, "id": channel}}))
        await redis.publish("users.user-created", json.dumps({"data": {"payload": {}, "id": "last"}}))
        await until(lambda: "last" in heard.ids, "the last")

    assert sorted(heard.ids) == sorted(
        ["users.user-created", "users.other", "users.a.b", "users", "other.user-created", "last"]
    )


async def test_replies_to_requests_are_not_heard_through_a_pattern(valkey: ValkeyServer) -> None:
    transport = quick(valkey)
    async with listening(transport, names(patterns=("**",))) as heard, client_of(valkey) as redis:
        await redis.publish("users.reply", '{"response":1,"isDisposed":true,"id":"x"}')
        await redis.publish("users", '{"data":{"payload":{},"id":"1"}}')
        await heard.has(1)

    assert [one.channel for one in heard.deliveries] == ["users"]


async def test_a_request_is_answered_once_it_is_handled(valkey: ValkeyServer) -> None:
    transport = quick(valkey)
    async with (
        listening(transport, names("users.user-created")) as heard,
        client_of(valkey) as redis,
        redis.pubsub(ignore_subscribe_messages=True) as replies,
    ):
        await replies.subscribe("users.user-created.reply")
        await until(lambda: replies.subscribed, "the reply channel")
        await redis.publish("users.user-created", '{"pattern":"p","data":{"payload":{}},"id":"abc"}')
        await heard.has(1)
        await heard.deliveries[0].ack()
        async with asyncio.timeout(10):
            while (answer := await replies.get_message(timeout=1)) is None:
                pass

    assert answer["data"] == b'{"isDisposed":true,"id":"abc"}'


async def test_what_is_no_event_is_delivered_with_the_problem(valkey: ValkeyServer) -> None:
    transport = quick(valkey)
    async with listening(transport, names("users.user-created")) as heard, client_of(valkey) as redis:
        await redis.publish("users.user-created", b"\xff\xfe")
        await heard.has(1)

    [delivery] = heard.deliveries
    assert (delivery.envelope, delivery.problem, delivery.raw) == (None, "not UTF-8", b"\xff\xfe")


async def test_an_event_that_cannot_be_written_stops_the_batch_before_anything_is_sent(valkey: ValkeyServer) -> None:
    transport = quick(valkey)
    huge = Envelope.of(UserCreated(id="x" * 300_000))
    async with listening(transport, names("users.user-created")) as heard:
        with pytest.raises(PublishError):
            await transport.publish(LANE, [envelope(1), huge])
        await transport.publish(LANE, [envelope(2)])
        await heard.has(1)

    assert heard.ids == ["event-2"]


async def test_a_failing_service_is_not_taken_for_a_failing_broker(valkey: ValkeyServer) -> None:
    async def deliver(delivery: Delivery) -> None:
        raise LookupError(delivery.channel)

    transport, status = quick(valkey), Listening()
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(transport.run(names("users.user-created"), deliver, status))
            await status.is_subscribed()
            await transport.publish(LANE, [envelope()])
            await asyncio.sleep(10)
    await transport.close()

    assert raised.group_contains(LookupError)


async def test_back_pressure_holds_the_reading_back_and_nothing_is_lost(valkey: ValkeyServer) -> None:
    gate = asyncio.Event()
    taken: list[str] = []

    async def deliver(delivery: Delivery) -> None:
        await gate.wait()
        assert delivery.envelope is not None
        taken.append(delivery.envelope.id)

    transport, status = quick(valkey), Listening()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(transport.run(names("users.user-created"), deliver, status))
        await status.is_subscribed()
        for number in range(500):
            await transport.publish(LANE, [envelope(number)])
        assert taken == []
        gate.set()
        await until(lambda: len(taken) == 500, "all of them")
        running.cancel()
    await transport.close()

    assert taken == [f"event-{number}" for number in range(500)]
    assert status.ups == 1


# --- trouble --------------------------------------------------------------------------------------------------


async def test_it_comes_back_by_itself_after_the_broker_was_killed(own_valkey: ValkeyServer) -> None:
    transport = quick(own_valkey)
    async with listening(transport, names("users.user-created", patterns=("users.*",))) as heard:
        for number in range(3):
            own_valkey.kill()
            await until(lambda: not heard.is_up, "noticed")
            with pytest.raises(TransportUnavailableError, match=f"127.0.0.1:{own_valkey.port}"):
                await transport.publish(LANE, [envelope()])

            own_valkey.start()
            await until(lambda: heard.is_up, "back", within_s=5)
            await transport.publish(LANE, [envelope(number)])
            await heard.has(number + 1)

    assert heard.ids == ["event-0", "event-1", "event-2"]
    assert all(f"no Redis at {own_valkey.address} (" in report for report in heard.reports)


async def test_a_frozen_broker_is_noticed_and_recovered_from(own_valkey: ValkeyServer) -> None:
    transport = quick(own_valkey)
    async with listening(transport, names("users.user-created")) as heard:
        own_valkey.pause()
        await until(lambda: not heard.is_up, "noticed")
        with pytest.raises(TransportUnavailableError, match="no answer from Redis"):
            await transport.publish(LANE, [envelope()])
        await until(lambda: len(heard.reports) >= 2, "a second attempt")

        own_valkey.resume()
        await until(lambda: heard.is_up, "back", within_s=5)
        await transport.publish(LANE, [envelope(2)])
        await until(lambda: "event-2" in heard.ids, "the event")

    assert "no longer answers" in heard.reports[0]


async def test_while_the_broker_is_frozen_only_some_publishers_wait(own_valkey: ValkeyServer) -> None:
    transport = quick(own_valkey)
    await transport.publish(LANE, [envelope()])
    own_valkey.pause()

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(
            *(transport.publish(LANE, [envelope(number)]) for number in range(200)), return_exceptions=True
        )
        outcomes += await asyncio.gather(
            *(transport.publish(LANE, [envelope(number)]) for number in range(200)), return_exceptions=True
        )

    assert {type(outcome) for outcome in outcomes} == {TransportUnavailableError}
    own_valkey.resume()
    await transport.close()


async def test_a_broker_that_is_not_there_at_the_start_is_waited_for(own_valkey: ValkeyServer) -> None:
    own_valkey.kill()
    transport = quick(own_valkey, if_down="is it running? make infra")
    async with listening(transport, names("users.user-created"), subscribed=False) as heard:
        await until(lambda: len(heard.reports) >= 3, "three attempts")
        own_valkey.start()
        await heard.is_subscribed()

    assert set(heard.reports) == {f"no Redis at {own_valkey.address} (refused) → is it running? make infra"}


async def test_a_service_that_only_publishes_knows_about_the_broker_too(own_valkey: ValkeyServer) -> None:
    transport = quick(own_valkey)
    async with listening(transport, names()) as heard:
        own_valkey.kill()
        await until(lambda: not heard.is_up, "noticed")
        own_valkey.start()
        await heard.is_subscribed()
        assert heard.ups == 2


async def test_a_connection_the_broker_closed_is_replaced_before_anything_is_lost(own_valkey: ValkeyServer) -> None:
    publisher = quick(own_valkey)
    await publisher.publish(LANE, [envelope(1)])
    own_valkey.kill()
    own_valkey.start()
    async with listening(quick(own_valkey), names("users.user-created")) as heard:
        await publisher.publish(LANE, [envelope(2)])
        await heard.has(1)
    await publisher.close()

    assert heard.ids == ["event-2"]


async def test_a_subscriber_the_broker_cuts_off_comes_back(valkey: ValkeyServer) -> None:
    transport = quick(valkey)
    async with listening(transport, names("users.user-created")) as heard, client_of(valkey) as redis:
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: heard.ups == 2, "subscribed again")
        await transport.publish(LANE, [envelope(5)])
        await heard.has(1)

    assert heard.ids == ["event-5"]


async def test_a_subscriber_too_slow_for_the_broker_is_cut_off_notices_it_and_comes_back(
    own_valkey: ValkeyServer,
) -> None:
    gate = asyncio.Event()
    heard = Listening()

    async def deliver(delivery: Delivery) -> None:
        await gate.wait()
        heard.deliveries.append(delivery)

    transport = quick(own_valkey)
    async with asyncio.TaskGroup() as tasks, client_of(own_valkey) as redis:
        await redis.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
        running = tasks.create_task(transport.run(names("users.user-created"), deliver, heard))
        await heard.is_subscribed()
        filler = json.dumps({"data": {"payload": {"id": "x" * 200_000}, "id": "filler"}})
        while await redis.publish("users.user-created", filler):  # until nobody is there
            pass
        gate.set()
        await until(lambda: heard.ups == 2, "subscribed again")
        await transport.publish(LANE, [envelope(9)])
        await until(lambda: "event-9" in heard.ids, "the event")
        running.cancel()
    await transport.close()

    assert len(heard.reports) == 1


def test_a_closed_transport_may_be_used_again_in_another_event_loop(valkey: ValkeyServer) -> None:
    transport = quick(valkey)

    async def publish_together() -> None:
        await asyncio.gather(*(transport.publish(LANE, [envelope(number)]) for number in range(5)))
        await transport.close()
        await transport.close()

    asyncio.run(publish_together())
    asyncio.run(publish_together())


async def test_a_silent_but_healthy_connection_stays(valkey: ValkeyServer) -> None:
    transport = quick(valkey, ping_every_s=0.02)
    async with listening(transport, names("users.user-created")) as heard, client_of(valkey) as redis:
        before = await pings(redis)
        async with asyncio.timeout(10):
            while await pings(redis) < before + 10:  # noqa: ASYNC110  # the server counts
                await asyncio.sleep(0.02)
        assert heard.is_up

    assert (heard.ups, heard.reports) == (1, [])


async def test_a_cancelled_publication_never_leaves_its_answer_to_the_next(valkey: ValkeyServer) -> None:
    transport = quick(valkey, publish_limit_s=5)
    async with delayed(valkey, seconds=0.005) as url:
        slow = quick(url, publish_limit_s=5, answer_limit_s=5)
        async with listening(transport, names("users.user-created")) as heard:
            for number in range(60):
                publishing = asyncio.ensure_future(slow.publish(LANE, [envelope(number)]))  # noqa: TID251  # to be cancelled
                for _ in range(number % 12):
                    await asyncio.sleep(0.001)
                publishing.cancel()
                await asyncio.wait([publishing])
                batch = [envelope(1000 + number), envelope(2000 + number)]
                assert await slow.publish(LANE, batch) == [one.id for one in batch]
            await until(lambda: heard.ids[-1:] == ["event-2059"], "the last")
            await slow.close()

    confirmed = [one for one in heard.ids if int(one.removeprefix("event-")) >= 1000]
    assert confirmed == [f"event-{base + number}" for number in range(60) for base in (1000, 2000)]


@asynccontextmanager
async def delayed(server: ValkeyServer, *, seconds: float) -> AsyncGenerator[str]:
    """The URL of a door to the server whose answers come late."""

    async def late(data: bytes) -> bytes:
        await asyncio.sleep(seconds)
        return data

    async with proxied(server, late) as port:
        yield server.url.replace(f":{server.port}", f":{port}")


@asynccontextmanager
async def proxied(
    server: ValkeyServer, answering: Callable[[bytes], Awaitable[bytes]], tls: ssl.SSLContext | None = None
) -> AsyncGenerator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(await answering(data) if answers else data)
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(server.host, server.port)
        writers.extend((writer, inner_writer))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pump(reader, inner_writer, answers=False))
            tasks.create_task(pump(inner_reader, writer, answers=True))

    door = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield door.sockets[0].getsockname()[1]
    finally:
        door.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


# --- being let in ---------------------------------------------------------------------------------------------


async def reason_of(url: str) -> str:
    transport = quick(url)
    async with listening(transport, names("users.user-created"), subscribed=False) as heard:
        await until(lambda: bool(heard.reports), "a report")
    return heard.reports[0]


async def test_a_wrong_or_missing_password_is_said_and_never_repeated(valkey: ValkeyServer) -> None:
    wrong = valkey.url.replace(valkey.password, "s3cr3t-wr0ng")
    bare = f"redis://{valkey.address}"

    assert await reason_of(wrong) == f"Redis at {valkey.address} refused the user or the password → check both"
    assert await reason_of(bare) == (
        f"Redis at {valkey.address} asks for a password and none is set → put it into the URL"
    )
    with pytest.raises(TransportUnavailableError, match="refused the user or the password") as raised:
        await quick(wrong).publish(LANE, [envelope()])
    assert "s3cr3t" not in str(raised.value)


async def test_missing_rights_are_named(valkey: ValkeyServer) -> None:
    async with client_of(valkey) as redis:
        await redis.execute_command(
            "ACL", "SETUSER", "deaf", "reset", "on", ">pw", "+ping", "+publish", "+subscribe", "&mine"
        )
        url = f"redis://deaf:pw@{valkey.address}"
        try:
            reason = await reason_of(url)
            with pytest.raises(TransportUnavailableError) as raised:
                await quick(url).publish(LANE, [envelope()])
        finally:
            await redis.execute_command("ACL", "DELUSER", "deaf")

    for text in (reason, str(raised.value)):
        assert text.startswith(f"Redis at {valkey.address} does not let this user do that (")
        assert "+subscribe" in text


async def test_a_password_that_was_put_right_lets_it_in_without_a_restart(own_valkey: ValkeyServer) -> None:
    transport = quick(f"redis://late:pw@{own_valkey.address}")
    async with (
        listening(transport, names("users.user-created"), subscribed=False) as heard,
        client_of(own_valkey) as redis,
    ):
        await until(lambda: bool(heard.reports), "a refusal")
        await redis.execute_command("ACL", "SETUSER", "late", "on", ">pw", "~*", "&*", "+@all")
        await heard.is_subscribed()


async def test_tls_is_spoken_and_its_certificate_checked(valkey: ValkeyServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    cast("Any", authority.issue_cert("127.0.0.1")).configure_cert(context)

    async def at_once(data: bytes) -> bytes:
        return data

    async with proxied(valkey, at_once, tls=context) as port:
        url = f"rediss://:{valkey.password}@127.0.0.1:{port}"
        transport = quick(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}")
        async with listening(transport, names("users.user-created")) as heard:
            await transport.publish(LANE, [envelope(3)])
            await heard.has(1)
        assert heard.ids == ["event-3"]
        assert "is not trusted" in await reason_of(url)


async def test_a_certificate_that_is_gone_when_it_reconnects_is_an_outage_that_names_it(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Certificates are renewed while services run; for a moment there is none, or half of one."""
    authority, file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    cast("Any", authority.issue_cert("127.0.0.1")).configure_cert(context)

    async def at_once(data: bytes) -> bytes:
        return data

    async with proxied(valkey, at_once, tls=context) as port:
        transport = quick(f"rediss://:{valkey.password}@127.0.0.1:{port}?ssl_ca_certs={file}")
        file.rename(tmp_path / "kept.pem")
        with pytest.raises(
            TransportUnavailableError, match=f"no TLS with Redis at .*: ssl_ca_certs={file}: no such file"
        ):
            await transport.publish(LANE, [envelope(1)])
        async with listening(transport, names("users.user-created"), subscribed=False) as heard:
            await until(lambda: any("no such file" in report for report in heard.reports), "a report")
            (tmp_path / "kept.pem").rename(file)
            await heard.is_subscribed()
        await transport.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://h", "cannot be read"),
        ("redis://:pa/ss@h:1", "cannot be read"),
        ("redis://h:99999", "cannot be read"),
        ("redis://h?ssl_ca_cert=x", "unknown: 'ssl_ca_cert'"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "ssl_ca_certs=/no/such/file: no such file"),
    ],
)
def test_an_unusable_url_is_refused_at_once_without_repeating_it(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as raised:
        RedisPubSub(url)
    assert "pa" not in str(raised.value).replace("path", "").replace("password", "")


async def test_a_server_that_does_not_speak_redis_is_reported() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as door:
        port = door.sockets[0].getsockname()[1]
        reason = await reason_of(f"redis://127.0.0.1:{port}")

    assert reason == f"what answers at 127.0.0.1:{port} is not Redis → check host and port"


def test_the_label_of_a_server_has_no_password() -> None:
    for url, label in {
        "redis://:secret@h:1/0": "h:1",
        "redis://": "localhost:6379",
        "unix:///run/redis.sock": "/run/redis.sock",
    }.items():
        assert RedisServer(url, if_down="", answer_limit_s=1).label == label


def test_nest_names_that_collide_or_cannot_be_used_are_refused_together() -> None:
    with pytest.raises(ConfigurationError) as raised:
        RedisPubSub("redis://h", nest_names={UserCreated: "same", UserDeleted: "same"})
    assert raised.value.problems == ("UserCreated and UserDeleted would both be published on 'same'",)

    with pytest.raises(ConfigurationError, match="UserCreated: a NestJS pattern cannot be empty"):
        RedisPubSub("redis://h", nest_names={UserCreated: ""})


# --- globs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "glob"),
    [
        ("a.b", "a.b"),
        ("a.*", "a.*"),
        ("a.**", "a*"),
        ("**.c", "*c"),
        ("a.**.c", "a*.c"),
        ("*.b", "*.b"),
        ("**", "*"),
        ("user-*.[x]?", r"user-\*.\[x\]\?"),
    ],
)
def test_dotted_patterns_become_globs_that_are_at_least_as_wide(pattern: str, glob: str) -> None:
    assert glob_of(pattern) == glob


def glob_matches(glob: str, text: str) -> bool:
    """Redis's own rules, as far as our globs use them."""
    if not glob:
        return not text
    if glob[0] == "*":
        return any(glob_matches(glob[1:], text[start:]) for start in range(len(text) + 1))
    literal, rest = (glob[1], glob[2:]) if glob[0] == "\\" else (glob[0], glob[1:])
    return text[:1] == literal and glob_matches(rest, text[1:])


segments = st.sampled_from(["a", "b", "", "*", "**", "x*", "[b]", "a?"])


@given(pattern=st.lists(segments, min_size=1, max_size=5), name=st.lists(segments, min_size=1, max_size=5))
def test_a_glob_matches_whatever_its_pattern_matches(pattern: list[str], name: list[str]) -> None:
    dotted, channel = ".".join(pattern), ".".join(name)
    if matches(dotted, channel):
        assert glob_matches(glob_of(dotted), channel)
