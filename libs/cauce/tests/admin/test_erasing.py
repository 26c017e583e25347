"""`cauce erase`: nothing of a key is left, and its later events are in order all the same."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from cauce.dev.servers import ValkeyServer
from cauce.stores.sql.erased_keys import erased_name
from testsupport.shop_and_mail import Command, Project, Ticked, UserCreated, World, figures_of, publish, until

KEY = "ana@ours.example"
HELD = ("outbox", "waiting", "dead_letter", "key_head", "position", "audit", "inbox", "started")


async def everything(project: Project, name: str) -> str:
    """All that Cauce's tables of a service hold, as text."""
    async with project.database(name) as database:
        return str([await database.run(f"SELECT * FROM cauce_{table}") for table in HELD])


def on_the_broker(broker: ValkeyServer) -> str:
    with redis.Redis(host=broker.host, port=broker.port, password=broker.password) as client:
        found: list[Any] = [client.xrange(f"cauce:{{shop-ms}}:{lane}") for lane in range(16)]
    return str(found)


def handled(service: Any, number: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return sum(one.handled for one in (await figures_of(service)).listeners) == number

    return condition


async def test_nothing_of_the_key_is_left_and_its_later_events_are_in_order(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.running(broker.url, World()) as (shop, mail):
        await publish(shop, UserCreated(id=KEY, name="Ann"), UserCreated(id="u-2", name="Bob"), Ticked(number=1))
        await publish(shop, UserCreated(id=KEY, name="Anna"))
        await until(handled(mail, 10))  # both listeners of a user, one of a tick, and what they publish themselves
        async with project.database("mail") as database:
            await database.run(
                "INSERT INTO cauce_audit (at, who, what, detail) VALUES (0, 'ops', 'discard', :detail)",
                detail=f'{{"id":"1","key":"{KEY}","name":"x"}}',
            )

        async def acknowledged() -> bool:
            return (await cauce("erase", "shop", "--key", KEY, "--dry-run")).code == 0

        await until(acknowledged)  # a moment after it was handled
        would = await cauce("erase", "shop", "--key", KEY, "--dry-run", "--json")
        of_shop = await cauce("erase", "shop", "--key", KEY, "--because", "request 17", "--json")
        of_mail = await cauce("erase", "mail", "--key", KEY, "--json")

        assert (would.code, of_shop.code, of_mail.code) == (0, 0, 0), of_shop.err + of_mail.err
        assert would.json["rows"] == of_shop.json["rows"]
        assert of_shop.json["rows"]["sent"] == 2
        assert of_shop.json["streams"] == [{"topic": "shop-ms", "erased": 2, "unacknowledged": 0}]
        assert of_mail.json["rows"]["audit_entries"] == 1
        for said in (of_shop, of_mail):
            assert said.json["key_hash"] == erased_name(KEY)
        assert KEY not in await everything(project, "shop")
        assert KEY not in await everything(project, "mail")
        assert KEY not in on_the_broker(broker)
        assert "u-2" in on_the_broker(broker), "the others stay"

        before = sum(one.handled for one in (await figures_of(mail)).listeners)
        async with asyncio.TaskGroup() as tasks:  # at once: none of them finds a number of the key yet
            for number in range(4):
                tasks.create_task(publish(shop, UserCreated(id=KEY, name=f"Ann, back {number}")))
        await until(handled(mail, before + 12))
        async with project.database("mail") as database:
            assert await database.one("SELECT count(*) FROM cauce_dead_letter") == 0, "nothing came too late"
            assert await database.one("SELECT max(last_seq) FROM cauce_position WHERE key = :key", key=KEY) == 6
        async with project.database("shop") as database:
            numbers = await database.run("SELECT key_seq FROM cauce_outbox WHERE key = :key ORDER BY position", key=KEY)
            assert [one[0] for one in numbers] == [3, 4, 5, 6]
            (entry,) = await database.run("SELECT who, what, why, detail FROM cauce_audit WHERE what = 'erase'")
            assert entry.why == "request 17"
            assert erased_name(KEY) in entry.detail

        await until(acknowledged)
        again = await cauce("erase", "shop", "--key", KEY, "--json")
        assert again.json["rows"]["sent"] == 4
        await publish(shop, UserCreated(id=KEY, name="Ann"))
        async with project.database("shop") as database:
            assert await database.one("SELECT key_seq FROM cauce_outbox WHERE key = :key", key=KEY) == 7


async def test_what_is_still_to_be_done_stops_it_unless_it_is_given_up(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.database("mail") as mail:
        await mail.described(project.mail(broker.url))
        await mail.outgoing("mail.sent", age=7, key=KEY)
        await mail.dead("mail.welcome", "a" * 32, key=KEY)
        await mail.waiting("mail.welcome", key=KEY)

    refused = await cauce("erase", "mail", "--key", KEY)
    kept = await everything(project, "mail")
    forced = await cauce("erase", "mail", "--key", KEY, "--force")

    assert refused.code == 1
    assert refused.err == (
        "mail: there are events of this key still to be done: 1 not sent yet and 1 that a listener has not handled yet. "
        "Nothing was erased. To give them up: --force\n"
    )
    assert KEY in kept
    assert forced.code == 0, forced.err
    assert KEY not in await everything(project, "mail")
    assert KEY not in forced.out


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_what_a_group_has_not_acknowledged_stays_and_is_reported(
    project: Project, broker: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project.running(broker.url, World()) as (shop, mail):
        await publish(shop, UserCreated(id=KEY, name="Ann"))
        await until(handled(mail, 3))
        with redis.Redis(host=broker.host, port=broker.port, password=broker.password) as client:
            for lane in range(16):
                client.xgroup_create(f"cauce:{{shop-ms}}:{lane}", "slow-ms", "0", mkstream=True)

        monkeypatch.setattr("sys.stdin", io.StringIO(f"{KEY}\n"))
        said = await cauce("erase", "shop", "--key", "-")
        as_json = await cauce("erase", "shop", "--key", KEY, "--json")

    assert said.code == 1
    assert "shop-ms: 1 left on the broker, which a group has not acknowledged yet." in said.out
    assert as_json.json["streams"] == [{"topic": "shop-ms", "erased": 0, "unacknowledged": 1}]
    assert as_json.json["complete"] is False
    assert KEY in on_the_broker(broker)


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_broker_that_is_away_is_reported(
    project: Project, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    async with project.database("shop") as shop:
        await shop.described(project.shop("redis://127.0.0.1:1"))

    said = await cauce("erase", "shop", "--key", KEY)
    several = await cauce("erase", "--key", KEY)

    assert said.code == 1
    assert "The broker was not asked: no Redis at 127.0.0.1:1 (refused)" in " ".join(said.out.split())
    assert several.code == 2
    assert several.err == "cauce erase: one service at a time, please: shop, mail\n"
