"""What a service with the right to hear a topic can do to the others that hear it, and how `cauce doctor` finds it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from cauce.dev.servers import ValkeyServer
from cauce.ports.lanes import LANES
from cauce.transports.redis_streams import RedisStreams
from redis.asyncio import Redis
from testsupport.shop_and_mail import Command, Project, Said, Ticked, World, figures_of, publish, until

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])

STREAMS = [f"cauce:{{shop-ms}}:{lane}" for lane in range(LANES)]


@asynccontextmanager
async def spying(valkey: ValkeyServer) -> AsyncGenerator[Any]:
    """A user with the rights of one who hears shop-ms, and nothing else."""
    async with cast("Any", Redis).from_url(valkey.url) as admin:
        rights = RedisStreams(valkey.url).rights(hears=["shop-ms"])
        await admin.execute_command("ACL", "SETUSER", "spy", "reset", "on", ">secret", *rights)
        async with Redis(
            host=valkey.host, port=valkey.port, username="spy", password="secret", decode_responses=True, protocol=2
        ) as spy:
            yield spy
        await admin.execute_command("ACL", "DELUSER", "spy")


@pytest.fixture
def of_shop(
    project: Project, own_valkey: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Any]:
    monkeypatch.setenv("REDIS_URL", own_valkey.url)

    async def ask() -> dict[str, tuple[str, str, str]]:
        said: Said = await cauce("doctor", "--json")
        return {
            one["subject"]: (one["state"], one["fact"], one["fix"])
            for verdicts in said.json["brokers"].values()
            for one in verdicts
            if one["state"] != "good"
        }

    return ask


async def heard_once(project: Project, valkey: ValkeyServer, *, events: int = 40) -> None:
    """Both services have run, and all sixteen streams have the group of mail-ms."""
    async with project.running(valkey.url, World()) as (shop, mail):
        await publish(shop, *(Ticked(number=number) for number in range(events)))

        async def handled() -> bool:
            figures = await figures_of(mail)
            return sum(one.handled for one in figures.listeners) == events and figures.lanes_owned == LANES

        await until(handled)


async def test_a_system_without_strangers_has_none(
    project: Project, own_valkey: ValkeyServer, of_shop: Callable[[], Any]
) -> None:
    await heard_once(project, own_valkey)

    assert await of_shop() == {}


async def test_g3_a_reader_in_the_group_of_another_service_is_found(
    project: Project, own_valkey: ValkeyServer, of_shop: Callable[[], Any]
) -> None:
    await heard_once(project, own_valkey)
    async with spying(own_valkey) as spy:
        await spy.execute_command("XREADGROUP", "GROUP", "mail-ms", "spy-1", "COUNT", "1", "STREAMS", STREAMS[3], ">")

    state, fact, fix = (await of_shop())["foreign reader"]

    assert state == "bad"
    assert fact == (
        "'spy-1' reads shop-ms in the group of mail-ms and is no process of it: what it takes, mail-ms does not get"
    )
    assert "docs/how-to/rights-per-service.md" in fix
    assert "cauce rewind mail --heard --since WHEN" in fix


@pytest.mark.parametrize("how", ["registered", "in a stream", "the name of one that does not hear it"])
async def test_g3_a_ghost_that_stops_trimming_is_found_and_forgotten(
    project: Project, own_valkey: ValkeyServer, of_shop: Callable[[], Any], cauce: Command, how: str
) -> None:
    await heard_once(project, own_valkey)
    name = "shop-ms" if how.startswith("the name") else "ghost"
    async with spying(own_valkey) as spy:
        if how == "in a stream":
            await spy.execute_command("XGROUP", "CREATE", STREAMS[0], name, "0-0", "MKSTREAM")
            async with cast("Any", Redis).from_url(own_valkey.url) as admin:
                await admin.xadd(STREAMS[0], {"e": "{}"})
        else:
            await spy.hsetnx("cauce:{shop-ms}:groups", name, "0-0")

    state, fact, fix = (await of_shop())[name]
    forgotten = await cauce("topic", "forget", name, "--topic", "shop-ms", "--force")

    assert state == "bad"
    assert fact == {
        "registered": "is registered in shop-ms, and no stream has its group: it never came; "
        "shop-ms cannot be trimmed, and grows",
        "in a stream": "has a group in shop-ms, and never read from it; shop-ms cannot be trimmed, and grows",
    }.get(how, "has a group in shop-ms, and shop-ms does not hear it; shop-ms cannot be trimmed, and grows")
    assert f"cauce topic forget {name} --topic shop-ms" in fix
    assert forgotten.code == 0
    assert name not in await of_shop()


async def test_g3_a_mark_that_would_hide_losses_is_found(
    project: Project, own_valkey: ValkeyServer, of_shop: Callable[[], Any]
) -> None:
    await heard_once(project, own_valkey)
    async with spying(own_valkey) as spy:
        await spy.hsetnx("cauce:{shop-ms}:trimmed", "7", f"{2**63}-0")
        await spy.hsetnx("cauce:{shop-ms}:trimmed", "9", "no id")

    state, fact, fix = (await of_shop())["trimming marks"]

    assert state == "bad"
    assert fact.startswith("shop-ms says of 2 lanes that more was trimmed on purpose than there ever was")
    assert fix == "redis-cli HDEL 'cauce:{shop-ms}:trimmed' 7 9"
