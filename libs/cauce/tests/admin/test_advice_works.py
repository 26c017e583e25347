"""Every state in which events do not move: `cauce doctor` is red or names it with the listener and a command; the cause
is removed, the command is run as it is printed, and the events move."""

import re
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from cauce import IntegrationEvent, Service, on
from cauce.delivery.inbox import troubles
from cauce.dev.servers import ValkeyServer
from cauce.health import health_app
from cauce.listeners.retry import Retry
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from testsupport.long_form import PROVE
from testsupport.shop_and_mail import (
    FAST,
    Command,
    Project,
    Said,
    UserCreated,
    World,
    figures_of,
    publish,
    until,
)


@pytest.fixture(params=["sqlite", "postgresql"] if PROVE else ["sqlite"])
def dialect(request: pytest.FixtureRequest) -> str:
    """The searches and actions themselves are tested on both in test_waiting.py and test_pausing.py."""
    return request.param


PATIENT = Retry(attempts=5, base=1e6, cap=1e6)
ONCE = Retry(attempts=1)


@dataclass
class System:
    """Shop and mail run; `world` decides whether the listeners of mail work."""

    project: Project
    cauce: Command
    world: World
    shop: Service
    mail: Service

    async def stuck(self, subject: str, *, of: str = "mail") -> str:
        """The command that doctor advises, once it says so; the verdict has to be red, and to name its listener."""
        found: dict[str, Any] = {}

        async def told() -> bool:
            found.update({one["subject"]: one for one in (await self._verdicts(of))})
            return subject in found and found[subject]["state"] not in ("good", *passing)

        passing = ("weak",) if subject == "in trouble" else ()
        await until(told)
        assert found[subject]["state"] == ("weak" if subject == "failing" else "bad"), found[subject]
        if of == "mail" and subject != "processes":
            assert "mail.welcome" in found[subject]["fact"]
        return str(found[subject]["fix"])

    async def healthy(self, subject: str, *, of: str = "mail") -> None:
        async def well() -> bool:
            return all(one["state"] == "good" for one in await self._verdicts(of) if one["subject"] == subject)

        await until(well)

    async def fact(self, subject: str, *, of: str = "mail") -> str:
        return next(str(one["fact"]) for one in await self._verdicts(of) if one["subject"] == subject)

    async def _verdicts(self, service: str) -> list[dict[str, Any]]:
        return list((await self.cauce("doctor", service, "--json")).json["services"][service])

    async def page(self, subject: str = "mail.welcome", *also: str, of: Service | None = None) -> str:
        """The command on the red page for events that do not move. The service is ready all the same: others are served."""
        app = httpx.ASGITransport(health_app(of or self.mail))
        async with httpx.AsyncClient(transport=app, base_url="http://mail") as http:
            found: dict[str, str] = {}

            async def told() -> bool:
                moving = await http.get("/health/moving")
                found.update(moving.json()["needs_attention"])
                return moving.status_code == 503 and len(found) > len(also)

            await until(told)
            assert (await http.get("/health/ready")).status_code == 200
            assert " → " in (await http.get("/health/moving")).text, "as a person reads it"
        assert set(found) == {subject, *also}
        return found[subject].partition(" → ")[2]

    async def moving(self) -> None:
        """The page is green again."""
        app = httpx.ASGITransport(health_app(self.mail))
        async with httpx.AsyncClient(transport=app, base_url="http://mail") as http:

            async def green() -> bool:
                return (await http.get("/health/moving")).status_code == 200

            await until(green)

    async def run(self, command: str) -> Said:
        said = await self.cauce(*shlex.split(command.replace("…", "given up"))[1:])
        assert said.code == 0, (command, said.out, said.err)
        return said

    async def welcomed(self, *names: str) -> None:
        async def written() -> bool:
            async with self.project.database("mail") as database:
                return [row.name for row in await database.run("SELECT name FROM welcomes")] == list(names)

        await until(written)


@asynccontextmanager
async def _running(
    project: Project, broker: ValkeyServer, cauce: Command, *broken: str, retry: Retry = PATIENT
) -> AsyncGenerator[System]:
    world = World(broken=set(broken))
    async with project.running(broker.url, world, retry=retry) as (shop, mail):
        yield System(project, cauce, world, shop, mail)


def _printed(said: Said, beginning: str) -> str:
    """The command that begins so, as a person would copy it from the screen."""
    return next(line.strip() for line in said.out.splitlines() if line.strip().startswith(beginning))


