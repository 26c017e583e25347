"""music-discovery-ms, whole and in this process, on each of the two databases."""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cauce import Envelope, IntegrationEvent, Service
from cauce.ports.lanes import lane_of
from cauce.service import Happening
from cauce.settings import load
from cauce.transports.memory import MemoryTransport
from music_discovery.main import MIGRATIONS, build
from music_discovery.settings import Settings
from seedwork import database
from sqlalchemy import text
from starlette.types import ASGIApp, Receive, Scope, Send

_numbers = itertools.count(1)


def new_id() -> str:
    """An id of the form 8-4-4-4-12 which no other test uses."""
    return f"{next(_numbers):08d}-0000-1111-2222-333333333333"


def song(title: str) -> dict[str, Any]:
    return {"id": new_id(), "title": title}


def playlist(name: str = "Rock", *, public: bool = True, id: str | None = None, songs: tuple[str, ...] = ()) -> Any:  # noqa: A002
    return {"id": id or new_id(), "name": name, "isPublic": public, "songs": [song(title) for title in songs]}


@dataclass(frozen=True)
class Discovery:
    """The running service, as its users see it."""

    http: httpx.AsyncClient
    service: Service
    published: list[Envelope]
    """Everything the service published, in order, also what was rolled back later."""

    async def new_catalog(self, *, username: str = "john_doe") -> dict[str, Any]:
        body = {"id": new_id(), "user": {"id": new_id(), "username": username}}
        answer = await self.http.post("/user-catalog", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def put(self, catalog: dict[str, Any], playlist: dict[str, Any]) -> dict[str, Any]:
        """The playlist as it is kept."""
        answer = await self.try_to_put(catalog, playlist)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def try_to_put(self, catalog: dict[str, Any], playlist: Any) -> httpx.Response:
        return await self.send("PUT", "/user-catalog/playlists", {"userCatalogId": catalog["id"], "playlist": playlist})

    async def send(self, method: str, path: str, body: Any) -> httpx.Response:
        """In ASCII: httpx's own JSON cannot hold half a surrogate pair, which a client can send."""
        headers = {"content-type": "application/json"}
        return await self.http.request(method, path, content=json.dumps(body), headers=headers)

    async def catalog(self, catalog: dict[str, Any]) -> dict[str, Any]:
        answer = await self.http.get(f"/user-catalog/{catalog['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def search(self, q: str = "", **parameters: Any) -> dict[str, Any]:
        answer = await self.http.get("/playlists", params={"q": q, **parameters})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def found(self, q: str = "", **parameters: Any) -> list[str]:
        """The names of the playlists found."""
        return [item["name"] for item in (await self.search(q, **parameters))["items"]]

    async def hear(self, *events: IntegrationEvent) -> None:
        """The events arrive from the broker, and the service has handled them."""
        assert isinstance(self.service.transport, MemoryTransport)
        for event in events:
            envelope = Envelope.of(event)
            await self.service.transport.publish(lane_of(envelope), [envelope])
        await self.service.idle()

    def published_as(self, *event_types: type) -> list[Any]:
        return [one.payload for one in self.published if isinstance(one.payload, event_types)]

    async def rows(self, table: str) -> int:
        async with self.service.transaction(read_only=True) as tx:
            return (await tx.session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()


def settings_for(url: str, **more: str) -> Settings:
    given = {"MUSIC_DISCOVERY_DATABASE_URL": url, "EVENTS_TRANSPORT": "memory", "CAUCE_ENV_FILE": "", **more}
    return load(Settings, environ=given)


@asynccontextmanager
async def running(url: str) -> AsyncGenerator[Discovery]:
    """The service with its tables made, until the block ends."""
    await asyncio.to_thread(database.migrate, url, MIGRATIONS)
    service, app = build(settings_for(url))
    published: list[Envelope] = []

    def observe(happening: Happening) -> None:
        if happening.what == "published":
            published.append(happening.envelope)

    service.observe(observe)
    async with service.lifespan() as state:
        transport = httpx.ASGITransport(app=_with_state(app, state), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield Discovery(http=http, service=service, published=published)


def _with_state(app: ASGIApp, state: dict[str, Any]) -> ASGIApp:
    """What a server does with the state of a lifespan; httpx has no lifespan."""

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return with_state


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/music-discovery.sqlite"


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres").database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])


@pytest.fixture
async def discovery(database_url: str) -> AsyncIterator[Discovery]:
    async with running(database_url) as discovery:
        yield discovery


@pytest.fixture
async def both(sqlite_url: str, postgres_url: str) -> AsyncIterator[tuple[Discovery, Discovery]]:
    """The service twice, once on each database."""
    async with running(sqlite_url) as on_sqlite, running(postgres_url) as on_postgresql:
        yield on_sqlite, on_postgresql


@pytest.fixture(name="new_id")
def _new_id() -> Callable[[], str]:
    return new_id


@pytest.fixture(name="playlist")
def _playlist() -> Callable[..., Any]:
    return playlist


@pytest.fixture(name="running")
def _running() -> Any:
    return running
