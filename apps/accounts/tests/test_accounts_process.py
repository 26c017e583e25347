"""`python -m accounts` as a real process: start, load, stop, and starts that must fail."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable
from itertools import groupby
from typing import Any

import httpx
import pytest
import redis.asyncio
from sqlalchemy import make_url
from testsupport.long_form import PROVE

from .conftest import ARTICLE, AccountsProcess, somebody

Make = Callable[..., AccountsProcess]


async def test_it_needs_no_setting_and_keeps_its_data_in_a_file(accounts_process: Make) -> None:
    process = accounts_process()
    process.start()
    await process.ready()
    async with httpx.AsyncClient(base_url=process.url) as http:
        assert (await http.post("/users", json=ARTICLE)).status_code == 201
    assert process.stop() == 0

    process.start()
    await process.ready()
    async with httpx.AsyncClient(base_url=process.url) as http:
        assert (await http.get(f"/users/{ARTICLE['id']}")).status_code == 200
    assert process.stop() == 0
    with sqlite3.connect(process.folder / ".cauce/data/accounts.sqlite") as file:
        assert file.execute("SELECT count(*) FROM users").fetchone() == (1,)
    file.close()


async def test_its_own_start_up_log_has_at_most_five_lines(accounts_process: Make) -> None:
    process = accounts_process()
    process.start()
    await process.ready()

    lines = process.log.splitlines()
    assert 1 <= len(lines) <= 5
    assert process.url in lines[-1]
    process.stop()


async def test_a_sign_up_is_seen_in_the_log_by_its_ids(accounts_process: Make) -> None:
    process = accounts_process(LOG_FORMAT="json", LOG_LEVEL="debug")
    process.start()
    await process.ready()
    async with httpx.AsyncClient(base_url=process.url) as http:
        await http.post("/users", json=ARTICLE)
    process.stop()

    lines = [json.loads(line) for line in process.log.splitlines()]
    [line] = [line for line in lines if line["event"].startswith("User created")]
    assert ARTICLE["id"] in line["event"]
    assert "user-created" in line["event"]
    for personal in ("john_doe", "john.doe", "password123", "argon2"):
        assert personal not in process.log


async def test_many_sign_ups_at_once_leave_the_health_port_answering(accounts_process: Make) -> None:
    process = accounts_process()
    process.start()
    await process.ready()
    answers: list[int] = []
    order: list[str] = []

    async with httpx.AsyncClient(base_url=process.url, timeout=120, limits=_UNLIMITED) as http:

        async def sign_up() -> None:
            answers.append((await http.post("/users", json=somebody())).status_code)
            order.append("signed up")

        async def probe() -> None:
            async with httpx.AsyncClient(base_url=process.health_url, timeout=5) as health:
                while len(answers) < _AT_ONCE:
                    assert (await health.get("/health/live")).status_code == 200
                    order.append("alive")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(probe())
            for _ in range(_AT_ONCE):
                tasks.create_task(sign_up())

    assert answers == [201] * _AT_ONCE, process.log
    # Had the event loop waited for the hashing, the probes would come before or after the sign-ups, not among them.
    among_them = order[order.index("signed up") :]
    longest_silence = max(len(list(run)) for what, run in groupby(among_them) if what == "signed up")
    assert longest_silence <= _AT_ONCE // 4
    assert process.stop() == 0


_AT_ONCE = 200 if PROVE else 80
_UNLIMITED = httpx.Limits(max_connections=None)


async def test_a_sign_up_under_way_is_finished_when_it_is_told_to_stop(accounts_process: Make) -> None:
    process = accounts_process()
    process.start()
    await process.ready()
    async with httpx.AsyncClient(base_url=process.url, timeout=60, limits=_UNLIMITED) as http:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(http.post("/users", json=somebody())) for _ in range(20)]
            await asyncio.wait(asked, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            stopped = tasks.create_task(asyncio.to_thread(process.stop))
        created = [one.result().status_code for one in asked]

    assert stopped.result() == 0
    with sqlite3.connect(process.folder / ".cauce/data/accounts.sqlite") as file:
        assert file.execute("SELECT count(*) FROM users").fetchone() == (created.count(201),)
    file.close()
    assert set(created) == {201}


async def test_the_article_s_event_is_on_redis_under_the_article_s_name(
    accounts_process: Make, valkey: Any, postgres: Any
) -> None:
    process = accounts_process(
        EVENTS_TRANSPORT="redis-pubsub", REDIS_URL=valkey.url, ACCOUNTS_DATABASE_URL=postgres.database()
    )
    process.start()
    await process.ready()
    name = "com.clonespotify.accounts.users.integration.user-updated"
    client: Any = redis.asyncio.from_url(valkey.url)
    async with client, client.pubsub() as listening, httpx.AsyncClient(base_url=process.url) as http:
        await listening.psubscribe("*")
        assert (await http.post("/users", json=ARTICLE)).status_code == 201
        async with asyncio.timeout(10):
            while (message := await listening.get_message(timeout=1)) is None or message["type"] != "pmessage":
                pass
    process.stop()

    packet = json.loads(message["data"])
    assert message["channel"].decode() == packet["pattern"] == packet["data"]["name"] == name
    assert packet["data"]["payload"] == {key: ARTICLE[key] for key in ("id", "username", "email")}
    assert packet["data"]["id"] in process.log
    assert "id" not in packet


async def test_everything_wrong_with_the_settings_is_said_in_one_message(accounts_process: Make) -> None:
    process = accounts_process(
        ACCOUNTS_PORT="many",
        ACCOUNTS_DATABASE_URL="mysql://root:hunter2@localhost/accounts",
        EVENTS_TRANSPORT="nats",
        LOG_LEVEL="loud",
        ACCOUNTS_HOTS="0.0.0.0",
    )
    process.start()

    assert process.wait() == 2
    for part in ("ACCOUNTS_PORT=many", "EVENTS_TRANSPORT=nats", "not yet", "LOG_LEVEL=loud", "ACCOUNTS_HOST?"):
        assert part in process.log
    assert "postgresql+psycopg://" in process.log
    assert "Traceback" not in process.log
    assert "hunter2" not in process.log


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://accounts:hunter2@127.0.0.1:1/accounts", "no PostgreSQL at 127.0.0.1:1/accounts"),
        ("sqlite+aiosqlite:////proc/nowhere/accounts.sqlite", "/proc/nowhere"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_line(accounts_process: Make, url: str, said: str) -> None:
    process = accounts_process(ACCOUNTS_DATABASE_URL=url)
    process.start()

    assert process.wait() == 2
    [line] = process.log.splitlines()
    assert said in line
    assert "hunter2" not in line


async def test_a_wrong_database_password_is_one_line_without_it(accounts_process: Make, postgres: Any) -> None:
    url = make_url(postgres.database()).set(password="hunter2")
    process = accounts_process(ACCOUNTS_DATABASE_URL=url.render_as_string(hide_password=False))
    process.start()

    assert process.wait() == 2
    [line] = process.log.splitlines()
    assert "password authentication failed" in line
    assert "hunter2" not in line


async def test_a_port_in_use_is_one_message_that_names_it(accounts_process: Make) -> None:
    first = accounts_process()
    first.start()
    await first.ready()
    second = accounts_process(ACCOUNTS_PORT=str(first.port))
    second.start()

    assert second.wait() == 2
    assert str(first.port) in second.log
    assert "Traceback" not in second.log
    first.stop()


async def test_without_a_broker_it_serves_says_what_is_missing_and_recovers_by_itself(
    accounts_process: Make, own_valkey: Any
) -> None:
    url = own_valkey.url
    own_valkey.kill()
    process = accounts_process(EVENTS_TRANSPORT="redis-pubsub", REDIS_URL=url)
    process.start()
    async with httpx.AsyncClient(timeout=20) as http:

        async def until(page: str, fits: Callable[[httpx.Response], bool]) -> httpx.Response:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if fits(answer := await http.get(process.health_url + page)):
                            return answer
                    await asyncio.sleep(0.05)

        not_ready = await until(
            "/health/ready", lambda answer: answer.status_code == 503 and "serves http" in process.log
        )
        assert "redis" in not_ready.json()["not_ready"]
        assert (await http.get(f"{process.health_url}/health/live")).status_code == 200
        assert (await http.post(f"{process.url}/users", json=ARTICLE)).status_code == 201
        await until("/counters", lambda answer: answer.json().get("lost") == 1)
        own_valkey.start()
        await until("/health/ready", lambda answer: answer.status_code == 200)

    assert process.stop() == 0
    assert "no Redis at" in process.log
    assert len(process.log.splitlines()) < 20
    assert "Traceback" not in process.log
