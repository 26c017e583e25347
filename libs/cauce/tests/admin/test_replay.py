"""Replay and discard, with the service that runs: once, for that listener only, and nothing else moved."""

import asyncio
import json

import pytest
from cauce import Service
from cauce.dev.servers import ValkeyServer
from cauce.errors import CauceError
from cauce.listeners.retry import Retry
from testsupport.shop_and_mail import (
    Command,
    Project,
    Ticked,
    UserCreated,
    World,
    cloud_event,
    figures_of,
    publish,
    until,
)


async def _died(mail: Service, count: int, *, listener: str | None = None) -> None:
    async def dead() -> bool:
        figures = await figures_of(mail)
        return sum(one.dead for one in figures.listeners if listener in (None, one.listener)) >= count

    await until(dead)


async def _settled(mail: Service) -> None:
    async def nothing_waits() -> bool:
        figures = await figures_of(mail)
        return not any(one.waiting or one.dead for one in figures.listeners)

    await until(nothing_waits)


async def _ids(cauce: Command, *filters: str) -> list[str]:
    return [letter["id"] for letter in (await cauce("dead", "list", "mail", "--json", *filters)).json["mail"]]


async def test_a_replay_reaches_that_listener_only_and_its_key_continues_in_order(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"Bob"})
    async with project.running(broker.url, world) as (shop, mail):
        await publish(
            shop, UserCreated(id="2", name="Bob"), UserCreated(id="2", name="Cy"), UserCreated(id="2", name="Di")
        )
        await _died(mail, 1)
        (dead,) = await _ids(cauce)
        indexed = len(world.of("index"))
        world.broken.clear()

        said = await cauce("dead", "replay", dead[:8], "--wait", "--because", "the mail server is back")
        await _settled(mail)

        assert said.code == 0, said.err
        assert said.out == f"{dead[:8]}  was replayed: handled · shop.user-created → mail.welcome\n"
        assert len(world.of("index")) == indexed, "the other listener of the event was not called again"
        last = world.of("welcome")[-3:]
        assert [(attempt, replayed) for _, _, attempt, replayed in last] == [(1, True), (1, False), (1, False)]
        async with project.database("mail") as database:
            names = [row.name for row in await database.run("SELECT name FROM welcomes")]
            assert names == ["Bob", "Cy", "Di"], "in the order they happened"
            (audit,) = await database.run("SELECT * FROM cauce_audit")
        assert (audit.action, audit.reason, audit.consumer) == (
            "replay",
            "the mail server is back",
            "mail-ms/mail.welcome",
        )
        assert "@" in audit.actor
        assert json.loads(audit.detail)["id"] == dead

    gone = await cauce("dead", "replay", dead[:8])
    assert gone.code == 1
    assert gone.err.splitlines()[0].startswith(f"{dead[:8]} was replayed by {audit.actor} at 20")
    assert gone.err.splitlines()[1] == f"{dead[:8]} is no dead letter any more: its listener has handled it."


@pytest.mark.parametrize("times", [5])
async def test_replayed_by_several_people_at_once_it_is_handled_once(
    project: Project, broker: ValkeyServer, cauce: Command, times: int
) -> None:
    from cauce.admin.database import open_engine, read_only_connection
    from cauce.admin.targets import find_targets
    from cauce.stores.sql.dead_letters import DeadLetterFilter, replay, select

    world = World(broken={"Bob", "Cy", "tick 1", "tick 2", "index of Bob"})
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, UserCreated(id="2", name="Bob"), UserCreated(id="3", name="Cy"))
        await publish(shop, Ticked(number=1), Ticked(number=2))
        await _died(mail, 5)
        world.broken.clear()
        world.heard.clear()
        (target,) = find_targets(["mail"])
        async with read_only_connection(target) as connection:
            letters = await select(connection, DeadLetterFilter())

        async def again() -> None:
            async with open_engine(target) as engine:
                for letter in letters:
                    await replay(engine, letter, why=None)

        await asyncio.gather(*(again() for _ in range(times)))
        await _settled(mail)

        assert sorted(listener for listener, *_ in world.heard if listener != "count") == [
            "index", "tick", "tick", "welcome", "welcome",
        ]  # fmt: skip
        assert all(replayed for listener, _, _, replayed in world.heard if listener != "count")


async def test_an_unkeyed_effect_a_durable_domain_event_and_a_rejection_can_be_replayed(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"tick 1", "count of 7"})
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, Ticked(number=1), UserCreated(id="7", name="Eve"), UserCreated(id="8", name="unwanted"))
        await _died(mail, 3)
        world.broken.clear()

        said = await cauce("dead", "replay", "--all", "--service", "mail", "--wait", "--json")

        outcomes = said.json["outcome"]
        rejected = (await cauce("dead", "list", "mail", "--json")).json["mail"]
        assert said.code == 1, "one is dead again"
        assert sorted(outcomes.values()) == ["dead again", "handled", "handled"]
        assert [letter["reason"] for letter in rejected] == ["rejected"]
        assert len(rejected[0]["tried"]) == 2, "both times are remembered"
        assert [replayed for _, _, _, replayed in world.of("tick")] == [False, False, True]
        assert [replayed for _, _, _, replayed in world.of("count")] == [False, False, True]


async def test_filters_a_rate_and_a_dry_run(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    world = World(broken={"Bob", "tick 1", "tick 2"})
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, UserCreated(id="2", name="Bob"), Ticked(number=1), Ticked(number=2))
        await _died(mail, 3)
        world.broken.clear()

        dry = await cauce("dead", "replay", "--listener", "tick", "--dry-run", "--service", "mail")
        still = await _ids(cauce)
        done = await cauce("dead", "replay", "--listener", "tick", "--rate", "50", "--wait", "--service", "mail")
        rest = await cauce("dead", "list", "mail", "--json")

        assert dry.out.endswith("2 dead letters would be replayed.\n")
        assert len(still) == 3
        assert done.out.endswith("2 dead letters were replayed.\n")
        assert [letter["listener"] for letter in rest.json["mail"]] == ["mail.welcome"]


