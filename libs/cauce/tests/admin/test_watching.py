"""`cauce tail`: beside the groups, by name, from a moment on, through an outage."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cauce.admin.broker import open_broker
from cauce.admin.targets import Broker
from cauce.dev.servers import ValkeyServer
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import Lane
from cauce.ports.topics import Seen
from cauce.transports.redis_streams import RedisStreams
from testsupport.shop_and_mail import Command, Project, Ticked, UserCreated, World, publish, until

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])


async def _is(truth: bool) -> bool:
    return truth


async def _append(broker: ValkeyServer, *messages: bytes, topic: str = "shop-ms", lane: int = 3) -> Sequence[str]:
    transport = RedisStreams(broker.url)
    try:
        return await transport.append(topic, Lane(lane), messages)
    finally:
        await transport.close()


async def test_every_event_of_the_past_hour_with_its_payload_and_without_secrets(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    event = UserCreated(id="u-1", name="Ann")
    raw = to_json(Envelope.of(event)).replace(
        b'"name":"Ann"', b'"name":"Ann","apiKey":"k-1","bio":"' + b"x" * 90 + b'"'
    )
    await _append(broker, raw, b'{"secret": "sesame", "not": "an event\x1b[2J"}')

    said = await cauce("tail", "--since", "1h", "--no-follow")

    assert said.code == 0
    assert said.screen == (
        "08:05:41.123  shop.user-created\n"
        "  shop-ms · xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx · key u-1\n"
        '  {"id": "u-1", "name": "Ann", "apiKey": "••••", "bio": "xxxxxxxxxxxxxxxxxxxxxx…\n'
        "08:05:41.123  not an event in shop-ms, lane 3: $: CloudEvents 1.0 JSON\n"
        '  {"secret": ••••, "not": "an event\\x1b[2J"}\n'
    )
    assert max(map(len, said.out.splitlines())) <= 80


async def test_full_shows_all_ids_and_the_payload_line_by_line(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.running(broker.url, World()) as (shop, _):
        await publish(shop, UserCreated(id="u-1", name="Ann"))
        said = await cauce("tail", "--since", "1h", "--limit", "1", "--full")

    assert said.code == 0
    assert "  sequence 1\n" in said.out
    assert "  conversation " in said.out
    assert '  {\n    "id": "u-1",\n    "name": "Ann"\n  }\n' in said.out


async def test_names_patterns_and_topics_narrow_it(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    await _append(broker, to_json(Envelope.of(UserCreated(id="1", name="Ann"))), to_json(Envelope.of(Ticked(number=1))))
    await _append(broker, to_json(Envelope.of(Ticked(number=2))), topic="other")

    async def names(*words: str) -> list[tuple[str, str]]:
        said = await cauce("tail", "--since", "1h", "--no-follow", "--json", *words)
        assert said.code == 0
        return [(one["topic"], one["name"]) for one in map(json.loads, said.out.splitlines())]

    created, ticked, other = ("shop-ms", "shop.user-created"), ("shop-ms", "shop.ticked"), ("other", "shop.ticked")
    assert sorted(await names()) == sorted([created, ticked, other])
    assert await names("shop.user-created") == [created]
    assert sorted(await names("*.ticked")) == sorted([ticked, other])
    assert await names("**", "--topic", "other") == [other]
    assert await names("user.**") == []


async def test_a_name_that_no_service_knows_is_answered_with_the_nearest(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.database("mail") as mail:
        await mail.described(project.mail(broker.url))

    said = await cauce("tail", "shop.user-creatd", "--no-follow")

    assert said.code == 0
    assert said.err == (
        "No service of the project says that it knows 'shop.user-creatd'. Did you mean 'shop.user-created'?\n"
    )


async def test_it_follows_topics_that_are_new_too_and_moves_nobodys_position(
    project: Project, broker: ValkeyServer
) -> None:
    seen: list[Seen] = []
    await _append(broker, b"from before")
    async with open_broker(Broker(url=broker.url, origin="test")) as view, asyncio.timeout(60):

        async def look() -> None:
            async for one in view.watch((), since=None, follow=True, trouble=lambda _: None):
                seen.append(one)
                if one.topic == "brand-new":
                    return

        looking = asyncio.get_running_loop().create_task(look())
        while not seen:  # until it has begun to look
            await _append(broker, to_json(Envelope.of(Ticked(number=1))))
            await asyncio.sleep(0.02)
        await _append(broker, to_json(Envelope.of(Ticked(number=2))), topic="brand-new", lane=5)
        await looking
        topic = await view.topic("shop-ms")

    assert {one.payload["number"] for one in seen if one.topic == "shop-ms"} == {1}
    assert [one.payload["number"] for one in seen if one.topic == "brand-new"] == [2]
    assert topic.groups == ()


async def test_an_outage_is_reported_and_no_event_of_it_is_missed(project: Project, own_valkey: ValkeyServer) -> None:
    told: list[str | None] = []
    seen: list[Seen] = []

    async def append(number: int) -> None:
        await _append(own_valkey, to_json(Envelope.of(Ticked(number=number))))

    async with open_broker(Broker(url=own_valkey.url, origin="test")) as view, asyncio.timeout(60):
        await append(0)

        async def look() -> None:
            async for one in view.watch(
                ("shop-ms",), since=datetime.fromtimestamp(0, UTC), follow=True, trouble=told.append
            ):
                seen.append(one)
                if len(seen) == 3:
                    return

        looking = asyncio.get_running_loop().create_task(look())
        await until(lambda: _is(bool(seen)))
        await asyncio.to_thread(own_valkey.stop)
        await until(lambda: _is(bool(told)))
        await asyncio.to_thread(own_valkey.start)
        await append(1)
        await append(2)
        await looking

    assert [one.payload["number"] for one in seen] == [0, 1, 2]
    assert told[0] is not None
    assert told[0].startswith("no Redis at 127.0.0.1:")
    assert told[1:] == [None]


async def test_without_a_broker_it_says_where_it_looked(
    project: Project, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@127.0.0.1:1")

    said = await cauce("tail")

    assert said.code == 3
    assert said.err == "no Redis at 127.0.0.1:1 (refused) → is it running? (REDIS_URL (environment))\n"
