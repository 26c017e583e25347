"""The whole system for the system tests: every process real, on ports of its own, stopped at the end."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cauce.dev.ports import choose_port
from cauce.dev.system import DevSystem
from cauce.ports.lanes import LANES, Lane
from cauce.settings.project import Project
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from redis import Redis

from testsupport.databases import query
from testsupport.repository import ROOT
from testsupport.waiting import eventually

__all__ = ["CLEAN", "SERVICES", "WAITING", "LiveSystem", "free_ports", "live_system"]

T = TypeVar("T")

SERVICES = ("accounts", "mailing", "music-discovery")
PORTS = (
    "ACCOUNTS_PORT",
    "ACCOUNTS_HEALTH_PORT",
    "MAILING_HEALTH_PORT",
    "MUSIC_DISCOVERY_PORT",
    "MUSIC_DISCOVERY_HEALTH_PORT",
)
CLEAN = (
    "REDIS_",
    "SMTP_",
    "MAIL_",
    "ACCOUNTS_",
    "MAILING_",
    "MUSIC_DISCOVERY_",
    "EVENTS_",
    "NEST_",
    "STORE",
    "LOG_",
    "CAUCE_",
)
WAITING = (
    "SELECT 1 FROM cauce_waiting w WHERE NOT EXISTS "
    "(SELECT 1 FROM cauce_dead_letter d WHERE d.consumer = w.consumer AND d.event_id = w.event_id)"
)
"""What is to be handled. A dead letter holds its key's place too, until somebody decides."""


class LiveSystem:
    """A running system and its public doors. Its loop runs in a thread, so that tests are plain functions."""

    def __init__(self, system: DevSystem, environment: dict[str, str], loop: asyncio.AbstractEventLoop) -> None:
        self.system = system
        self.environment = environment
        self._loop = loop
        self.http = httpx.Client(timeout=10)

    def call(self, coroutine: Coroutine[Any, Any, T], *, within_s: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(within_s)

    @property
    def accounts(self) -> str:
        return f"http://127.0.0.1:{self.environment['ACCOUNTS_PORT']}"

    @property
    def discovery(self) -> str:
        return f"http://127.0.0.1:{self.environment['MUSIC_DISCOVERY_PORT']}"

    def ready(self, service: str) -> httpx.Response:
        port = self.environment[f"{service.upper().replace('-', '_')}_HEALTH_PORT"]
        return self.http.get(f"http://127.0.0.1:{port}/health/ready")

    def counters(self, service: str) -> dict[str, int]:
        port = self.environment[f"{service.upper().replace('-', '_')}_HEALTH_PORT"]
        return self.http.get(f"http://127.0.0.1:{port}/counters").json()

    def mails(self, recipient: str = "") -> list[dict[str, Any]]:
        mails = self.http.get(f"{self.system.environment['CAUCE_MAILS_URL']}/mails").json()
        return [mail for mail in mails if not recipient or mail["recipients"] == [recipient]]

    def catalog(self, user_id: str) -> dict[str, Any] | None:
        """The user's catalog, if there is one."""
        answer = self.http.get(f"{self.discovery}/user-catalog/user/{user_id}")
        return answer.json() if answer.status_code == 200 else None

    def not_ready(self, service: str) -> dict[str, str]:
        """What the service says it misses; empty when it is ready."""
        return self.ready(service).json()["not_ready"]

    def sign_up(self, *, key: str | None = None, **user: str) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post(f"{self.accounts}/users", json=user, headers=headers)

    def redis(self) -> Any:
        """A client of the broker, to be closed."""
        environment = self.system.environment
        return Redis(
            host=environment["REDIS_HOST"], port=int(environment["REDIS_PORT"]), password=environment["REDIS_PASS"]
        )

    def user(self, service: str) -> Any:
        """A client of the broker with the user of this service, to be closed."""
        url = self.system.environment[f"{service.upper().replace('-', '_')}_REDIS_URL"]
        return Redis.from_url(url, protocol=2, decode_responses=True)

    def refusals(self) -> list[str]:
        """What the broker refused the services for want of rights, but for how it is: they may not ask, and need not know."""
        with self.redis() as redis:
            said = [(entry["username"], entry["object"]) for entry in redis.acl_log()]
        return [f"{user}: {what}" for user, what in said if what not in ("info", "config|get")]

    def topic(self, service: str) -> list[dict[str, Any]]:
        """What the durable topic of this service holds, oldest first, as CloudEvents."""
        return [json.loads(entry) for entry in self.entries(service)]

    def entries(self, service: str) -> list[bytes]:
        """The same as it is on the broker."""
        keys = StreamKeys("cauce")
        with self.redis() as redis:
            streams = [redis.xrange(keys.stream(service, Lane(lane))) for lane in range(LANES)]
        entries = sorted((entry for stream in streams for entry in stream), key=lambda entry: _order(entry[0]))
        return [fields[FIELD] for _, fields in entries]

    def pending(self, topic: str, group: str) -> int:
        """How many entries of a topic this group was given and has not acknowledged, or was not given yet."""
        keys, count = StreamKeys("cauce"), 0
        with self.redis() as redis:
            for lane in range(LANES):
                stream = keys.stream(topic, Lane(lane))
                if not redis.exists(stream):
                    continue
                for info in redis.xinfo_groups(stream):
                    if info["name"] == group.encode():
                        after = info["last-delivered-id"].decode()
                        count += info["pending"] + len(redis.xrange(stream, min=f"({after}"))
        return count

    def nothing_pending(self, publisher: str, *listeners: str) -> None:
        """Wait until all that the publisher wrote has been sent, and handled or given up by these services."""
        eventually(lambda: not self.rows(publisher, "SELECT 1 FROM cauce_outbox"))
        for service in listeners:
            eventually(lambda service=service: self.pending(f"{publisher}-ms", f"{service}-ms") == 0)
            eventually(lambda service=service: not self.rows(service, WAITING))

    def rows(self, service: str, question: str) -> list[tuple[Any, ...]]:
        """Ask a service's own database."""
        return query(self.system.environment[f"{service.upper().replace('-', '_')}_DATABASE_URL"], question)

    def tables(self, service: str) -> dict[str, str]:
        """Everything in a service's own database, as text, by table; bytes are read as the text they are."""
        sqlite = self.system.environment[f"{service.upper().replace('-', '_')}_DATABASE_URL"].startswith("sqlite")
        names = (
            "SELECT name FROM sqlite_master WHERE type = 'table'"
            if sqlite
            else "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        return {
            name: "\n".join(
                " | ".join(_shown(value) for value in row) for row in self.rows(service, f'SELECT * FROM "{name}"')
            )
            for (name,) in self.rows(service, names)
        }

    def lines(self, service: str) -> list[str]:
        return list(self.system.services[service].lines)


def free_ports() -> dict[str, str]:
    """A port of its own for everything that listens, by variable."""
    return {name: str(choose_port()) for name in PORTS}


def _order(entry_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split(b"-")))


