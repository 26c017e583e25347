"""Producer-side dead letters: seen in every look, released or discarded by a person, and the order of the key is kept."""

import json
from collections.abc import Awaitable, Callable

import pytest
from cauce.dev.servers import ValkeyServer
from testsupport.shop_and_mail import Command, Database, Project, UserCreated, World, figures_of, publish, until

TOO_LARGE = "a message of 300,000 bytes: the limit is 262144"


async def _three_of_one_key_and_one_of_another(project: Project, broker: ValkeyServer) -> bytes:
    """In the outbox of shop; the first of them larger than any message may be. Returns what it was before."""
    async with project.shop("redis://127.0.0.1:1") as shop:
        await publish(shop, *(UserCreated(id="1", name=name) for name in ("Ann", "Bob", "Cy")))
        await publish(shop, UserCreated(id="2", name="Di"))
    async with project.database("shop") as database:
        first = await database.one("SELECT min(position) FROM cauce_outbox")
        before = bytes(await database.one("SELECT message FROM cauce_outbox WHERE position = :first", first=first))
        await _write(database, "cauce_outbox", before + b" " * 300_000)
    return before


async def _write(database: Database, table: str, message: bytes) -> None:
    await database.run(
        f"UPDATE {table} SET message = :message WHERE position = (SELECT min(position) FROM {table})",
        message=message,
    )


