"""A canary: one unique password, looked for everywhere but in accounts' own table."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import LiveSystem, eventually, live_system
from redis import Redis

CANARY = "cAnary-9f3b-password"


@pytest.fixture
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    with live_system(
        tmp_path_factory.mktemp("canary"),
        STORE="sqlite",
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="json",
        EVENTS_TRANSPORT="redis-streams",
    ) as system:
        yield system


def test_neither_password_nor_hash_is_anywhere_but_in_accounts_own_table(live: LiveSystem) -> None:
    environment = live.system.environment
    redis = Redis(
        host=environment["REDIS_HOST"], port=int(environment["REDIS_PORT"]), password=environment["REDIS_PASS"]
    )
    seen: list[str] = []
    with redis, redis.pubsub() as pubsub:
        pubsub.psubscribe("*")
        user = {"username": "canary", "password": CANARY, "email": "canary@example.com"}
        answer = live.sign_up(**user)
        refused = [
            live.sign_up(**user),
            live.sign_up(**{**user, "username": "x" * 5000}),
            live.sign_up(**{**user, "email": "not an address"}),
            live.http.post(f"{live.accounts}/users", content=f'{{"password": "{CANARY}", '),
            live.sign_up(**{**user, "unknown": CANARY}),
        ]
        eventually(lambda: live.mails("canary@example.com"))
        eventually(lambda: live.catalog(answer.json()["id"]))
        while message := pubsub.get_message(timeout=0.3):
            seen.append(str(message))
    assert answer.status_code == 201
    assert all(400 <= one.status_code < 500 for one in refused)

    files = {file: _rows(file) for file in _databases(live)}
    accounts = next(rows for file, rows in files.items() if file.stem == "accounts")
    hashes = re.findall(r"\$argon2id\$[^'\"\s]+", accounts)
    assert hashes, "the hash is where it belongs"
    assert CANARY not in accounts
    m, t = map(int, re.findall(r"m=(\d+),t=(\d+)", hashes[0])[0])
    assert m >= 19 * 1024
    assert t >= 2

    elsewhere = [
        *seen,
        *(rows for file, rows in files.items() if file.stem != "accounts"),
        *(line for service in live.system.services for line in live.lines(service)),
        *(str(mail) for mail in live.mails()),
        *(one.text for one in [answer, *refused]),
    ]
    for text in elsewhere:
        assert CANARY not in text
        assert not any(secret in text for secret in hashes)
        assert "$argon2" not in text


def _databases(live: LiveSystem) -> list[Path]:
    found = [
        Path(value.removeprefix("sqlite+aiosqlite:///"))
        for name, value in live.system.environment.items()
        if name.endswith("_DATABASE_URL")
    ]
    assert len(found) == 3
    return found


def _rows(file: Path) -> str:
    with sqlite3.connect(file) as connection:
        return "\n".join(connection.iterdump())
