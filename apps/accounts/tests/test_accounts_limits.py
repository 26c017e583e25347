"""What is too much is refused before it costs anything."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import argon2
import httpx
import pytest
from accounts.domain import Password
from accounts.infrastructure import argon2_hasher
from accounts.infrastructure.argon2_hasher import Argon2Hasher
from cauce.errors import ConfigurationError
from cauce.health import health_app

from .conftest import Running, running, settings_for, somebody


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every password that is hashed."""
    seen: list[str] = []
    original = Argon2Hasher.hash

    async def watched(self: Argon2Hasher, password: Password, *, salt: bytes | None = None) -> str:
        seen.append(password)
        return await original(self, password, salt=salt)

    monkeypatch.setattr(Argon2Hasher, "hash", watched)
    return seen


async def test_a_password_of_a_megabyte_is_refused_without_hashing(on_sqlite: Running, hashed: list[str]) -> None:
    answer = await on_sqlite.post(somebody(password="x" * 1_000_000))

    assert answer.status_code == 413
    assert hashed == []


async def test_a_password_that_fits_the_body_but_not_the_rule_is_not_hashed(
    on_sqlite: Running, hashed: list[str]
) -> None:
    answer = await on_sqlite.post(somebody(password="x" * 129))

    assert answer.status_code == 422
    assert hashed == []


async def test_a_streamed_body_is_read_to_the_limit_and_no_further(on_sqlite: Running) -> None:
    sent = 0

    async def body() -> AsyncGenerator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b" " * 1000

    answer = await on_sqlite.http.post("/users", content=body(), headers={"content-type": "application/json"})

    assert answer.status_code == 413
    assert sent <= 18_000


async def test_a_sign_up_that_must_be_refused_costs_no_hash(on_sqlite: Running, hashed: list[str]) -> None:
    user = await on_sqlite.sign_up()

    await on_sqlite.post(somebody(email=user["email"]))

    assert len(hashed) == 1


async def test_no_more_threads_hash_at_once_than_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = most = 0
    lock = threading.Lock()
    original = argon2.PasswordHasher.hash

    def watched(self: argon2.PasswordHasher, password: str, *, salt: bytes | None = None) -> str:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        try:
            return original(self, password, salt=salt)
        finally:
            with lock:
                at_work -= 1

    monkeypatch.setattr(argon2.PasswordHasher, "hash", watched)
    hasher = Argon2Hasher(memory_mib=20)  # one hash takes 19
    hashes = await asyncio.gather(*(hasher.hash(Password("correct horse")) for _ in range(8)))
    hasher.close()

    assert most == 1
    assert len(set(hashes)) == 8


async def test_when_too_many_wait_a_sign_up_is_refused_and_may_be_tried_again(
    on_sqlite: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argon2_hasher, "WAITING_LIMIT", 3)

    answers = await asyncio.gather(*(on_sqlite.post(somebody()) for _ in range(20)))

    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert all(answer.headers["retry-after"] for answer in refused)
    assert len(await on_sqlite.rows()) == 20 - len(refused)
    assert (await on_sqlite.post(somebody())).status_code == 201


async def test_a_cancelled_caller_gives_its_place_in_the_queue_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argon2_hasher, "WAITING_LIMIT", 5)
    hasher = Argon2Hasher(memory_mib=20)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.gather(*(hasher.hash(Password("correct horse")) for _ in range(5)))

    assert await hasher.hash(Password("correct horse"))
    hasher.close()


@pytest.mark.parametrize("method", ["POST /users", "PUT /users/12345678-1234-1234-1234-123456789abc"])
async def test_a_body_with_a_key_twice_is_answered_400(on_sqlite: Running, method: str) -> None:
    verb, path = method.split()
    body = json.dumps(somebody())[:-1] + ', "email": "jane@example.com"}'

    answer = await on_sqlite.http.request(verb, path, content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert "same key twice" in answer.json()["detail"]
    assert await on_sqlite.rows() == []


async def test_a_foreign_host_is_refused_and_the_health_port_serves_it(on_sqlite: Running) -> None:
    foreign = {"host": "evil.example"}

    answer = await on_sqlite.http.post("/users", json=somebody(), headers=foreign)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(health_app(on_sqlite.service))) as health:
        alive = await health.get("http://localhost/health/live", headers=foreign)

    assert (answer.status_code, alive.status_code) == (400, 200)
    assert await on_sqlite.rows() == []


async def test_the_names_it_is_called_by_are_a_setting(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/accounts.sqlite"
    async with running(url, ACCOUNTS_ALLOWED_HOSTS="accounts.example, *.inside", ACCOUNTS_HOST="10.0.0.7") as accounts:
        for host in ("accounts.example:3013", "a.inside", "10.0.0.7"):
            answer = await accounts.http.post("/users", json=somebody(), headers={"host": host})
            assert answer.status_code == 201, host
        assert (await accounts.http.get("/users/x", headers={"host": "localhost"})).status_code == 400
    with pytest.raises(ConfigurationError, match="ACCOUNTS_ALLOWED_HOSTS"):
        settings_for(url, ACCOUNTS_ALLOWED_HOSTS="http://accounts.example")
