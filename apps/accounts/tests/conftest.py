"""accounts-ms, whole and in this process, on each of the two databases; and as a real process."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from accounts.main import MIGRATIONS, build
from accounts.settings import Settings
from cauce import Envelope, Service
from cauce.dev.ports import choose_port
from cauce.service import Happening
from cauce.settings import load
from seedwork import database
from sqlalchemy import text
from starlette.types import ASGIApp, Receive, Scope, Send

ARTICLE = {
    "id": "12345678-1234-1234-1234-123456789abc",
    "username": "john_doe",
    "password": "password123",
    "email": "john.doe@example.com",
}
_numbers = itertools.count(1)


def somebody(**given: Any) -> dict[str, Any]:
    """A sign-up that collides with no other of this process."""
    number = next(_numbers)
    return {
        "username": f"user {number}",
        "password": "correct horse",
        "email": f"user{number}@example.com",
    } | given


@dataclass(frozen=True)
class Running:
    """accounts-ms as its clients see it, and what it published."""

    http: httpx.AsyncClient
    service: Service
    app: ASGIApp
    published: list[Envelope] = field(default_factory=list[Envelope])

    async def post(self, body: dict[str, Any], *, key: str | None = None) -> httpx.Response:
        # In ASCII: httpx's own JSON cannot hold half a surrogate pair, which a client can send.
        headers = {"content-type": "application/json"} | ({"idempotency-key": key} if key else {})
        return await self.http.post("/users", content=json.dumps(body), headers=headers)

    async def sign_up(self, **given: Any) -> dict[str, Any]:
        answer = await self.post(somebody(**given))
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def get(self, user_id: str) -> httpx.Response:
        return await self.http.get(f"/users/{user_id}")

    async def put(self, user_id: str, /, **changes: Any) -> httpx.Response:
        return await self.http.put(f"/users/{user_id}", json=changes)

    async def delete(self, user_id: str) -> httpx.Response:
        return await self.http.delete(f"/users/{user_id}")

    async def rows(self, query: str = "SELECT * FROM users") -> list[dict[str, Any]]:
        async with self.service.transaction(read_only=True) as tx:
            return [dict(row) for row in (await tx.session.execute(text(query))).mappings()]

    def events(self) -> list[Any]:
        return [one.payload for one in self.published]


def settings_for(url: str, **more: str) -> Settings:
    given = {"ACCOUNTS_DATABASE_URL": url, "EVENTS_TRANSPORT": "memory", "CAUCE_ENV_FILE": "", **more}
    return load(Settings, environ=given)


@contextlib.asynccontextmanager
async def running(url: str, **more: str) -> AsyncGenerator[Running]:
    await asyncio.to_thread(database.migrate, url, MIGRATIONS)
    service, app = build(settings_for(url, **more))
    async with app.router.lifespan_context(app) as state:
        handed_over = _with_state(app, dict(state or {}))
        transport = httpx.ASGITransport(handed_over, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            accounts = Running(http=http, service=service, app=handed_over)

            def note(happening: Happening) -> None:
                if happening.what == "published":
                    accounts.published.append(happening.envelope)

            service.observe(note)
            yield accounts


def _with_state(app: ASGIApp, state: dict[str, Any]) -> ASGIApp:
    """What a server does with the state of a lifespan; httpx has no lifespan."""

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return with_state


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/accounts.sqlite"
    return request.getfixturevalue("postgres").database()


@pytest.fixture
async def accounts(database_url: str) -> AsyncGenerator[Running]:
    async with running(database_url) as accounts:
        yield accounts


@pytest.fixture
async def on_sqlite(tmp_path: Path) -> AsyncGenerator[Running]:
    """For what has nothing to do with the database."""
    async with running(f"sqlite+aiosqlite:///{tmp_path}/accounts.sqlite") as accounts:
        yield accounts


# --- a real process -----------------------------------------------------------------------------------------


@dataclass
class AccountsProcess:
    """`python -m accounts` in a folder of its own, its log in a file."""

    folder: Path
    environment: dict[str, str]
    port: int
    health_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def health_url(self) -> str:
        return f"http://127.0.0.1:{self.health_port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "accounts"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    async def ready(self) -> None:
        async with asyncio.timeout(30), httpx.AsyncClient() as http:
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log
                with contextlib.suppress(httpx.TransportError):
                    answer = await http.get(f"{self.health_url}/health/ready")
                    if answer.status_code == 200 and "serves http" in self.log:
                        return
                await asyncio.sleep(0.02)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)


@pytest.fixture
def accounts_process(tmp_path: Path) -> Iterator[Callable[..., AccountsProcess]]:
    """Make a process with these settings; it is gone after the test."""
    made: list[AccountsProcess] = []

    def make(**settings: str) -> AccountsProcess:
        folder = tmp_path / f"process-{len(made)}"
        folder.mkdir()
        port, health_port = choose_port(), choose_port()
        environment = {
            "PATH": os.environ["PATH"],
            "CAUCE_ENV_FILE": "",
            "EVENTS_TRANSPORT": "memory",
            "ACCOUNTS_PORT": str(port),
            "ACCOUNTS_HEALTH_PORT": str(health_port),
        } | settings
        one = AccountsProcess(folder, environment, port, health_port)
        made.append(one)
        return one

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


@pytest.fixture
def root_logger() -> Generator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
