"""`cauce doctor`: verdict, fact and one command; it changes nothing, and says in plain words what would be lost."""

import asyncio
from pathlib import Path

import pytest
from cauce import Service
from cauce.dev.ports import choose_port
from cauce.dev.servers import ValkeyServer
from cauce.ports.transport import Verdict
from cauce.stores.sql.tables import metadata
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis.connection import RedisServer
from cauce.transports.redis_pubsub import RedisPubSub
from testsupport.redis_under_test import OtherServer
from testsupport.shop_and_mail import Command, Project, Said, Ticked, World, figures_of, publish, until


def _verdicts(said: Said, service: str) -> dict[str, str]:
    return {one["subject"]: one["state"] for one in said.json["services"][service]}


async def _configure(broker: ValkeyServer, *settings: str) -> None:
    connection = await RedisServer(broker.url, if_down="", answer_limit_s=5).connect()
    await connection.ask([("CONFIG", "SET", *settings)])
    await connection.close()


async def test_a_system_in_good_health_is_praised_and_nothing_more(
    project: Project, own_valkey: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", own_valkey.url)
    async with project.running(own_valkey.url, World()) as (shop, mail):
        await publish(shop, Ticked(number=1))

        async def handled() -> bool:
            figures = await figures_of(mail)
            return sum(one.handled for one in figures.listeners) == 1 and figures.lanes_owned == 16

        await until(handled)
        if project.dialect == "postgresql":
            monkeypatch.setattr("cauce.admin.service_checks._commits", _durable)
        said = await cauce("doctor", "mail")

    assert said.code == 0, said.out
    lines = said.screen.splitlines()
    assert lines[0] == "mail"
    assert [line.split()[:2] for line in lines[1:9]] == [
        ["✓", subject]
        for subject in ("database", "commits", "clock", "tables", "processes", "transport", "outbox", "dead")
    ]
    assert "  ✓ tables     version 2, complete" in lines
    assert "  ✓ processes  1 process, all 16 lanes owned" in lines
    assert "  ✓ persistence        append-only file, flushed every second" in lines
    assert "  ✓ mail-ms ← shop-ms  nothing waits on the broker" in lines
    assert lines[-4:] == [
        "  Nothing that is committed is lost: it waits in a database or on the broker",
        "  until it is handled.",
        "",
        "All 15 checks passed.",
    ]
    assert max(map(len, lines)) <= 80


def _durable(settings: dict[str, str], *, postgres: bool) -> Verdict:
    """The test server is fast because it does not flush; a real one does."""
    assert settings["fsync"] == "off"
    return Verdict("commits", "good", "flushed")


async def test_every_ailment_has_its_fact_and_one_command(
    project: Project, own_valkey: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", own_valkey.url)
    async with project.running(own_valkey.url, World()) as (shop, _):
        await publish(shop, Ticked(number=1))
    await _configure(own_valkey, "appendonly", "no")
    await _configure(own_valkey, "maxmemory-policy", "allkeys-lru")
    await _configure(own_valkey, "maxmemory", "100mb")
    async with project.database("mail") as mail:
        await mail.dead("mail.welcome", "3f" * 16)
        await mail.waiting("mail.welcome", attempts=1, due_in=-300)
        await mail.run("UPDATE cauce_listener SET first_seen_at = :NOW - 400000 WHERE consumer = 'mail-ms/mail.count'")
        await mail.dead("mail.of_yore", "4f" * 16)
        await mail.waiting("mail.of_yore", due_in=0)
        await mail.outgoing("mail.sent", age=700)  # of the topic shop-ms

    said = await cauce("doctor", "mail", "--json")
    shown = await cauce("doctor", "mail")

    found = _verdicts(said, "mail")
    assert said.code == 1
    assert {subject: state for subject, state in found.items() if state != "good"} == {
        **({"commits": "bad"} if project.dialect == "postgresql" else {}),
        "processes": "bad",
        "outbox": "bad",
        "waiting": "bad",
        "dead": "bad",
        "failing": "weak",
        "never called": "weak",
        "dead of old": "weak",
        "left behind": "bad",
    }
    facts = [(one["fact"], one["fix"]) for one in said.json["services"]["mail"] if one["subject"] == "left behind"]
    assert facts == [
        (
            "1 delivery of shop.user-created for mail.of_yore, which is not in the code any more",
            "cauce waiting list mail --listener mail.of_yore",
        ),
        (
            "1 unsent event of the topic shop-ms, which mail-ms does not send to",
            "start shop-ms with this database until they are sent: docs/how-to/retire-a-service.md",
        ),
    ]
    (broker,) = said.json["brokers"].values()
    states = {one["subject"]: one["state"] for one in broker}
    assert (states["persistence"], states["eviction"]) == ("bad", "bad")
    for one in (*said.json["services"]["mail"], *broker):
        assert one["fact"]
        assert (one["state"] == "good") == (not one["fix"]), one
    assert "→ cauce dead list mail" in shown.out
    assert "→ redis-cli CONFIG SET maxmemory-policy noeviction" in shown.out
    words = " ".join(shown.out[shown.out.index("If something dies now") :].split())
    assert "If the broker dies it forgets events. They are sent again from the outboxes" in words
    assert "LOST is what is older than that and still unheard" in words
    assert "Nothing that is committed is lost" not in words
    assert max(map(len, shown.out.splitlines())) <= 80


async def test_looking_changes_nothing(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    async with project.running(broker.url, World()) as (shop, _):
        await publish(shop, Ticked(number=1))

    async def everything() -> object:
        async with project.database("mail") as mail:
            tables = [row.name for row in await mail.run("SELECT name FROM cauce_meta ORDER BY name")]
            rows = {
                table: sorted(map(str, await mail.run(f"SELECT * FROM {table}")))
                for table in ("cauce_meta", "cauce_inbox", "cauce_lane", "cauce_member", "cauce_audit", "cauce_waiting")
            }
        return tables, rows, (await cauce("topic", "list", "--json")).json["shop-ms"]["groups"][0]["lag"]

    before = await everything()
    bytes_before = _bytes(project.folder / "mail.sqlite")
    for command in (("doctor",), ("status",), ("dead", "list"), ("outbox", "status"), ("explain", "Ticked")):
        await cauce(*command)
    assert _bytes(project.folder / "mail.sqlite") == bytes_before
    assert await everything() == before


def _bytes(file: Path) -> bytes:
    """Of the SQLite file; nothing on PostgreSQL."""
    return file.read_bytes() if file.exists() else b""


async def test_what_cannot_be_reached_is_a_verdict_not_a_traceback(
    project: Project, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_DATABASE_URL", "postgresql+psycopg://mail:sesame@127.0.0.1:1/mail")
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@127.0.0.1:1")

    said = await cauce("doctor")

    assert said.code == 1
    assert said.err == ""
    assert "  ✗ database  no PostgreSQL at 127.0.0.1:1/mail (MAIL_DATABASE_URL" in said.out
    assert "  ✗ broker  no Redis at 127.0.0.1:1 (refused)" in said.out
    assert "Not everything could be looked at" in said.out
    assert "sesame" not in said.out


async def test_f5_a_broker_of_a_cluster_is_bad_and_the_way_out_is_said(
    project: Project, servers_folder: Path, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = OtherServer(
        servers_folder / f"of-a-cluster-{project.dialect}",
        settings=["cluster-enabled yes", f"cluster-port {choose_port()}"],
    )
    await asyncio.to_thread(server.start)
    try:
        monkeypatch.setenv("REDIS_URL", server.url)
        said = await cauce("doctor", "mail")
    finally:
        await asyncio.to_thread(server.kill)

    assert said.code == 1
    words = " ".join(said.out.split())
    assert "✗ mode the server is part of a cluster" in words
    assert "→ a single server, or a primary with replicas, behind one address" in words


async def test_a_service_without_our_tables_loses_events_and_is_told_so(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.database("mail") as mail, mail.engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)

    said = await cauce("doctor", "mail")

    assert said.code == 1
    assert "  ✗ tables" in said.out
    words = " ".join(said.out.split())
    assert "EVENTS ARE LOST if a process dies" in words
    assert "An event of a service without tables is LOST if the process or the broker dies" in words


async def test_a_service_that_went_back_to_pubsub_is_not_taken_for_durable(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    async with project.database("mail"), project.database("shop"):
        pass
    async with project.running(broker.url, World()):
        pass
    store = SqlAlchemyStore(create_engine(project.urls["shop"]))
    async with Service("shop-ms", store=store, transport=RedisPubSub(broker.url), publishes=[Ticked]):

        async def said_so() -> bool:
            return (await cauce("status", "shop", "--json")).json["shop"]["durable"] is False

        await until(said_so)
        status = await cauce("status", "shop")
        doctor = await cauce("doctor", "shop")

    assert "At most once; what is lost leaves no trace here" in " ".join(status.out.split())
    assert doctor.code == 1
    assert "no process of shop-ms is running" not in doctor.out
    assert "  ✗ transport" in doctor.out
    words = " ".join(doctor.out.split())
    assert "AN EVENT IS LOST for every service that is not listening" in words
    assert "An event is LOST for every service that is not listening when it is sent." in words
    assert "Nothing that is committed is lost" not in words


async def test_clocks_that_differ_are_noticed(
    project: Project, broker: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project.database("mail"):
        pass
    import time

    real = time.time
    monkeypatch.setattr("cauce.admin.service_checks.time.time", lambda: real() - 90)

    said = await cauce("doctor", "mail")

    assert "the database's clock is 90.0 s ahead of this machine's" in " ".join(said.out.split())
    assert "the broker's clock is 90.0 s ahead of this machine's" in " ".join(said.out.split())


async def test_weak_points_count_only_when_it_is_strict(
    project: Project, own_valkey: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", own_valkey.url)
    monkeypatch.setattr("cauce.admin.service_checks._commits", _good)
    await _configure(own_valkey, "appendfsync", "no")
    async with project.running(own_valkey.url, World()) as (_, mail):

        async def owned() -> bool:
            figures = await figures_of(mail)
            return figures.lanes_owned == 16

        await until(owned)
        await asyncio.sleep(0)
        assert (await cauce("doctor", "mail")).code == 0
        assert (await cauce("doctor", "mail", "--strict")).code == 1


def _good(_settings: dict[str, str], *, postgres: bool) -> Verdict:
    return Verdict("commits", "good", "flushed")
