"""Large events over a slow link, and behind a server that ends a connection whose answers are large."""

import asyncio
from pathlib import Path

import pytest
from cauce.ports.lanes import Lane
from cauce.testing.transport_contract import LANE, TOPIC, acknowledged, hearing, message, publishing
from cauce.transports.redis.connection import RedisServer, RedisTroubleError
from cauce.transports.redis.pipeline import RedisCommands
from cauce.transports.redis.portion import Portion
from testsupport.redis_under_test import OtherServer, RedisUnderTest, proxy

MANY = 100
BODY = "x" * 40_000


async def publish(broker: RedisUnderTest, *, lane: Lane = LANE) -> None:
    async with publishing(broker) as transport:
        await transport.append(TOPIC, lane, [message(number, body=BODY) for number in range(MANY)])


async def test_c7_large_events_come_over_a_slow_link_once_and_in_order(broker: RedisUnderTest) -> None:
    await publish(broker)
    async with proxy(broker.server) as link:
        link.replies_per_s = 1_300_000  # all of them take three times as long as the limit below
        async with hearing(broker.connect(url=link.url, answer_limit_s=1.0), lanes={LANE}) as heard:
            await heard.has(*range(MANY))
            await acknowledged(broker)
    assert heard.ids == [f"event-{number}" for number in range(MANY)]
    assert not heard.troubles
    assert link.replied < 1.2 * MANY * len(BODY), "nothing was asked for twice"


async def test_c7_what_ends_the_connection_is_asked_for_in_smaller_portions(servers_folder: Path) -> None:
    server = OtherServer(servers_folder / "small-answers", settings=["client-output-buffer-limit normal 1900kb 0 0"])
    server.start()
    broker = RedisUnderTest(server)
    try:
        await publish(broker)
        async with proxy(server) as link, hearing(broker.connect(url=link.url), lanes={LANE}) as heard:
            await heard.has(*range(MANY))
            await acknowledged(broker)
        assert list(dict.fromkeys(heard.ids)) == [f"event-{number}" for number in range(MANY)]
        assert heard.troubles, "it did end the connection"
        assert link.replied < 3 * MANY * len(BODY)
    finally:
        await broker.close()
        await asyncio.to_thread(server.kill)


async def test_a_server_that_falls_silent_within_an_answer_is_noticed(broker: RedisUnderTest) -> None:
    async with proxy(broker.server) as link:
        server = RedisServer(link.url, if_down="?", answer_limit_s=0.3)
        commands = RedisCommands(server, answer_limit_s=0.3)
        pipeline = await commands.pipeline()
        await broker.admin.set("large", "x" * 1_000_000)
        link.replies_per_s = 100  # the first piece, and then nothing for minutes
        with pytest.raises(RedisTroubleError, match=r"no answer .* is it frozen"):
            await pipeline.ask(("GET", "large"))
        commands.close()


def test_a_portion_shrinks_at_once_and_grows_with_quick_reads_to_its_bound() -> None:
    portion = Portion(512)
    portion.failed()
    portion.came(took_s=5.0)
    assert portion.entries == 128
    for _ in range(7):
        portion.came(took_s=0.01)
    assert portion.entries == 128
    for _ in range(50):
        portion.came(took_s=0.01)
    assert portion.entries == 512
    for _ in range(20):
        portion.failed()
    assert portion.entries == 1