async def test_a_replay_that_fails_is_tried_again_by_the_listeners_own_rules(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"Bob"})
    async with project.running(broker.url, world, retry=Retry(attempts=2, base=0.01, cap=0.01)) as (shop, mail):
        await publish(shop, UserCreated(id="2", name="Bob"))
        await _died(mail, 1)
        (dead,) = await _ids(cauce)

        said = await cauce("dead", "replay", dead, "--wait", "--service", "mail")

        assert said.code == 1
        assert ": dead again · " in said.out.replace("\n          ", " ")
        (letter,) = (await cauce("dead", "list", "mail", "--json")).json["mail"]
        assert (letter["id"], letter["attempts"], len(letter["tried"])) == (dead, 2, 4)


async def test_it_keeps_its_id_however_often_it_dies(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    world = World(broken={"tick 1", "Bob", "count of 3"})
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, Ticked(number=1), UserCreated(id="2", name="Bob"), UserCreated(id="3", name="Cy"))
        await _died(mail, 3)
        before = await _ids(cauce)
        for _ in range(2):
            assert (await cauce("dead", "replay", *before, "--wait", "--service", "mail")).code == 1
        assert sorted(await _ids(cauce)) == sorted(before)


async def test_a_discard_lets_the_key_continue_and_counts_as_no_handling(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"Bob"})
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, UserCreated(id="2", name="Bob"), UserCreated(id="2", name="Cy"))
        await _died(mail, 1)
        (dead,) = await _ids(cauce)

        without = await cauce("dead", "discard", dead)
        empty = await cauce("dead", "discard", dead, "--because", " ")
        said = await cauce("dead", "discard", dead[:8], "--because", "Bob has left")
        await _settled(mail)
        later = await cauce("dead", "discard", dead[:8], "--because", "again")

        assert without.code == 2
        assert "--because" in without.err
        assert empty.code == 2
        assert said.out == f"{dead[:8]}  was discarded · shop.user-created → mail.welcome\n"
        assert later.code == 1
        assert later.err.endswith(", because Bob has left\n")
        status = (await cauce("status", "mail", "--json")).json["mail"]["listeners"]
        (welcome,) = [one for one in status if one["listener"] == "mail.welcome"]
        assert (welcome["handled"], welcome["dead"], welcome["discarded"]) == (1, 0, 1)
        async with project.database("mail") as database:
            assert [row.name for row in await database.run("SELECT name FROM welcomes")] == ["Cy"]


async def test_what_no_listener_could_be_given_is_not_replayed(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail, project.database("shop"):
        await mail.dead("", "a" * 32, name="?", reason="undecodable", message=b"\x00not an event")
        await mail.dead("", "b" * 32, reason="undecodable", message=cloud_event("1", name="shop.unknown"))

        said = await cauce("dead", "replay", "--all")

        assert said.code == 1
        assert "aaaaaaaa  was not replayed: its bytes are no event" in said.out
        assert "bbbbbbbb  was not replayed: it belongs to no listener" in said.out
        assert await mail.one("SELECT count(*) FROM cauce_waiting") == 0


async def test_a_payload_that_still_does_not_fit_is_dead_again_after_a_replay_and_said_once(
    project: Project, broker: ValkeyServer, cauce: Command, caplog: pytest.LogCaptureFixture
) -> None:
    async with project.database("mail") as mail:
        await mail.dead("mail.welcome", "c" * 32, reason="undecodable", key="9", data={"id": 9, "name": "Zoë"})
    async with project.running(broker.url, World()) as (_, mail):
        said = await cauce("dead", "replay", "cccc", "--wait", "--service", "mail")

        assert said.code == 1, said
        (letter,) = (await cauce("dead", "list", "mail", "--json")).json["mail"]
        assert letter["error"] == "$.id: expected str, got int"
        assert letter["state"] == "dead"
        assert sum("undecodable: $.id: expected" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("action", ["replay", "discard"])
async def test_it_must_be_clear_which_ones_are_meant(project: Project, cauce: Command, action: str) -> None:
    because = () if action == "replay" else ("--because", "x")
    nothing = await cauce("dead", action, *because)
    both = await cauce("dead", action, "3f", "--all", *because)

    assert nothing.code == both.code == 2
    assert nothing.err == (
        f"cauce dead {action}: which ones? Ids; or --listener, --name, --reason, --since; or --all. To see them: "
        "cauce dead list\n"
    )
    assert both.err.startswith(f"cauce dead {action}: say it in one way, not in two: Ids; or ")


async def test_an_id_of_the_one_database_does_not_wait_for_the_other(
    project: Project, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project.database("mail") as mail:
        await mail.dead("mail.welcome", "d" * 32)
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql+psycopg://shop:sesame@127.0.0.1:1/shop")

    found = await cauce("dead", "show", "dddd")
    unknown = await cauce("dead", "show", "eeee")

    assert found.code == 0
    assert unknown.code == 3
    assert unknown.err.startswith("shop: no PostgreSQL at 127.0.0.1:1/shop")


def test_the_errors_of_this_package_are_cauces() -> None:
    from cauce.admin.database import DatabaseUnavailableError
    from cauce.ports.figures import NoTablesError
    from cauce.stores.sql.listeners import NoSuchListenerError

    assert all(issubclass(one, CauceError) for one in (DatabaseUnavailableError, NoSuchListenerError, NoTablesError))
