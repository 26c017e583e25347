"""`cauce erase`: nothing of a key is left, and its later events are in order all the same."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from cauce.dev.servers import ValkeyServer
from cauce.ports.lanes import Lane
from cauce.stores.sql.erased_keys import erased_name
from cauce.stores.sql.erasing import erase_rows
from cauce.stores.sqlalchemy import SqlAlchemyStore
from sqlalchemy import text
from testsupport.shop_and_mail import Command, Project, Ticked, UserCreated, World, figures_of, publish, until

KEY = "ana@ours.example"
HELD = ("outbox", "sent", "set_aside", "waiting", "dead_letter", "key_head", "position", "audit", "inbox", "started")


UNSENT_OR_SENT = "(SELECT key, key_seq FROM cauce_outbox UNION SELECT key, key_seq FROM cauce_sent) s"
WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM cauce_outbox%'"


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
                "INSERT INTO cauce_audit (created_at, actor, action, detail) VALUES (0, 'ops', 'discard', :detail)",
                detail=f'{{"id":"1","key":"{KEY}","name":"x","error":"ValueError: {KEY} is taken"}}',
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
            numbers = await database.run("SELECT key_seq FROM cauce_sent WHERE key = :key ORDER BY position", key=KEY)
            assert [one[0] for one in numbers] == [3, 4, 5, 6]
            (entry,) = await database.run(
                "SELECT actor, action, reason, detail FROM cauce_audit WHERE action = 'erase'"
            )
            assert entry.reason == "request 17"
            assert erased_name(KEY) in entry.detail

        await until(acknowledged)
        again = await cauce("erase", "shop", "--key", KEY, "--json")
        assert again.json["rows"]["sent"] == 4
        await publish(shop, UserCreated(id=KEY, name="Ann"))
        async with project.database("shop") as database:
            assert await database.one(f"SELECT key_seq FROM {UNSENT_OR_SENT} WHERE key = :key", key=KEY) == 7


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


async def test_a_dead_letter_that_is_being_replayed_stops_it_and_an_effect_under_way_even_if_it_is_given_up(
    project: Project, cauce: Command
) -> None:
    async with project.database("mail") as mail:
        await mail.described(project.mail("redis://127.0.0.1:1"))
        await mail.dead("mail.welcome", "a" * 32, key=KEY)
        await mail.run("UPDATE cauce_waiting SET next_at = :NOW")

        replayed = await cauce("erase", "mail", "--key", KEY)
        await mail.member("mail-ms:1", range(16))
        await mail.run("UPDATE cauce_inbox SET state = 'sending'")
        under_way = await cauce("erase", "mail", "--key", KEY, "--force")

    assert (replayed.code, under_way.code) == (1, 1)
    assert "1 that a listener has not handled yet" in replayed.err
    assert "an effect of an event of this key is under way" in under_way.err
    assert KEY in await everything(project, "mail")


async def test_a_key_that_looks_like_the_hash_of_an_erased_one_is_another_key(
    project: Project, broker: ValkeyServer, cauce: Command, caplog: pytest.LogCaptureFixture
) -> None:
    like_it = erased_name(KEY)
    async with project.running(broker.url, World()) as (shop, mail), project.database("shop") as database:
        await publish(shop, UserCreated(id=KEY, name="Ann"), UserCreated(id=KEY, name="Anna"))
        await until(handled(mail, 6))
        assert (await cauce("erase", "shop", "--key", KEY)).code == 0
        pasted = await cauce("erase", "shop", "--key", like_it, "--json")
        await publish(shop, UserCreated(id=KEY, name="Ann"), *[UserCreated(id=like_it, name="Eve")] * 5)
        await until(handled(mail, 24))
        assert (await cauce("erase", "shop", "--key", KEY)).code == 0
        await publish(shop, UserCreated(id=like_it, name="Eve"), UserCreated(id=KEY, name="Ann"))
        await until(handled(mail, 30))
        numbers = await database.run("SELECT key, key_seq FROM cauce_sent ORDER BY position")
        async with project.database("mail") as heard:
            assert await heard.run("SELECT reason FROM cauce_dead_letter") == []

    assert pasted.json["rows"] == dict.fromkeys(pasted.json["rows"], 0)
    assert [tuple(one) for one in numbers] == [*((like_it, number) for number in range(1, 7)), (KEY, 4)]
    assert "did not come" not in caplog.text


@pytest.mark.parametrize("dialect", ["postgresql"])
async def test_what_is_sent_while_the_key_is_erased_is_erased_as_well(project: Project) -> None:
    """The relay moves a row from the queue to the sent ones; the erasure waits for it and finds it where it went."""
    async with project.database("shop") as shop, asyncio.TaskGroup() as tasks:
        event_id = await shop.outgoing("shop.user-created", age=2, key=KEY)
        await shop.outgoing("shop.user-created", age=2, key="u-2")
        async with shop.engine.connect() as relay:
            await relay.execute(text("DELETE FROM cauce_outbox WHERE event_id = :event_id"), {"event_id": event_id})
            erasing = tasks.create_task(erase_rows(shop.engine, KEY, why=None, force=True))

            async def waits() -> bool:
                return bool(await shop.run(WAITS))

            await until(waits)
            await relay.execute(
                text(
                    "INSERT INTO cauce_sent (sent_seq, position, event_id, topic, key_hash, key, name, message, created_at, "
                    "lane, sent_at, broker_id) VALUES (1, 1, :event_id, 'shop-ms', 0, :key, 'x', '', 0, 0, 0, '1-0')"
                ),
                {"event_id": event_id, "key": KEY},
            )
            await relay.commit()
        assert not isinstance(await erasing, str)
        assert await shop.run("SELECT key FROM cauce_sent") == []
        assert await shop.run("SELECT key FROM cauce_outbox") == [("u-2",)]


async def test_what_the_broker_lost_is_known_although_the_first_row_of_it_is_erased_meanwhile(project: Project) -> None:
    async with project.database("shop") as shop:
        for _ in range(4):
            await shop.outgoing("shop.ticked", age=1, sent_age=1)
        outbox = SqlAlchemyStore(shop.engine).message_store()
        lost = (await outbox.newest_sent("shop-ms", Lane(0), limit=3))[0][0]
        await shop.run("DELETE FROM cauce_sent WHERE position = 2")

        assert await outbox.mark_unsent("shop-ms", Lane(0), from_seq=lost) == 2
        assert await shop.one("SELECT count(*) FROM cauce_sent") == 1, "and no other"


async def test_what_cannot_be_a_key_is_refused(
    project: Project, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [await cauce("erase", "shop", "--key", key) for key in ("\udcff", "a\0b", "x" * 257)]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n")))
    said.append(await cauce("erase", "shop", "--key", "-"))

    assert [(one.code, one.err) for one in said] == [(2, "cauce erase: that is no key.\n")] * 4


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

        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{KEY}\n".encode())))
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
