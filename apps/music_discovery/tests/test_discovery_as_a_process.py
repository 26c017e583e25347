"""`python -m music_discovery`, with a real Valkey between it and the others."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cauce.dev.ports import choose_port
from redis import Redis

USER_ID = "12345678-1234-1234-1234-123456789abc"
LEGACY_NAME = "com.clonespotify.accounts.users.integration.user-updated"
FAVORITES_NAME = "com.clonespotify.discovery.user-music-catalog.integration.favorites-updated"


@dataclass
class Process:
    child: subprocess.Popen[bytes]
    log: Path
    http: str
    health: str

    async def until_ready(self, limit_s: float = 20) -> None:
        async with asyncio.timeout(limit_s), httpx.AsyncClient() as client:
            while True:
                assert self.child.poll() is None, self.log.read_text()
                try:
                    if (await client.get(f"{self.health}/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def stop(self) -> int:
        self.child.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.child.wait, 20)


@contextmanager
def music_discovery(folder: Path, **environ: str) -> Generator[Process]:
    port, health_port = choose_port(), choose_port()
    given = {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")},
        "CAUCE_ENV_FILE": "",
        "MUSIC_DISCOVERY_PORT": str(port),
        "MUSIC_DISCOVERY_HEALTH_PORT": str(health_port),
        **environ,
    }
    log = folder / "music-discovery.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "music_discovery"], cwd=folder, env=given, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield Process(child, log, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{health_port}")
    finally:
        child.kill()
        child.wait()


async def eventually(client: httpx.AsyncClient, path: str, *, limit_s: float = 10) -> Any:
    async with asyncio.timeout(limit_s):
        while True:
            answer = await client.get(path)
            if answer.status_code == 200:
                return answer.json()
            await asyncio.sleep(0.02)


async def test_the_articles_event_makes_a_catalog_and_favorites_reach_a_nestjs_listener(
    tmp_path: Path, valkey: Any
) -> None:
    packet = {
        "pattern": LEGACY_NAME,
        "data": {
            "service": "accounts-ms",
            "name": LEGACY_NAME,
            "payload": {"id": USER_ID, "username": "john_doe", "email": "john.doe@example.com"},
            "id": "r8ScC5wB5NHPWv6wHTLZ59",
            "occurredOn": "2024-02-12T12:00:00.000Z",
        },
    }
    broker: Any = Redis.from_url(valkey.url, protocol=2, legacy_responses=True)  # pyright: ignore[reportUnknownMemberType]  # its options have no types
    settings = {"REDIS_URL": valkey.url, "EVENTS_TRANSPORT": "redis-pubsub"}
    with music_discovery(tmp_path, **settings) as process, broker, broker.pubsub() as nest:
        nest.subscribe(FAVORITES_NAME)
        nest.get_message(timeout=5)
        await process.until_ready()
        assert broker.publish(LEGACY_NAME, json.dumps(packet)) == 1

        async with httpx.AsyncClient(base_url=process.http) as client:
            catalog = await eventually(client, f"/user-catalog/user/{USER_ID}")
            assert (catalog["user"]["username"], catalog["playlists"]) == ("john_doe", [])
            favorites = {"songs": ["s1"], "artists": [], "albums": []}
            body = {"userId": USER_ID, "favorites": favorites}
            assert (await client.put("/user-catalog/favorites", json=body)).status_code == 200
        message = await asyncio.to_thread(nest.get_message, timeout=5)

        assert message is not None
        heard = json.loads(message["data"])
        assert heard["pattern"] == FAVORITES_NAME
        assert (heard["data"]["service"], heard["data"]["payload"]) == ("music-discovery-ms", body)
        assert await process.stop() == 0

    log = process.log.read_text()
    assert "Event received: com.clonespotify.accounts.users.integration.user-created from accounts-ms" in log
    assert "john.doe@example.com" not in log
    assert "Traceback" not in log


async def test_data_outlives_the_process(tmp_path: Path, postgres: Any, valkey: Any) -> None:
    given = {"REDIS_URL": valkey.url, "MUSIC_DISCOVERY_DATABASE_URL": postgres.database()}
    for status in (201, 409):
        with music_discovery(tmp_path, **given) as process:
            await process.until_ready()
            async with httpx.AsyncClient(base_url=process.http) as client:
                body = {"id": USER_ID, "user": {"id": USER_ID, "username": "john_doe"}}
                assert (await client.post("/user-catalog", json=body)).status_code == status
            assert await process.stop() == 0


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"MUSIC_DISCOVERY_PORT": "many", "LOG_LEVEL": "LOUD"}, ["MUSIC_DISCOVERY_PORT", "LOG_LEVEL"]),
        ({"MUSIC_DISCOVERY_PROT": "3015"}, ["Did you mean MUSIC_DISCOVERY_PORT?"]),
        ({"EVENTS_TRANSPORT": "redis-pubsubb"}, ["EVENTS_TRANSPORT", "redis-pubsub"]),
        (
            {"MUSIC_DISCOVERY_DATABASE_URL": "postgresql+psycopg://me:hunter2@127.0.0.1:1/nothing"},
            ["no PostgreSQL at 127.0.0.1:1/nothing"],
        ),
    ],
)
async def test_a_start_that_cannot_work_says_why_and_exits_2(
    tmp_path: Path, environ: dict[str, str], said: list[str]
) -> None:
    with music_discovery(tmp_path, **environ) as process:
        assert await asyncio.to_thread(process.child.wait, 20) == 2

    log = process.log.read_text()
    assert all(part in log for part in said), log
    assert "Traceback" not in log
    assert "hunter2" not in log
