"""`cauce topic list` and `cauce topic forget`."""

import asyncio
from zlib import crc32

import pytest
from cauce.dev.servers import ValkeyServer
from cauce.ports.lanes import LANES, Lane
from cauce.ports.transport import Delivery, Subscription
from cauce.transports.redis_streams import RedisStreams
from testsupport.shop_and_mail import Command, Project, Ticked, UserCreated, World, figures_of, publish, until

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])


class _Quiet:
    def up(self) -> None: ...
    def down(self, reason: str, *, retry_in_s: float) -> None: ...


async def _hear_once(broker: ValkeyServer, group: str, lane: int = 0) -> None:
    """A service that was there for a moment, in one lane, and acknowledged nothing of what it was given."""
    transport = RedisStreams(broker.url)
    taken = asyncio.Event()

    async def deliver(_: Delivery) -> None:
        taken.set()
        await asyncio.Event().wait()

    hearing = asyncio.get_running_loop().create_task(
        transport.consume(
            Subscription(names=frozenset({"x"}), topics=frozenset({"shop-ms"})),
            deliver,
            _Quiet(),
            group=group,
            lanes=lambda: {Lane(lane): 1},
            since={},
        )
    )
    async with asyncio.timeout(20):
        await taken.wait()
    hearing.cancel()
    await asyncio.wait({hearing})
    await transport.close()


async def test_how_much_is_held_and_who_lags(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    async with project.running(broker.url, World()) as (shop, mail):
        await publish(shop, *(Ticked(number=number) for number in range(40)), UserCreated(id="1", name="Ann"))

        async def handled() -> bool:
            figures = await figures_of(mail)
            return sum(one.handled for one in figures.listeners) == 43

        await until(handled)
    await _hear_once(broker, "retired-ms", crc32(b"1") % LANES)  # Ann's

    said = await cauce("topic", "list")

    lines = said.out.splitlines()
    assert said.code == 0
    assert lines[0].startswith("shop-ms  41 entries, the oldest ")
    assert lines[2].split() == ["heard", "by", "lag", "pending", "oldest"]
    assert lines[3].split()[:3] == ["mail-ms", "0", "0"]
    name, lag, pending = lines[4].split()[:3]
    assert name == "retired-ms"
    assert int(pending) >= 1
    assert int(lag) + int(pending) < 41, "of one lane only"
    assert lines[5].strip().startswith("retired-ms is registered and has not come for ")
    topic = (await cauce("topic", "list", "--json")).json["shop-ms"]
    assert topic["entries"] == 41
    assert {group["name"]: group["registered"] for group in topic["groups"]} == {"mail-ms": True, "retired-ms": True}


async def test_forgetting_asks_for_force_while_something_waits(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    transport = RedisStreams(broker.url)
    await transport.append("shop-ms", Lane(0), [b"one", b"two"])
    await transport.close()
    await _hear_once(broker, "retired-ms")

    refused = await cauce("topic", "forget", "retired-ms")
    dry = await cauce("topic", "forget", "retired-ms", "--dry-run")
    forced = await cauce("topic", "forget", "retired-ms", "--force")
    gone = await cauce("topic", "forget", "retired-ms")

    assert refused.code == 1
    assert refused.err.endswith("events in shop-ms still wait for retired-ms. If it will never come back: --force\n")
    assert dry.code == 0
    assert "would be forgotten in shop-ms" in dry.out
    assert forced.code == 0
    assert forced.out == "retired-ms is forgotten in shop-ms, with 2 events it never handled.\n"
    assert gone.code == 2
    assert gone.err == "No topic is heard by 'retired-ms'.\n"
    assert "heard by nobody" in (await cauce("topic", "list")).out


async def test_a_mistyped_group_or_topic_is_answered_with_the_nearest(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    transport = RedisStreams(broker.url)
    await transport.append("shop-ms", Lane(0), [b"one"])
    await transport.close()
    await _hear_once(broker, "mail-ms")

    group = await cauce("topic", "forget", "mial-ms")
    topic = await cauce("topic", "forget", "mail-ms", "--topic", "shp-ms")

    assert group.code == topic.code == 2
    assert group.err == "No topic is heard by 'mial-ms'. Did you mean 'mail-ms'? There is mail-ms.\n"
    assert topic.err == "No topic 'shp-ms'. Did you mean 'shop-ms'?\n"


async def test_an_empty_broker(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    said = await cauce("topic", "list")
    assert said.code == 0
    assert said.screen == (
        "No topics on 127.0.0.1:55555 under the prefix 'cauce': nobody has published or heard\nyet.\n"
    ).replace("\nyet", " yet")
