"""`cauce waiting`: what waits and why; tried now, moved, discarded, beside the service that runs."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

from cauce import Context, Service, on
from cauce.dev.servers import ValkeyServer
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.retry import Retry
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from testsupport.shop_and_mail import (
    FAST,
    Command,
    Project,
    Said,
    Ticked,
    UserCreated,
    World,
    figures_of,
    publish,
    until,
)

PATIENT = Retry(attempts=5, base=1e6, cap=1e6)
"""After a failure, the next try is in days."""
BECAUSE = "given up by hand"


async def _listed(cauce: Command, *filters: str) -> list[dict[str, Any]]:
    said = await cauce("waiting", "list", "mail", "--json", *filters)
    assert said.code == 0, said.err
    return said.json["mail"]


async def _wait_for(service: Service, listener: str, *, waiting: int | None = None, handled: int | None = None) -> None:
    async def so() -> bool:
        (one,) = [one for one in (await figures_of(service)).listeners if one.listener == listener]
        return waiting in (None, one.waiting) and handled in (None, one.handled)

    await until(so)


def _narrow(*said: Said) -> None:
    for one in said:
        assert one.err == ""
        assert max(map(len, one.out.splitlines())) <= 80, one.out


async def test_a_failing_event_is_shown_with_its_error_and_place_and_is_tried_now(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"Bob"})
    async with project.running(broker.url, world, retry=PATIENT) as (shop, mail):
        await publish(shop, *(UserCreated(id="2", name=name) for name in ("Bob", "Cy", "Di")))
        await _wait_for(mail, "mail.welcome", waiting=3)

        failing, *behind = sorted(await _listed(cauce, "--listener", "welcome"), key=lambda one: one["ahead"])
        assert (failing["state"], failing["attempts"], failing["allowed_attempts"]) == ("failing", 1, 5)
        assert failing["error"] == "OutOfOrderError: Bob is broken"
        assert failing["place"].startswith("shop_and_mail.py:")
        assert 0 < failing["due_in_s"] <= 1e6
        assert [(one["state"], one["head"], one["head_is_dead"]) for one in behind] == [
            ("behind", failing["id"], False)
        ] * 2
        screens = [
            await cauce("status", "mail"),
            await cauce("waiting", "list"),
            await cauce("waiting", "show", failing["id"][:10]),
            await cauce("waiting", "show", behind[0]["id"]),
        ]
        _narrow(*screens)
        for screen in screens[:3]:
            words = " ".join(screen.out.split())
            assert "OutOfOrderError: Bob is broken" in words
            assert failing["place"] in words
            assert "key 2" in words
            assert f"cauce waiting {'show' if screen is screens[1] else 'retry'} {failing['id'][:12]}" in words
        assert re.search(r"attempt 1 of 5 failed · next in \d+ [a-z]+", " ".join(screens[1].out.split()))
        assert "1 of 5" in screens[2].out
        assert f"behind event {failing['id'][:12]}: OutOfOrderError: Bob is broken" in " ".join(screens[3].out.split())
        (doctor,) = [
            one
            for one in (await cauce("doctor", "mail", "--json")).json["services"]["mail"]
            if one["subject"] == "failing"
        ]
        assert doctor["fix"] == "cauce waiting list mail --state failing"
        assert failing["id"][:12] in (await cauce(*doctor["fix"].split()[1:])).out

        refused = await cauce("waiting", "retry", behind[0]["id"])
        assert refused.code == 1
        assert f"cauce waiting retry {failing['id'][:12]}" in " ".join(refused.out.split())
        world.broken.clear()
        said = await cauce("waiting", "retry", failing["id"][:8], "--because", "it works again")
        assert said.code == 0, said.out
        await _wait_for(mail, "mail.welcome", waiting=0, handled=3)
        async with project.database("mail") as database:
            assert [row.name for row in await database.run("SELECT name FROM welcomes")] == ["Bob", "Cy", "Di"]
            (audit,) = await database.run("SELECT action, reason FROM cauce_audit")
        assert tuple(audit) == ("retry", "it works again")
        assert [attempt for _, _, attempt, _ in world.of("welcome")] == [1, 2, 1, 1]
        gone = await cauce("waiting", "show", failing["id"])
        assert gone.code == 1
        assert "its listener has handled it" in gone.err
    assert (await cauce("waiting", "list")).out == "Nothing waits.\n"


async def test_a_discarded_head_lets_the_key_continue_and_is_not_counted_as_handled(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"Bob", "tick 1", "count of 3"})
    async with project.running(broker.url, world, retry=PATIENT) as (shop, mail):
        await publish(
            shop,
            *(UserCreated(id="2", name=name) for name in ("Bob", "Cy")),
            UserCreated(id="3", name="Ed"),
            Ticked(number=1),
        )
        for listener, waiting in (("welcome", 2), ("tick", 1), ("count", 1)):
            await _wait_for(mail, f"mail.{listener}", waiting=waiting)

        assert (await cauce("waiting", "discard", "--state", "failing", "--because", " ")).code == 2
        dry = await cauce("waiting", "discard", "--state", "failing", "--because", BECAUSE, "--dry-run")
        assert dry.code == 0
        assert "3 waiting events would be discarded." in dry.out
        said = await cauce("waiting", "discard", "--state", "failing", "--because", BECAUSE)
        assert said.code == 0, said.out
        assert "3 waiting events were discarded." in said.out
        _narrow(dry, said)

        for listener, handled in (("welcome", 2), ("tick", 0), ("count", 1)):
            await _wait_for(mail, f"mail.{listener}", waiting=0, handled=handled)
        figures = {one.listener: one.discarded for one in (await figures_of(mail)).listeners}
    assert figures == {"mail.welcome": 1, "mail.tick": 1, "mail.count": 1, "mail.index": 0}
    async with project.database("mail") as database:
        audit = await database.run("SELECT action, reason, detail FROM cauce_audit")
        assert await database.one("SELECT count(*) FROM cauce_inbox WHERE state IS NOT NULL") == 0
    assert [(row.action, row.reason) for row in audit] == [("discard", BECAUSE)] * 3
    gone = await cauce("waiting", "show", json.loads(audit[0].detail)["id"][:12])
    assert f"because {BECAUSE}" in gone.err


async def test_what_waits_for_a_listener_that_is_gone_is_moved_in_order_or_discarded(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    heard: list[str] = []

    @on(UserCreated, name="mail.greet", retry=PATIENT)
    async def greet(event: UserCreated, context: Context) -> None:
        heard.append(event.name)

    world = World(broken={"Bob", "Eve"})
    async with project.running(broker.url, world, retry=PATIENT) as (shop, mail):
        await publish(
            shop,
            *(UserCreated(id="2", name=name) for name in ("Bob", "Cy", "Di")),
            *(UserCreated(id="3", name=name) for name in ("Eve", "Fay")),
        )
        await _wait_for(mail, "mail.welcome", waiting=5)
    store = SqlAlchemyStore(create_engine(project.urls["mail"]))
    renamed = Service(
        "mail-ms",
        modules=[greet],
        retired=["mail.welcome", "mail.index", "mail.tick"],
        store=store,
        transport=RedisStreams(broker.url),
        start="now",
        pace=FAST,
    )
    async with renamed:
        fixes = [
            one["fix"]
            for one in (await cauce("doctor", "mail", "--json")).json["services"]["mail"]
            if one["subject"] == "left behind"
        ]
        assert fixes == ["cauce waiting list mail --listener mail.welcome"]
        listed = await cauce(*fixes[0].split()[1:])
        _narrow(listed)
        words = " ".join(listed.out.split())
        assert "5 waiting events" in words
        assert "cauce waiting move --listener mail.welcome --to OTHER" in words
        assert "cauce waiting discard --listener mail.welcome --because '…'" in words

        assert (await cauce("waiting", "move", "--listener", "mail.welcome", "--to", "nobody")).code == 2
        not_now = await cauce("waiting", "retry", "--listener", "mail.welcome", "--state", "gone")
        assert not_now.code == 1
        moved = await cauce("waiting", "move", "--listener", "mail.welcome", "--key", "2", "--to", "greet")
        assert moved.code == 0, moved.out
        await _wait_for(renamed, "mail.greet", waiting=0, handled=3)
        assert heard == ["Bob", "Cy", "Di"]
        said = await cauce("waiting", "discard", "--listener", "mail.welcome", "--because", BECAUSE)
        assert said.code == 0, said.out
        figures = {one.listener: one for one in (await figures_of(renamed)).listeners}
        assert (figures["mail.welcome"].waiting, figures["mail.welcome"].handled) == (0, 0)
        assert "left behind" not in (await cauce("doctor", "mail")).out


async def test_a_dead_letter_of_a_listener_that_is_gone_is_not_replayed_but_discarded(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.running(broker.url, World()):
        pass
    async with project.database("mail") as database:
        await database.dead("mail.of_yore", "4f" * 16, key="7")

    said = await cauce("dead", "replay", "4f")
    assert said.code == 1
    words = " ".join(said.out.split())
    assert "was not replayed: no listener mail.of_yore in the code of mail any more" in words
    assert "cauce dead discard 4f4f4f4f --because" in words

    doctor = await cauce("doctor", "mail", "--json")
    (fix,) = [one["fix"] for one in doctor.json["services"]["mail"] if one["subject"] == "dead of old"]
    assert (await cauce(*fix.replace('"…"', "gone").split()[1:])).code == 0
    assert "dead of old" not in (await cauce("doctor", "mail")).out


async def test_an_event_the_other_listener_has_had_or_does_not_hear_is_not_moved(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"Bob", "tick 1"})
    async with project.running(broker.url, world, retry=PATIENT) as (shop, mail):
        await publish(shop, UserCreated(id="2", name="Bob"), Ticked(number=1))
        await _wait_for(mail, "mail.welcome", waiting=1)
        await _wait_for(mail, "mail.tick", waiting=1)
        await _wait_for(mail, "mail.index", handled=1)

        had = await cauce("waiting", "move", "--listener", "welcome", "--to", "index")
        deaf = await cauce("waiting", "move", "--listener", "tick", "--to", "index")
        same = await cauce("waiting", "move", "--listener", "tick", "--to", "tick")
        assert (had.code, deaf.code, same.code) == (1, 1, 1)
        assert "mail.index has had this event already" in " ".join(had.out.split())
        assert "mail.index does not listen to shop.ticked" in " ".join(deaf.out.split())
        assert "it waits for mail.tick already" in " ".join(same.out.split())
        await _wait_for(mail, "mail.welcome", waiting=1)
        await _wait_for(mail, "mail.tick", waiting=1)


async def test_an_effect_under_way_is_not_discarded_and_happens_once(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    """Between its beginning and its end no transaction is open: what is noted in the inbox protects it."""
    begun, may_end, attempts = asyncio.Event(), asyncio.Event(), list[int]()

    @on(Ticked, name="mail.slow", effect=AtLeastOnce(), retry=Retry(attempts=5, base=0.01, cap=0.01))
    async def slow(event: Ticked, context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise OSError("once more")
        begun.set()
        await may_end.wait()

    store = SqlAlchemyStore(create_engine(project.urls["mail"]))
    mail = Service(
        "mail-ms", modules=[slow], store=store, transport=RedisStreams(broker.url), start="retained", pace=FAST
    )
    async with project.shop(broker.url) as shop, mail:
        await publish(shop, Ticked(number=1))
        async with asyncio.timeout(30):
            await begun.wait()
        (one,) = await _listed(cauce)

        for words in (("discard", "--because", BECAUSE), ("move", "--to", "slow")):
            said = await cauce("waiting", words[0], one["id"], *words[1:])
            assert said.code == 1, said.out
        assert (await cauce("waiting", "retry", one["id"])).code == 0
        assert (await cauce("listener", "pause", "slow", "--because", BECAUSE)).code == 0
        may_end.set()
        await _wait_for(mail, "mail.slow", waiting=0, handled=1)
        assert (await cauce("listener", "resume", "slow")).code == 0
        await publish(shop, Ticked(number=2))
        await _wait_for(mail, "mail.slow", waiting=0, handled=2)
    assert attempts == [1, 2, 1, 2]


async def test_actions_and_the_running_service_never_lose_or_repeat_an_event(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    """Everything is retried, moved about and discarded while it is handled: each event is handled once, or discarded."""
    world = World(broken={f"name {number}" for number in range(40)})
    hasty = Retry(attempts=10_000, base=0.01, cap=0.02)
    async with project.running(broker.url, world, retry=hasty) as (shop, mail):
        await publish(shop, *(UserCreated(id=str(number % 8), name=f"name {number}") for number in range(40)))
        await _wait_for(mail, "mail.welcome", waiting=40)

        async def acts() -> None:
            for _ in range(3):
                await cauce("waiting", "retry", "--listener", "welcome", "--state", "failing")
                await cauce("waiting", "discard", "--key", "1", "--listener", "welcome", "--because", BECAUSE)
                await cauce("waiting", "discard", "--key", "2", "--state", "failing", "--because", BECAUSE)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(acts())
            await asyncio.sleep(0.2)
            world.broken.clear()
        await _wait_for(mail, "mail.welcome", waiting=0)
        (welcome,) = [one for one in (await figures_of(mail)).listeners if one.listener == "mail.welcome"]
    async with project.database("mail") as database:
        written = [row.name for row in await database.run("SELECT name FROM welcomes")]
        discarded = await database.one(
            "SELECT count(*) FROM cauce_audit WHERE action = 'discard' AND consumer = 'mail-ms/mail.welcome'"
        )
    assert len(set(written)) == len(written) == welcome.handled
    assert len(written) + discarded == 40
    by_key: dict[int, list[int]] = {}
    for number in (int(name.split()[1]) for name in written):
        by_key.setdefault(number % 8, []).append(number)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert [len(by_key[key]) for key in (0, 3, 4, 5, 6, 7)] == [5] * 6


async def test_the_list_is_bounded_however_many_wait_and_for_however_many_reasons(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.running(broker.url, World()):
        pass
    async with project.database("mail") as database:
        for number in range(300):
            await database.waiting("mail.index", attempts=1, due_in=600, error=f"KeyError: {number}", place="mail.py:7")
        for _ in range(30):
            await database.waiting("mail.welcome", attempts=1, due_in=600, error="KeyError: one", place="mail.py:7")

    said = await cauce("waiting", "list")
    _narrow(said)
    assert len(said.out.splitlines()) < 1000
    assert said.out.startswith("mail  330 waiting events\n")
    assert "narrow it down" in said.out
    alike: Sequence[dict[str, Any]] = await _listed(cauce, "--listener", "welcome", "--limit", "4")
    assert [one["like_this"] for one in alike] == [30] * 4
    assert "… and 20 more like this" in (await cauce("waiting", "list", "--listener", "welcome")).out
    _narrow(await cauce("status", "mail"))


async def test_a_wrong_command_line_is_answered_as_its_neighbours_do(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.running(broker.url, World()):
        pass
    for action in (("retry",), ("move", "--to", "index"), ("discard", "--because", BECAUSE)):
        assert (await cauce("waiting", *action)).code == 2
        assert (await cauce("waiting", *action, "--all", "--listener", "index")).code == 2
        assert (await cauce("waiting", *action, "abcd")).code == 1
        assert (await cauce("waiting", *action, "--listener", "indx")).code == 2
        assert "No waiting events like that." in (await cauce("waiting", *action, "--listener", "index")).out
    assert (await cauce("waiting", "discard", "--all")).code == 2
    assert "Did you mean 'failing'?" in (await cauce("waiting", "list", "--state", "faling")).err
