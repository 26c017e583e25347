"""A listener is paused on a bad day: its events wait in order, in every process and across restarts; others go on."""

import asyncio

from cauce import Service
from cauce.dev.servers import ValkeyServer
from cauce.listeners.retry import Retry
from testsupport.shop_and_mail import Command, Project, Ticked, UserCreated, World, figures_of, publish, until

BECAUSE = "the mail server answers nonsense"


async def _waiting(service: Service, listener: str, count: int) -> None:
    async def there() -> bool:
        return any(one.listener == listener and one.waiting == count for one in (await figures_of(service)).listeners)

    await until(there)


async def _called(world: World, listener: str, count: int) -> None:
    async def often_enough() -> bool:
        return len(world.of(listener)) >= count

    await until(often_enough)


async def test_events_of_a_paused_listener_wait_in_order_and_others_are_handled(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World()
    names = [f"name {number}" for number in range(6)]
    async with project.running(broker.url, world) as (shop, mail):
        said = await cauce("listener", "pause", "welcome", "--because", BECAUSE)
        assert said.code == 0, said.err
        assert said.out.splitlines() == ["mail.welcome is paused", "cauce listener resume mail.welcome"]

        await publish(shop, *(UserCreated(id="1", name=name) for name in names[:3]), UserCreated(id="2", name="other"))
        await _called(world, "index", 4)
        await _waiting(mail, "mail.welcome", 4)
        assert world.of("welcome") == []

    async with project.running(broker.url, world) as (shop, mail), project.mail(broker.url, world) as second:
        await publish(shop, *(UserCreated(id="1", name=name) for name in names[3:]))
        await _called(world, "index", 7)
        await _waiting(mail, "mail.welcome", 7)
        assert world.of("welcome") == [], "a restart, or another process, is no resume"
        await _shown(cauce, mail)

        said = await cauce("listener", "resume", "mail.welcome")
        assert said.out == "mail.welcome has its events again · 7 events waiting for it\n"
        await _called(world, "welcome", 7)
        await _waiting(second, "mail.welcome", 0)
        await _called(world, "count", 7)

    async with project.database("mail") as database:
        written = [row.name for row in await database.run("SELECT name FROM welcomes") if row.name != "other"]
        audit = await database.run("SELECT action, reason, consumer FROM cauce_audit ORDER BY position")
    assert written == names
    assert [attempt for _, _, attempt, _ in world.of("welcome")] == [1] * 7
    assert [tuple(row) for row in audit] == [
        ("pause", BECAUSE, "mail-ms/mail.welcome"),
        ("resume", None, "mail-ms/mail.welcome"),
    ]


async def _shown(cauce: Command, mail: Service) -> None:
    (paused,) = [one for one in (await figures_of(mail)).listeners if one.paused_s is not None]
    assert (paused.listener, paused.paused_because) == ("mail.welcome", BECAUSE)
    status = await cauce("status", "mail")
    assert f"{BECAUSE}" in " ".join(status.out.split())
    doctor = await cauce("doctor", "mail", "--json")
    (verdict,) = [one for one in doctor.json["services"]["mail"] if one["subject"] == "paused"]
    assert verdict["state"] == "bad"
    assert "mail.welcome" in verdict["fact"]
    assert BECAUSE in verdict["fact"]
    assert "7 events wait" in verdict["fact"]
    assert verdict["fix"] == "cauce listener resume mail.welcome --service mail"
    for said in (status, await cauce("doctor", "mail")):
        assert max(map(len, said.out.splitlines())) <= 80


async def test_a_pause_holds_failing_durable_and_outside_deliveries_too(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"tick 1", "count of 1"})
    patient = Retry(attempts=100, base=0.01, cap=0.05)
    async with project.running(broker.url, world, retry=patient) as (shop, mail):
        await publish(shop, Ticked(number=1), UserCreated(id="1", name="Ann"))
        await _called(world, "tick", 2)
        await _called(world, "count", 2)
        for listener in ("tick", "count"):
            assert (await cauce("listener", "pause", listener, "--because", BECAUSE)).code == 0
        await _quiet(world)
        calls = len(world.heard)
        await publish(shop, Ticked(number=2), UserCreated(id="2", name="Bea"))
        await _called(world, "welcome", 2)
        await _waiting(mail, "mail.tick", 2)
        await _waiting(mail, "mail.count", 2)
        assert len([one for one in world.heard[calls:] if one[0] in ("tick", "count")]) == 0

        world.broken.clear()
        for listener in ("tick", "count"):
            assert (await cauce("listener", "resume", listener)).code == 0
        await _waiting(mail, "mail.tick", 0)
        await _waiting(mail, "mail.count", 0)


async def _quiet(world: World) -> None:
    """What was being handled when the pause was committed has ended."""
    before = -1
    while before != len(world.heard):
        before = len(world.heard)
        await asyncio.sleep(0.3)


async def test_pausing_twice_keeps_the_first_reason_and_mistakes_are_told_apart(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.running(broker.url, World()):
        pass
    first = await cauce("listener", "pause", "mail.tick", "--because", BECAUSE, "--json")
    assert first.json == {
        "service": "mail",
        "listener": "mail.tick",
        "paused": True,
        "changed": True,
        "waiting": 0,
    }
    again = await cauce("listener", "pause", "tick", "--because", "another")
    assert (again.code, again.out.splitlines()[0]) == (0, "mail.tick was paused already")
    async with project.database("mail") as database:
        assert await database.one("SELECT paused_because FROM cauce_listener WHERE paused_at IS NOT NULL") == BECAUSE

    assert (await cauce("listener", "resume", "tick")).code == 0
    assert (await cauce("listener", "resume", "tick")).out == "mail.tick was not paused\n"
    wrong = await cauce("listener", "pause", "tik", "--because", BECAUSE)
    assert wrong.code == 2
    assert "Did you mean 'tick'?" in wrong.err
    assert (await cauce("listener", "pause", "tick", "--because", " ")).code == 2
    assert (await cauce("listener", "pause", "tick")).code == 2
    assert (await cauce("listener", "pause", "tick", "--because", "x", "--service", "nobody")).code == 2