async def test_a_paused_listener(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    async with _running(project, broker, cauce) as system:
        await system.run("cauce listener pause welcome --because 'a bad day'")
        await publish(system.shop, UserCreated(id="1", name="Ann"))
        assert shlex.split(await system.page()) == shlex.split(await system.stuck("paused"))[:4]
        await system.run(await system.stuck("paused"))
        await system.welcomed("Ann")
        await system.healthy("paused")
        await system.moving()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
async def test_events_in_trouble_with_the_database(
    project: Project, broker: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What readiness says about them sends to the doctor, who names the listener, how many, since when and the cause."""
    async with _running(project, broker, cauce) as system:
        system.world.in_trouble |= {"Ann", "Bea"}
        await publish(system.shop, UserCreated(id="1", name="Ann"), UserCreated(id="2", name="Bea"))

        async def not_ready() -> bool:
            return "events" in system.mail.readiness()

        async def both() -> bool:
            of = (await cauce("status", "mail", "--json")).json["mail"]["listeners"]
            return any(one["in_trouble"] == 2 and one["in_trouble_for_s"] > 1 and not one["failing"] for one in of)

        async def in_trouble() -> list[Any]:
            return (await cauce("waiting", "list", "mail", "--state", "trouble", "--json")).json["mail"]

        async def left_alone() -> bool:
            listed = await in_trouble()
            return len(listed) == 2 and all(one["due_in_s"] > 1e5 for one in listed)

        async def one_left() -> bool:
            return len(await in_trouble()) == 1

        await until(not_ready)
        assert system.mail.readiness()["events"].endswith("→ cauce doctor")
        monkeypatch.setattr(troubles, "_FIRST_S", 1e6)  # from now on only the command makes them move
        monkeypatch.setattr(troubles, "_CAP_S", 1e6)
        await until(left_alone)
        await until(both)
        advice = await system.stuck("in trouble")
        assert re.search(
            r"mail\.welcome cannot handle 2 events, for \d+ s: trouble with the database, no attempt is counted: ",
            await system.fact("in trouble"),
        )
        status = await system.run("cauce status mail")
        assert "mail.welcome, 2 for " in status.out
        assert "no attempt is counted" in " ".join(status.out.split())
        assert advice in status.out

        listed = await system.run(advice)
        assert "in trouble with the database, no attempt is counted" in " ".join(listed.out.split())
        shown = await system.run(_printed(listed, "cauce waiting show"))
        assert "in trouble: it will be tried again" in " ".join(shown.out.split())
        (one, _) = (await system.run(f"{advice} --json")).json["mail"]
        assert (one["state"], one["attempts"]) == ("trouble", 0)
        assert one["in_trouble_since"]
        system.world.in_trouble.clear()
        await system.run(_printed(shown, "cauce waiting retry"))
        await until(one_left)
        await system.run("cauce waiting retry --listener welcome --state trouble")
        await system.healthy("in trouble")

        async def ready() -> bool:
            return not system.mail.readiness()

        await until(ready)
        async with project.database("mail") as database:
            assert await database.one("SELECT count(*) FROM welcomes") == 2


async def test_a_failing_event_and_those_behind_it(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    async with _running(project, broker, cauce, "Ann") as system:
        await publish(system.shop, UserCreated(id="1", name="Ann"), UserCreated(id="1", name="Bea"))
        listed = await system.run(await system.stuck("failing"))
        shown = await system.run(_printed(listed, "cauce waiting show"))
        system.world.broken.clear()
        await system.run(_printed(shown, "cauce waiting retry"))
        await system.welcomed("Ann", "Bea")
        await system.healthy("failing")


@pytest.mark.parametrize("way", ["replay", "discard"])
async def test_a_key_that_waits_behind_a_dead_letter(
    project: Project, broker: ValkeyServer, cauce: Command, way: str
) -> None:
    async with _running(project, broker, cauce, "Ann", retry=ONCE) as system:
        await publish(system.shop, UserCreated(id="1", name="Ann"), UserCreated(id="1", name="Bea"))
        await system.stuck("dead")
        listed = await system.run(await system.page())
        shown = await system.run(_printed(listed, "cauce dead show"))
        system.world.broken.clear()
        await system.run(_printed(shown, f"cauce dead {way}"))
        await system.welcomed(*(["Ann"] if way == "replay" else []), "Bea")
        await system.healthy("dead")


async def test_a_head_that_nothing_makes_due(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    """As an earlier version left one behind, whose discard had raced with an arrival."""
    async with _running(project, broker, cauce, "Ann") as system:
        await publish(system.shop, UserCreated(id="1", name="Ann"))
        await system.stuck("failing")
        async with project.database("mail") as database:
            await database.run("UPDATE cauce_waiting SET next_at = NULL, attempts = 0, error = NULL")
        system.world.broken.clear()
        assert await system.page() == "cauce waiting retry --listener mail.welcome --state held"
        await system.run(await system.stuck("held"))
        await system.welcomed("Ann")
        await system.healthy("held")


async def test_a_listener_that_was_renamed_is_named_as_it_is_called_now(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with _running(project, broker, cauce, "Ann") as system:
        await publish(system.shop, UserCreated(id="1", name="Ann"))
        await system.stuck("failing")
        async with project.database("mail") as database:
            await database.run("UPDATE cauce_waiting SET next_at = NULL, attempts = 0, error = NULL")
            await database.run("UPDATE cauce_listener SET name = 'mail.greet' WHERE consumer = 'mail-ms/mail.welcome'")
        system.world.broken.clear()
        advice = await system.page("mail.greet")
        assert advice == "cauce waiting retry --listener mail.greet --state held"
        await system.run(advice)
        await system.welcomed("Ann")


async def test_an_event_that_the_broker_rejected_permanently(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with _running(project, broker, cauce) as system:
        async with project.database("shop") as shop:
            for problem in ("too large", None):
                await shop.outgoing("shop.user-created", age=1, key="u-7", problem=problem)
        assert await system.page("outbox", of=system.shop) == "cauce outbox status"
        advised = await system.run(await system.stuck("set aside", of="shop"))
        await system.run(_printed(advised, "cauce outbox release"))
        await system.healthy("set aside", of="shop")
        await system.welcomed("Ann", "Ann")


async def test_an_event_of_a_newer_version_than_the_code(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    class NewerUserCreated(IntegrationEvent, name="shop.user-created", version=3, key="id", source="shop-ms"):
        id: str
        name: str

    heard: list[str] = []

    @on(NewerUserCreated, name="mail.welcome")
    async def welcome(event: NewerUserCreated) -> None:
        heard.append(event.name)

    newer = Service(
        "shop-ms",
        store=SqlAlchemyStore(create_engine(project.urls["shop"])),
        transport=RedisStreams(broker.url),
        publishes=[NewerUserCreated],
        pace=FAST,
    )
    async with project.database("mail") as database:
        await database.run("CREATE TABLE IF NOT EXISTS welcomes (event_id text, name text)")
    async with newer, project.mail(broker.url) as old:
        await publish(newer, NewerUserCreated(id="1", name="Ann"))
        system = System(project, cauce, World(), newer, old)
        await system.run(await system.page("mail.welcome", "mail.index"))
        listed = await system.run(await system.stuck("newer version"))
        assert "postponed until a newer version of the service runs" in " ".join(listed.out.split())
    mail = Service(
        "mail-ms",
        modules=[welcome],
        store=SqlAlchemyStore(create_engine(project.urls["mail"])),
        transport=RedisStreams(broker.url),
        start="retained",
        pace=FAST,
    )
    async with mail:

        async def handled() -> bool:
            return heard == ["Ann"]

        await until(handled)


async def test_no_process_of_a_service_runs(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    async with _running(project, broker, cauce):
        pass
    async with project.shop(broker.url) as shop:
        await publish(shop, UserCreated(id="1", name="Ann"))
    async with project.database("mail") as database:
        await database.waiting("mail.welcome", due_in=-100)
    said = await cauce("doctor", "mail", "--json")
    verdicts = {one["subject"]: one for one in said.json["services"]["mail"]}
    assert verdicts["processes"]["state"] == verdicts["waiting"]["state"] == "bad"
    assert verdicts["processes"]["fix"] == verdicts["waiting"]["fix"] == "cauce dev, or start it by hand"
    async with _running(project, broker, cauce) as system:
        await system.healthy("processes")

        async def both() -> bool:
            return any(
                one.listener == "mail.welcome" and one.handled == 2 for one in (await figures_of(system.mail)).listeners
            )

        await until(both)
        await system.healthy("waiting")


async def test_the_broker_is_away(
    project: Project, own_valkey: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", own_valkey.url)
    async with _running(project, own_valkey, cauce) as system:
        own_valkey.kill()
        await publish(system.shop, UserCreated(id="1", name="Ann"))

        async def red() -> bool:
            return bool(await system.shop.check()) and bool(await system.mail.check())

        await until(red)
        (verdicts,) = (await cauce("doctor", "--json")).json["brokers"].values()
        (broker,) = [one for one in verdicts if one["subject"] == "broker"]
        assert broker["state"] == "bad"
        assert broker["fix"]
        own_valkey.start()
        await system.welcomed("Ann")

        async def ready() -> bool:
            return not await system.shop.check() and not await system.mail.check()

        await until(ready)
