"""Redis Streams under users with few rights, in both protocols, and what a look at the server says."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from cauce.errors import ConfigurationError, TransportUnavailableError
from cauce.ports.lanes import Lane
from cauce.ports.transport import DurableTransport, State
from cauce.testing.transport_contract import (
    LANE,
    TOPIC,
    acknowledged,
    hearing,
    message,
    messages,
    publishing,
    registering,
    until,
)
from cauce.transports.redis.connection import RedisServer, RedisTroubleError
from cauce.transports.redis.pipeline import RedisCommands, RedisRefusal
from cauce.transports.redis.replies import entries_by_stream, field_of, is_id, named, order, texts
from cauce.transports.redis_streams import RedisStreams
from redis.asyncio.connection import Connection
from testsupport.redis_under_test import OtherServer, Proxy, RedisUnderTest

# --- rights -----------------------------------------------------------------------------------------------------


class AsUser(RedisUnderTest):
    """The same server, entered by another user."""

    def __init__(self, broker: RedisUnderTest, user: str) -> None:
        super().__init__(broker.server)
        self._url = f"redis://{user}:secret@127.0.0.1:{broker.server.port}/0"

    def connect(self, *, url: str | None = None, answer_limit_s: float = 1.5) -> RedisStreams:
        return super().connect(url=url or self._url, answer_limit_s=answer_limit_s)


@asynccontextmanager
async def user(broker: RedisUnderTest, name: str, rules: Sequence[str]) -> AsyncGenerator[AsUser]:
    await broker.admin.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rules)
    one = AsUser(broker, name)
    yield one
    await one.close()
    await broker.admin.execute_command("ACL", "DELUSER", name)


def is_never_granted(command: str, category: str) -> bool:
    return category in {"dangerous", "scripting", "admin"} or command in {"keys", "config", "flushall", "eval"}


async def test_services_need_only_the_rights_that_are_written_out(broker: RedisUnderTest) -> None:
    rules = broker.connect()
    async with (
        user(broker, "accounts", rules.rights(publishes=TOPIC)) as accounts,
        user(broker, "mailing", rules.rights(publishes="mailing-ms", hears=[TOPIC])) as mailing,
    ):
        async with publishing(accounts) as transport, hearing(mailing) as heard:
            assert (await transport.tail(TOPIC, LANE, [])).lost_from is None
            first = await transport.append(TOPIC, LANE, [message(1)])
            ids = await transport.append(TOPIC, LANE, messages(2, 50))
            await heard.has(*range(1, 51))
            await acknowledged(broker)
            assert (await transport.tail(TOPIC, LANE, [*first, *ids])).lost_from is None
            assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 50
            await asyncio.sleep(1.1)  # the lane is idle: before the next append the server is asked about the stream
            await transport.append(TOPIC, LANE, [message(51)])
            await heard.has(51)
            await broker.forget_everything()
            await transport.tail(TOPIC, LANE, [])
            await transport.append(TOPIC, LANE, [message(52)])
            await heard.has(52)
        async with hearing(mailing, acknowledge=False) as crashed, publishing(accounts) as transport:
            await transport.append(TOPIC, LANE, [message(53)])
            await crashed.has(53)
        async with hearing(mailing) as again:
            await again.has(53)


async def test_the_rights_are_enough_to_register_a_database(broker: RedisUnderTest) -> None:
    rules = broker.connect()
    for name, rights in (
        ("accounts", rules.rights(publishes=TOPIC)),
        ("mailing", rules.rights(hears=[TOPIC])),
    ):
        async with user(broker, name, rights) as one, registering(one) as transport:
            assert await transport.register_database([TOPIC], name, "production") == {}
            assert await transport.register_database([TOPIC], name, "staging") == {TOPIC: "production"}


async def test_the_rights_hold_nothing_dangerous_and_reach_no_other_topic(broker: RedisUnderTest) -> None:
    rules = broker.connect().rights(publishes=TOPIC, hears=["music-ms"])
    for category in ("dangerous", "scripting"):
        forbidden = {command.decode() for command in await broker.admin.execute_command("ACL", "CAT", category)}
        granted = {rule.removeprefix("+") for rule in rules if rule.startswith("+")}
        assert not granted & forbidden
    async with user(broker, "accounts", rules) as accounts:
        redis: Any = cast("Any", Connection)(
            host="127.0.0.1", port=broker.server.port, username="accounts", password="secret", protocol=2
        )
        await redis.connect()
        for command in (
            ("EVAL", "return 1", "0"),
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("CONFIG", "GET", "*"),
            ("INFO",),
            ("DEL", broker.keys.stream(TOPIC, LANE)),
            ("XDEL", broker.keys.stream(TOPIC, LANE), "1-1"),
            ("XADD", broker.keys.stream("mailing-ms", LANE), "*", "e", "forged"),
            ("XADD", "other", "*", "e", "forged"),
        ):
            await redis.send_command(*command)
            with pytest.raises(Exception, match=r"(?i)permission|NOPERM|no permissions"):
                await redis.read_response()
        await redis.disconnect()
        async with publishing(accounts) as transport:
            with pytest.raises(TransportUnavailableError, match="ACL SETUSER"):
                await transport.append("mailing-ms", LANE, [message(1, source="mailing-ms")])


async def test_a_bridge_needs_rights_in_the_topics_that_it_adopts_events_for(broker: RedisUnderTest) -> None:
    rules = broker.connect()
    hears_only = rules.rights(publishes="mailing-ms", hears=["music-ms"])
    adopts = rules.rights(publishes="mailing-ms", hears=["music-ms"], adopts=[TOPIC])
    async with user(broker, "mailing", hears_only) as mailing, publishing(mailing) as transport:
        with pytest.raises(TransportUnavailableError, match="ACL SETUSER"):
            await transport.append(TOPIC, LANE, [message(1)])
    async with user(broker, "mailing", adopts) as mailing, publishing(mailing) as transport:
        ids = await transport.append(TOPIC, LANE, [message(1)])
        assert (await transport.tail(TOPIC, LANE, ids)).lost_from is None


async def test_a_reader_without_rights_says_so_and_reads_as_soon_as_it_has_them(broker: RedisUnderTest) -> None:
    rules = broker.connect().rights(hears=[TOPIC])
    async with (
        user(broker, "mailing", [rule for rule in rules if rule != "+xreadgroup"]) as mailing,
        hearing(mailing) as heard,
        publishing(broker) as transport,
    ):
        await until(lambda: any("ACL SETUSER" in one for one in heard.troubles), "the trouble")
        await transport.append(TOPIC, LANE, [message(1)])
        await broker.admin.execute_command("ACL", "SETUSER", "mailing", "+xreadgroup")
        await heard.has(1)


async def test_a_wrong_password_is_told_and_the_password_is_not(broker: RedisUnderTest) -> None:
    transport = broker.connect(url=f"redis://:wr0ngpassword@127.0.0.1:{broker.server.port}/0")
    with pytest.raises(TransportUnavailableError, match="refused the user or the password") as raised:
        await transport.append(TOPIC, LANE, [message(1)])
    assert "wr0ng" not in str(raised.value)
    with pytest.raises(ConfigurationError):
        RedisStreams("nonsense://x")


async def test_a_replica_is_told_from_a_server_that_is_down(own_broker: RedisUnderTest) -> None:
    await own_broker.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    async with publishing(own_broker) as transport:
        with pytest.raises(TransportUnavailableError, match="replica"):
            await transport.append(TOPIC, LANE, [message(1)])
        assert await states(transport) == {
            "version": "good",
            "persistence": "good",
            "eviction": "good",
            "role": "bad",
        }


# --- a look at the server -----------------------------------------------------------------------------------------


async def states(transport: DurableTransport) -> dict[str, State]:
    verdicts = await cast("RedisStreams", transport).health()
    assert all(one.fact and (one.fix or one.state == "good") for one in verdicts)
    return {one.subject: one.state for one in verdicts}


async def test_our_own_server_is_in_good_health(broker: RedisUnderTest) -> None:
    async with publishing(broker) as transport:
        assert set((await states(transport)).values()) == {"good"}


@pytest.mark.parametrize(
    ("settings", "subject", "state"),
    [
        (["appendonly no"], "persistence", "bad"),
        (["appendonly no", "save 60 1"], "persistence", "weak"),
        (["appendfsync no"], "persistence", "weak"),
        (["maxmemory 100mb", "maxmemory-policy allkeys-lru"], "eviction", "bad"),
        (["maxmemory-policy allkeys-lru"], "eviction", "weak"),
        (["maxmemory 100mb", "maxmemory-policy volatile-lru"], "eviction", "good"),
    ],
)
async def test_a_server_that_may_lose_events_is_found_out(
    servers_folder: Path, settings: list[str], subject: str, state: str
) -> None:
    server = OtherServer(servers_folder / f"health-{abs(hash(tuple(settings)))}", settings=settings)
    server.start()
    try:
        async with publishing(RedisUnderTest(server)) as transport:
            assert (await states(transport))[subject] == state
    finally:
        server.kill()


async def test_what_we_may_not_see_is_unknown(broker: RedisUnderTest) -> None:
    async with (
        user(broker, "accounts", broker.connect().rights(publishes=TOPIC)) as accounts,
        publishing(accounts) as transport,
    ):
        assert await states(transport) == {"persistence": "unknown", "eviction": "unknown"}


async def test_a_server_that_is_not_there_has_no_health(own_broker: RedisUnderTest) -> None:
    async with publishing(own_broker) as transport:
        await own_broker.stop()
        with pytest.raises(TransportUnavailableError):
            await states(transport)


# --- replies ------------------------------------------------------------------------------------------------------


async def raw_answers(broker: RedisUnderTest, protocol: int, commands: Sequence[tuple[str, ...]]) -> list[Any]:
    connection: Any = cast("Any", Connection)(
        host="127.0.0.1", port=broker.server.port, password=broker.server.password, protocol=protocol
    )
    await connection.connect()
    answers: list[Any] = []
    for command in commands:
        await connection.send_command(*command)
        answers.append(await connection.read_response())
    await connection.disconnect()
    return answers


async def test_the_replies_of_both_protocols_are_understood_alike(broker: RedisUnderTest) -> None:
    async with publishing(broker) as transport:
        ids = await transport.append(TOPIC, LANE, messages(1, 3))
    stream, registry = broker.keys.stream(TOPIC, LANE), broker.keys.groups(TOPIC)
    for group in ("two", "three"):
        await broker.admin.xgroup_create(stream, group, "0-0")
        await broker.admin.hset(registry, group, "0-0")

    def commands(group: str) -> list[tuple[str, ...]]:
        return [
            ("XREADGROUP", "GROUP", group, "lane", "COUNT", "2", "STREAMS", stream, ">"),
            ("XREADGROUP", "GROUP", group, "lane", "BLOCK", "1", "STREAMS", stream, "99999999999999-0"),
            ("XREADGROUP", "GROUP", group, "lane", "STREAMS", broker.keys.stream(TOPIC, Lane(9)), ">"),
            ("XINFO", "GROUPS", stream),
            ("XINFO", "CONSUMERS", stream, group),
            ("XINFO", "STREAM", stream),
            ("HGETALL", registry),
            ("XPENDING", stream, group),
        ]

    await broker.admin.xgroup_create(broker.keys.stream(TOPIC, Lane(9)), "two", "0-0", mkstream=True)
    await broker.admin.xgroup_create(broker.keys.stream(TOPIC, Lane(9)), "three", "0-0")
    two = await raw_answers(broker, 2, commands("two"))
    three = await raw_answers(broker, 3, commands("three"))

    assert isinstance(three[0], dict)
    assert isinstance(two[0], list)
    for answers in (two, three):
        ((key, entries),) = entries_by_stream(answers[0])
        assert key.decode() == stream
        assert [(entry_id.decode(), field_of(fields, b"e")) for entry_id, fields in entries] == list(
            (await broker.bodies(TOPIC, LANE)).items()
        )[:2]
        ((_, nothing),) = entries_by_stream(answers[1])
        assert list(nothing) == []
        assert list(entries_by_stream(answers[2])) == []
        assert {named(one)["name"] for one in answers[3]} == {b"two", b"three"}
        assert [order(named(one)["last-delivered-id"]) for one in answers[3]][-1:] != []
        assert int(named(answers[4][0])["idle"]) >= 0
        assert order(named(answers[5])["last-generated-id"]) == order(ids[-1])
        assert texts(answers[6]) == {"two": "0-0", "three": "0-0"}
        assert [answers[7][0], order(answers[7][1]), order(answers[7][2])] == [2, order(ids[0]), order(ids[1])]


def test_ids_of_streams_are_told_from_other_texts() -> None:
    assert order(b"1700000000000-12") == (1700000000000, 12)
    assert [is_id(one) for one in ("1-1", "17-0", "42", "", "-", "1-", "x-1", "1-1-1")] == [True, True] + [False] * 6


# --- the pipeline -------------------------------------------------------------------------------------------------


async def test_redis_py_still_keeps_its_streams_where_we_take_them(broker: RedisUnderTest) -> None:
    commands = RedisCommands(RedisServer(broker.server.url, if_down="", answer_limit_s=1.0), answer_limit_s=1.0)
    assert await commands.ask(("ECHO", "a"), ("ECHO", "b")) == [b"a", b"b"]
    commands.close()


async def test_a_connection_whose_question_was_cancelled_takes_no_more_and_answers_the_others(
    broker: RedisUnderTest,
) -> None:
    commands = RedisCommands(RedisServer(broker.server.url, if_down="", answer_limit_s=2.0), answer_limit_s=2.0)
    first = await commands.pipeline()
    async with asyncio.TaskGroup() as tasks:
        other = tasks.create_task(commands.ask(("BLPOP", "nothing", "0.3"), ("ECHO", "other")))
        cancelled = tasks.create_task(commands.ask(("ECHO", "cancelled")))
        await asyncio.sleep(0.05)
        cancelled.cancel()
    assert other.result() == [None, b"other"]
    assert not first.usable
    assert await commands.ask(("ECHO", "next")) == [b"next"]
    assert (await commands.pipeline()).number == 2
    commands.close()


async def test_what_is_no_redis_is_told_from_one_that_is_down() -> None:
    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(chatter, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    commands = RedisCommands(
        RedisServer(f"redis://127.0.0.1:{port}", if_down="", answer_limit_s=1.0), answer_limit_s=1.0
    )
    with pytest.raises(RedisTroubleError, match=r"not Redis|speak Redis"):
        await commands.ask(("ECHO", "a"))
    server.close()


@pytest.mark.parametrize("how", ["tls", "unix socket"])
async def test_other_ways_to_the_server_carry_events_too(servers_folder: Path, tmp_path: Path, how: str) -> None:
    socket = tmp_path / "redis.sock"
    server = OtherServer(servers_folder / f"ways-{how[:3]}", settings=[f"unixsocket {socket}"])
    server.start()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    identity = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(identity)  # pyright: ignore[reportUnknownMemberType]  # half typed
    plain = Proxy(server)
    secure = await asyncio.start_server(plain.serve, "127.0.0.1", 0, ssl=identity)
    port = secure.sockets[0].getsockname()[1]
    url = {
        "tls": f"rediss://:{server.password}@localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}",
        "unix socket": f"unix://:{server.password}@{socket}",
    }[how]
    transport = RedisStreams(url)
    try:
        async with hearing(transport) as heard:
            for first in range(1, 1001, 250):
                await transport.append(TOPIC, LANE, [message(first + one, body="x" * 2_000) for one in range(250)])
            await heard.has(*range(1, 1001))
        await transport.close()
    finally:
        plain.cut()
        secure.close()
        server.kill()


async def test_many_questions_share_a_connection_and_each_gets_its_answers(broker: RedisUnderTest) -> None:
    commands = RedisCommands(RedisServer(broker.server.url, if_down="", answer_limit_s=1.0), answer_limit_s=1.0)

    async def ask(number: int) -> None:
        size = number % 5
        answers = await commands.ask(*(("ECHO", f"{number}.{one}") for one in range(size)), ("NONSENSE",))
        assert answers[:-1] == [f"{number}.{one}".encode() for one in range(size)]
        assert isinstance(answers[-1], RedisRefusal)
        assert answers[-1].code == "ERR"

    async with asyncio.TaskGroup() as tasks:
        for number in range(500):
            tasks.create_task(ask(number))
    assert (await commands.pipeline()).number == 1
    commands.close()


async def test_g3_who_hears_a_topic_and_publishes_another_may_not_write_to_it(broker: RedisUnderTest) -> None:
    rules = broker.connect()
    async with user(broker, "mailing", rules.rights(publishes="mailing-ms", hears=[TOPIC])) as mailing:
        forging = mailing.connect()
        with pytest.raises(TransportUnavailableError, match="does not let this user do that"):
            await forging.append(TOPIC, LANE, [message(1)])
        assert await forging.append("mailing-ms", LANE, [message(1)])
    async with user(broker, "of_old", rules.rights(publishes="of-old", hears=[TOPIC], selectors=False)) as of_old:
        assert await of_old.connect().append(TOPIC, LANE, [message(1)]), "as Redis 6.2 can say it"


async def test_g3_a_mark_that_is_no_id_does_not_stop_the_publisher(broker: RedisUnderTest) -> None:
    transport = broker.connect()
    ids = await transport.append(TOPIC, LANE, [message(1)])
    await broker.admin.hset(transport.keys.trimmed(TOPIC), str(LANE), "no id")

    assert (await transport.tail(TOPIC, LANE, ids)).lost_from is None

    await transport.close()


async def test_g5_a_certificate_that_nobody_looks_at_is_reported(servers_folder: Path) -> None:
    server = OtherServer(servers_folder / "ways-none", settings=[])
    server.start()
    identity = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("another.example").configure_cert(identity)  # pyright: ignore[reportUnknownMemberType]
    plain = Proxy(server)
    secure = await asyncio.start_server(plain.serve, "127.0.0.1", 0, ssl=identity)
    port = secure.sockets[0].getsockname()[1]
    transport = RedisStreams(f"rediss://:{server.password}@127.0.0.1:{port}/0?ssl_cert_reqs=none")
    try:
        verdicts = await transport.health()
        await transport.close()
    finally:
        plain.cut()
        secure.close()
        server.kill()

    (said,) = [one for one in verdicts if one.subject == "connection"]
    assert said.state == "bad"
    assert said.fact.startswith("ssl_cert_reqs=none: no certificate is looked at")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:secret@broker:6379", "bad: no TLS: the password and every event travel readable to broker"),
        ("redis://broker", "weak: no TLS: every event travels readable to broker"),
        ("rediss://broker?ssl_check_hostname=false", "bad: ssl_check_hostname=false: "),
        ("redis://:secret@127.0.0.1", None),
        ("redis://:secret@[::1]:1", None),
        ("redis://:secret@localhost", None),
        ("rediss://:secret@broker", None),
        ("unix:///run/redis.sock", None),
    ],
)
def test_g5_what_others_on_the_way_can_read_is_told_of_the_address(url: str, said: str | None) -> None:
    found = [f"{one.state}: {one.fact}" for one in RedisServer(url, if_down="", answer_limit_s=1).exposed()]

    assert found == ([] if said is None else [one for one in found if one.startswith(said)])
    assert len(found) == (said is not None)
    assert "secret" not in "".join(found)