REPLICA_PORTS = {"accounts": ("ACCOUNTS_PORT",), "mailing": (), "music-discovery": ("MUSIC_DISCOVERY_PORT",)}


def _with_replicas(project: Project, names: Collection[str]) -> Project:
    """The project with a second instance of these services, called NAME-2, on ports of its own."""
    services = dict(project.services)
    for name in names:
        prefix = name.upper().replace("-", "_")
        health, doors = choose_port(), {variable: choose_port() for variable in REPLICA_PORTS[name]}
        given = {f"{prefix}_HEALTH_PORT": health, **doors}
        services[f"{name}-2"] = replace(
            services[name],
            name=f"{name}-2",
            command=("env", *(f"{variable}={port}" for variable, port in given.items()), *services[name].command),
            ready=f"http://127.0.0.1:{health}/health/ready",
            address=next((f"http://127.0.0.1:{port}" for port in doors.values()), None),
            database=None,  # the one of the first, and its user at the broker
            broker=None,
        )
    return replace(project, services=services)


def _shown(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@contextmanager
def live_system(folder: Path, *, twice: Collection[str] = (), **settings: str) -> Generator[LiveSystem]:
    """Start the repository's system with its data in `folder`; `settings` are environment variables.

    `twice`: services of which a second instance runs, called NAME-2.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(CLEAN)}
    environment |= free_ports() | settings
    project = replace(_with_replicas(Project.read(ROOT / "pyproject.toml"), twice), root=folder)
    started: threading.Event = threading.Event()
    stop: list[Callable[[], object]] = []
    outcome: list[Any] = []

    async def main() -> None:
        leave = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(leave.set))
        async with DevSystem(project, environment=environment) as system:
            outcome.append(LiveSystem(system, environment, loop))
            started.set()
            await leave.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # handed to the test below
            outcome.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="live system")
    thread.start()
    try:
        assert started.wait(120), "the system did not start within two minutes"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        yield outcome[0]
    finally:
        if outcome and isinstance(outcome[0], LiveSystem):
            outcome[0].http.close()
        if thread.is_alive():
            for leave in stop:
                leave()
        thread.join(60)
    if isinstance(outcome[-1], BaseException):
        raise outcome[-1]
