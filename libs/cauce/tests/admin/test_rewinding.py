"""`cauce rewind` and `cauce db restored`: after a broker or a database has lost something."""

import re

import pytest
from cauce import Service
from cauce.dev.servers import ValkeyServer
from testsupport.shop_and_mail import Command, Project, Ticked, UserCreated, World, figures_of, publish, until


async def _handled(service: Service, count: int) -> None:
    async def done() -> bool:
        figures = await figures_of(service)
        return sum(one.handled for one in figures.listeners) >= count

    await until(done)


async def test_what_was_published_is_sent_again_in_order_and_handled_once(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World()
    async with project.running(broker.url, world) as (shop, mail):
        for number in range(3):
            await publish(shop, UserCreated(id="1", name=f"Ann {number}"), Ticked(number=number))
        await _handled(mail, 12)
        broker.flush()

        dry = await cauce("rewind", "shop", "--published", "--since", "1h", "--dry-run")
        said = await cauce("rewind", "shop", "--published", "--since", "1h", "--because", "the broker was emptied")

        async def all_there_again() -> bool:
            return (await cauce("topic", "list", "--json")).json.get("shop-ms", {}).get("entries") == 6

        await until(all_there_again)
        assert dry.code == said.code == 0
        # The service itself may have missed some by then, and sent them.
        assert re.fullmatch(r"shop: [0-6] events? of [0-6] lanes? would be sent again\.\n", dry.out), dry.out
        assert re.fullmatch(r"shop: [0-6] events? of [0-6] lanes? are sent again\.\n", said.out), said.out
        await publish(shop, Ticked(number=9))
        await _handled(mail, 13)
        assert len(world.of("welcome")) == 3, "the inbox knew them"
        async with project.database("shop") as database:
            (audit,) = await database.run("SELECT action, reason FROM cauce_audit")
        assert tuple(audit) == ("rewind published", "the broker was emptied")


async def test_a_restored_consumer_hears_again_what_came_after_the_backup(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World()
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, UserCreated(id="1", name="Ann"), UserCreated(id="2", name="Bob"))
        await _handled(mail, 6)
    async with project.database("mail") as database:  # a backup from before the second one
        await database.run(
            "DELETE FROM cauce_inbox WHERE event_id IN (SELECT event_id FROM welcomes WHERE name = 'Bob')"
        )
        await database.run("DELETE FROM cauce_position WHERE key = '2'")
        await database.run("DELETE FROM welcomes WHERE name = 'Bob'")
        before = await database.one("SELECT value FROM cauce_meta WHERE name = 'incarnation'")

        restored = await cauce("db", "restored", "mail", "--because", "backup of Monday")
        dry = await cauce("rewind", "mail", "--heard", "--since", "1h", "--dry-run")
        said = await cauce("rewind", "mail", "--heard", "--since", "1h")

        after = await database.one("SELECT value FROM cauce_meta WHERE name = 'incarnation'")
    assert restored.code == 0
    assert restored.out.splitlines()[0] == f"mail: new incarnation {after} (it was {before})."
    assert restored.out.splitlines()[-1].startswith("  cauce rewind mail --heard --since ")
    assert before != after
    assert dry.out == "mail would get 2 events of shop-ms again; those it has handled it recognises.\n"
    assert said.out == "mail gets 2 events of shop-ms again; those it has handled it recognises.\n"

    world.heard.clear()
    async with project.running(broker.url, world) as (_, mail):
        await _handled(mail, 6)
        async with project.database("mail") as database:
            names = [row.name for row in await database.run("SELECT name FROM welcomes ORDER BY name")]
        assert names == ["Ann", "Bob"]
        assert len(world.of("welcome")) == 1


async def test_a_restored_producer_is_not_taken_for_a_repeater(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World()
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, UserCreated(id="1", name="Ann"))
        await publish(shop, UserCreated(id="1", name="Bob"))
        await _handled(mail, 6)
    async with project.database("shop") as database:
        await database.run("UPDATE cauce_key_head SET seq = 0")  # as it was before both
        await cauce("db", "restored", "shop")
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, UserCreated(id="1", name="Cy"))
        await _handled(mail, 9)
        assert (await cauce("dead", "list", "mail")).out == "No dead letters.\n"


async def test_restored_refuses_while_the_service_runs_unless_forced(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        await mail.member("host:17:abc", range(16))

        refused = await cauce("db", "restored", "mail")
        forced = await cauce("db", "restored", "mail", "--force", "--json")

        assert refused.code == 1
        assert refused.err.startswith("mail is running (host:17). Stop it first")
        assert forced.code == 0
        assert forced.json["before"] != forced.json["after"]
        assert await mail.one("SELECT count(*) FROM cauce_lane WHERE member IS NOT NULL") == 0
        assert await mail.one("SELECT action FROM cauce_audit") == "restored"


async def test_rows_that_are_not_kept_any_more_are_said(project: Project, cauce: Command) -> None:
    async with project.database("shop") as shop:
        await shop.outgoing("shop.ticked", age=9000, sent_age=9000)
        await shop.outgoing("shop.ticked", age=500, sent_age=480)
        await shop.outgoing("shop.ticked", age=300, sent_age=290, lane=1)
        await shop.run("DELETE FROM cauce_sent WHERE position = 1")

        said = await cauce("rewind", "shop", "--published", "--since", "2h")

        assert said.out == (
            "shop: 2 events of 2 lanes are sent again.\n"
            "What was sent more than 8 min ago is not kept any more, if there was any.\n"
        )
        assert await shop.one("SELECT count(*) FROM cauce_outbox") == 2


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("mail", "--since", "1h"), "cauce rewind: what is to be done again? --published, --heard, or both."),
        (("--since", "1h", "--heard"), "cauce rewind: one service at a time, please: shop, mail"),
        (("mail", "--since", "1x", "--heard"), "--since 1x: no length of time. Expected 90s, 10m, 2h or 7d."),
        (("mail", "--heard"), "cauce rewind: the following arguments are required: --since."),
        (("mail", "--haerd"), "cauce rewind: unknown option '--haerd'. Did you mean '--heard'?"),
    ],
)
async def test_it_must_be_clear_what_is_meant(
    project: Project, cauce: Command, words: tuple[str, ...], answer: str
) -> None:
    said = await cauce("rewind", *words)
    assert said.code == 2
    assert said.err.startswith(answer)
