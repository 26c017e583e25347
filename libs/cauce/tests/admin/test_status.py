"""`cauce status` and `cauce outbox status`: what they show, word for word, and where the numbers come from."""

import json
import re
from typing import Any

import pytest
from cauce import Service
from cauce.dev.servers import ValkeyServer
from cauce.health import Message, health_app
from cauce.stores.memory import MemoryStore
from cauce.stores.sql.tables import metadata
from testsupport.shop_and_mail import Command, Project, Ticked, UserCreated, World, figures_of, publish, until


async def test_every_listener_has_a_row_and_nothing_is_cut_at_80_columns(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        await mail.described(project.mail("redis://localhost:1"))
        await mail.member("host:17:abc", range(12))
        await mail.handled("mail.welcome", 3, age=7200)
        await mail.waiting(
            "mail.welcome",
            attempts=1,
            due_in=90,
            age=600,
            key="u-1",
            error="ConnectionRefusedError: [Errno 111] the mail server does not listen on this port",
            place="mail.py:12",
        )
        await mail.waiting("mail.welcome", age=300, key="u-1")
        await mail.dead("mail.welcome", "3f" * 16, key="u-2")
        await mail.handled("mail.index", 1204)
        await mail.handled("mail.a_listener_of_a_time_long_gone_with_a_name_that_is_longer_than_its_column", 7)
        await mail.outgoing("mail.sent", age=600)
        await mail.outgoing("mail.sent", age=10900, sent_age=10800)

    said = await cauce("status", "mail")

    assert said.code == 0
    where = (
        "mail.sqlite" if project.dialect == "sqlite" else "127.0.0.1:55555/" + project.urls["mail"].rpartition("/")[2]
    )
    assert re.sub(r"in 8\d s", "in 90 s", said.screen) == (  # the clock goes on
        f"mail-ms  {project.dialect} {where}\n"
        "\n"
        "  listener      handled  waiting  oldest  failing  next try  dead\n"
        "  mail.a_listener_of_a_time_long_gone_with_a_name_that_is_longer_than_its_column\n"
        "                      7        –       –        –         –     –\n"
        "  mail.count          0        –       –        –         –     –\n"
        "  mail.index      1,204        –       –        –         –     –\n"
        "  mail.tick           0        –       –        –         –     –\n"
        "  mail.welcome        3        2  10 min        1   in 90 s     1\n"
        "\n"
        "  failing\n"
        "    50ca8e2b6c68  shop.user-created → mail.welcome · attempt 1 of 2 failed ·\n"
        "      next in 90 s · key u-1 · 1 behind it\n"
        "      ConnectionRefusedError: [Errno 111] the mail server does not listen on\n"
        "      this port · mail.py:12\n"
        "    try now: cauce waiting retry 50ca8e2b6c68\n"
        "\n"
        "  outbox                    1 waiting, oldest 10 min · 1 sent and kept, the\n"
        "                            oldest for 3 h\n"
        "  lanes                     12 of 16 owned · host:17 has 12\n"
        "  parked                    keys whose later events wait for one that failed: 2\n"
        "                            for mail.welcome\n"
        "  not in the code any more\n"
        "  mail.a_listener_of_a_time_long_gone_with_a_name_that_is_longer_than_its_column\n"
        "  handled                   counts what the inbox remembers: the last 2 h\n"
    )


async def test_a_service_that_nobody_runs_says_so(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        await mail.described(project.mail("redis://localhost:1"))
        await mail.member("host:17:abc", range(16), lease_s=-1)

    said = await cauce("status", "mail")

    assert "no process of this service is running" in said.out


async def test_the_health_port_and_the_command_show_the_same_numbers_and_they_survive_a_restart(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    world = World(broken={"Bob", "tick 2"})
    async with project.running(broker.url, world) as (shop, mail):
        await publish(shop, UserCreated(id="1", name="Ann"), UserCreated(id="2", name="Bob"))
        await publish(shop, UserCreated(id="2", name="Cy"), Ticked(number=1), Ticked(number=2))

        async def settled() -> bool:
            figures = await figures_of(mail)
            return sum(one.handled + one.dead for one in figures.listeners) == 8

        await until(settled)
        shown = await _get(mail, "/status")
        said = await cauce("status", "mail", "--json")
    later = await cauce("status", "mail", "--json")

    of = {one["listener"]: one for one in said.json["mail"]["listeners"]}
    assert {name: (one["handled"], one["waiting"], one["dead"]) for name, one in of.items()} == {
        "mail.welcome": (1, 1, 1),  # Ann; Cy waits behind Bob, whose key is parked
        "mail.index": (3, 0, 0),
        "mail.tick": (1, 0, 1),
        "mail.count": (1, 0, 0),  # a durable domain event: it came by no broker, and counts all the same
    }
    numbers = ("handled", "waiting", "failing", "parked_keys", "dead", "discarded", "in_code")
    for one in shown["listeners"]:
        assert {name: one[name] for name in numbers} == {name: of[one["listener"]][name] for name in numbers}
    assert {one["listener"]: one["handled"] for one in later.json["mail"]["listeners"]} == {
        name: one["handled"] for name, one in of.items()
    }
    assert said.json["mail"]["lanes_owned"] == 16
    assert later.json["mail"]["lanes_owned"] == 0


async def test_the_outbox_by_event_and_how_far_back_it_is_kept(project: Project, cauce: Command) -> None:
    async with project.database("shop") as shop:
        await shop.described(project.shop("redis://localhost:1"))
        await shop.member("host:17:abc", range(16))
        for _ in range(3):
            await shop.outgoing("shop.user-created", age=120)
        await shop.outgoing("shop.ticked", age=110)
        await shop.outgoing("shop.ticked", age=10000, sent_age=7300)
        await shop.outgoing("shop.ticked", age=400, sent_age=300)

    said = await cauce("outbox", "status", "shop")

    assert said.code == 0
    assert said.screen == (
        "shop-ms\n"
        "\n"
        "  event              waiting  oldest  set aside  behind\n"
        "  shop.user-created        3   2 min          –       –\n"
        "  shop.ticked              1   2 min          –       –\n"
        "\n"
        "  waiting    4, oldest 2 min\n"
        "  last sent  5 min ago\n"
        "  kept       2 sent events, about 480 bytes, the oldest sent 2 h ago\n"
        "  at most    24 h, 1,000,000 events, 1.0 GiB; whichever comes first\n"
        "  lanes      16 of 16 owned · host:17 has 16\n"
    )
    assert (await cauce("outbox", "status", "shop", "--json")).json["shop"]["figures"]["waiting"] == 4


async def test_a_database_that_cannot_be_reached_hides_no_other(
    project: Project, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project.database("shop"):
        pass
    monkeypatch.setenv("MAIL_DATABASE_URL", "postgresql+psycopg://mail:sesame@127.0.0.1:1/mail")

    said = await cauce("status")

    assert said.code == 3
    assert "outbox  empty" in said.out
    assert said.err.startswith("mail: no PostgreSQL at 127.0.0.1:1/mail (MAIL_DATABASE_URL (environment)): ")
    assert "sesame" not in said.err


async def test_what_is_not_there_is_said_in_one_line(project: Project, cauce: Command) -> None:
    nearest = await cauce("status", "mial")
    no_database = await cauce("status", "web")
    no_tables = await cauce("status", "shop", "--database-url", "sqlite:///nowhere.sqlite")

    assert nearest.code == 2
    assert nearest.err == "no service 'mial' in the project. Did you mean 'mail'? It has shop, mail, web.\n"
    assert no_database.code == 2
    assert no_database.err == 'web has no database in pyproject.toml: database = "WEB_DATABASE_URL"\n'
    assert no_tables.code == 3
    assert "no SQLite file at nowhere.sqlite (--database-url)" in no_tables.err
    assert not (project.folder / "nowhere.sqlite").exists()


async def test_a_database_without_cauces_tables_is_told_from_one_that_does_not_answer(
    project: Project, cauce: Command
) -> None:
    async with project.database("mail") as mail:
        await mail.run("DROP TABLE cauce_waiting")

    said = await cauce("status", "mail")

    assert said.code == 3
    assert said.err.endswith("or of another version. → cauce db upgrade mail\n")


async def test_a_service_that_never_ran_durably_is_not_told_to_make_tables(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail, mail.engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)

    said = await cauce("status", "mail")

    assert said.code == 3
    assert said.err.endswith(
        "it has not run with durable delivery. Over Pub/Sub nothing is written down, and lost events leave no trace. "
        "→ cauce doctor mail\n"
    )


async def test_a_websocket_to_the_health_port_is_refused_without_an_error_in_the_log() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    mail = Service("mail", store=MemoryStore())
    await health_app(mail)({"type": "websocket", "path": "/health/live"}, receive, send)

    assert sent == [{"type": "websocket.close"}]


async def _get(service: Service, path: str) -> Any:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {}

    await health_app(service)({"type": "http", "method": "GET", "path": path}, receive, send)
    assert sent[0]["status"] == 200, sent
    return json.loads(sent[1]["body"])