def _heard(world: World, count: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return len(world.of("index")) >= count

    return enough


async def _names(project: Project) -> list[str]:
    async with project.database("mail") as mail:
        return [row.name for row in await mail.run("SELECT name FROM welcomes")]


async def test_an_event_set_aside_is_reported_everywhere_and_other_keys_flow(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World()
    await _three_of_one_key_and_one_of_another(project, broker)
    async with project.running(broker.url, world) as (shop, _):
        await until(_heard(world, 1))

        outbox = await cauce("outbox", "status", "shop", "--json")
        doctor = await cauce("doctor", "shop", "--json")
        status = await cauce("status", "shop")
        figures = await figures_of(shop)

    assert [listener for listener, *_ in world.of("index")] == ["index"], "only Di, of the other key"
    (aside,) = outbox.json["shop"]["set_aside"]
    assert (aside["name"], aside["key"], aside["behind"]) == ("shop.user-created", "1", 2)
    assert "the limit is 262144" in aside["problem"]
    told = outbox.json["shop"]["figures"]
    assert (told["set_aside"], told["behind"]) == (figures.outbox.set_aside, figures.outbox.behind) == (1, 2)
    assert doctor.code == 1
    (verdict,) = [one for one in doctor.json["services"]["shop"] if one["subject"] == "set aside"]
    assert verdict["state"] == "bad"
    assert verdict["fact"] == "1 that the broker will never take, and 2 later ones of their keys wait"
    assert verdict["fix"] == "cauce outbox status shop"
    assert "0 waiting" not in status.out
    assert "1 set aside" in " ".join(status.out.split())
    assert "2 behind it" in " ".join(status.out.split())


async def test_released_once_the_cause_is_gone_it_goes_first_and_its_key_follows_in_order(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World()
    before = await _three_of_one_key_and_one_of_another(project, broker)
    async with project.running(broker.url, world) as (shop, _):
        await until(_heard(world, 1))
        async with project.database("shop") as database:
            (aside,) = (await cauce("outbox", "status", "shop", "--json")).json["shop"]["set_aside"]

            again = await cauce("outbox", "release", aside["event_id"][:8], "--because", "perhaps now")

            async def refused_again() -> bool:
                return (await figures_of(shop)).outbox.set_aside == 1

            await until(refused_again)
            assert again.code == 0, again.err
            assert len(world.of("index")) == 1, "nothing of its key went past it"
            await _write(database, "cauce_set_aside", before)

            said = await cauce("outbox", "release", "--name", "shop.**", "--because", "it is repaired")
            await until(_heard(world, 4))

            audit = await database.run("SELECT * FROM cauce_audit ORDER BY position")

    assert said.code == 0
    assert said.out == (
        f"{aside['event_id'][:8]}  was released · shop.user-created, key 1\n"
        "Sent within a second, if the service runs: cauce outbox status\n"
    )
    assert [name for name in await _names(project) if name != "Di"] == ["Ann", "Bob", "Cy"]
    assert [(row.action, row.reason, row.event_id) for row in audit] == [
        ("release outgoing", "perhaps now", aside["event_id"]),
        ("release outgoing", "it is repaired", aside["event_id"]),
    ]


async def test_an_event_discarded_with_a_reason_reaches_no_listener_and_its_key_continues(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World()
    await _three_of_one_key_and_one_of_another(project, broker)
    async with project.running(broker.url, world):
        await until(_heard(world, 1))
        (aside,) = (await cauce("outbox", "status", "shop", "--json")).json["shop"]["set_aside"]

        without = await cauce("outbox", "discard", aside["event_id"])
        dry = await cauce("outbox", "discard", "--all", "--dry-run", "--because", "Ann has left")
        said = await cauce("outbox", "discard", aside["event_id"][:8], "--because", "Ann has left", "--json")
        await until(_heard(world, 3))
        again = await cauce("outbox", "discard", aside["event_id"], "--because", "again")

    assert without.code == 2
    assert "--because" in without.err
    assert "would be discarded" in dry.out
    assert said.json == {"discarded": [aside["event_id"]], "gone": [], "refused": [], "dry_run": False}
    assert [name for name in await _names(project) if name != "Di"] == ["Bob", "Cy"]
    assert again.code == 1
    assert again.err == (
        f"No event that was set aside begins with {aside['event_id']!r}. To see them: cauce outbox status\n"
    )
    async with project.database("shop") as database:
        (audit,) = await database.run("SELECT * FROM cauce_audit")
    assert (audit.action, audit.reason, audit.event_id) == ("discard outgoing", "Ann has left", aside["event_id"])
    assert json.loads(audit.detail)["key"] == "1"
    assert "@" in audit.actor


async def test_each_has_its_reason_and_an_id_that_release_accepts(project: Project, cauce: Command) -> None:
    async with project.database("shop") as shop:
        await shop.described(project.shop("redis://localhost:1"))
        await shop.outgoing("shop.user-created", age=120, key="u-1", problem=TOO_LARGE)
        await shop.outgoing("shop.user-created", age=110, key="u-1")
        await shop.outgoing("shop.user-created", age=100, key="u-2")
        await shop.outgoing("shop.ticked", age=300, problem=TOO_LARGE)

    said = await cauce("outbox", "status", "shop")
    looked = await cauce("status", "shop")

    first, second = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000004"
    assert said.code == 0
    assert said.out == (
        "shop-ms\n"
        "\n"
        "  event              waiting  oldest  set aside  behind\n"
        "  shop.ticked              –   5 min          1       –\n"
        "  shop.user-created        1   2 min          1       1\n"
        "\n"
        "  set aside\n"
        f"    {first}  shop.user-created · key u-1 · 1 later\n"
        "      event of it waiting\n"
        f"      {TOO_LARGE}\n"
        f"    {second}  shop.ticked\n"
        f"      {TOO_LARGE}\n"
        "\n"
        f"    cauce outbox release {first}\n"
        f"    cauce outbox discard {first} --because '…'\n"
        "\n"
        "  waiting    1, oldest 2 min\n"
        "  last sent  never\n"
        "  at most    24 h, 1,000,000 events, 1.0 GiB; whichever comes first\n"
        "  lanes      no process of this service is running\n"
    )
    assert "  outbox     1 waiting, oldest 2 min · 2 set aside · 1 behind them\n" in looked.out
    assert "  set aside  the broker will never take them: cauce outbox status shop\n" in looked.out
    several = await cauce("outbox", "release", first[:12])
    assert several.code == 2
    assert several.err == f"{first[:12]} begins several: {first}, {second}. Write more of it.\n"
    assert (await cauce("outbox", "release", second)).code == 0


@pytest.mark.parametrize("action", ["release", "discard"])
async def test_it_must_be_clear_which_ones_are_meant(project: Project, cauce: Command, action: str) -> None:
    async with project.database("shop"), project.database("mail"):
        because = () if action == "release" else ("--because", "x")

        nothing = await cauce("outbox", action, *because)
        both = await cauce("outbox", action, "0199", "--all", *because)
        none = await cauce("outbox", action, "--all", *because)

    assert nothing.code == both.code == 2
    assert nothing.err == (
        f"cauce outbox {action}: which ones? Ids; or --name; or --all. To see them: cauce outbox status\n"
    )
    assert both.err.startswith(f"cauce outbox {action}: say it in one way, not in two: Ids; or ")
    assert (none.code, none.out) == (0, "No outgoing events like that.\n")
