"""A transaction per request: committed before the response leaves, rolled back when the endpoint raises."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from cauce import CauceError, DomainEvent, Service, Transaction, TransactionEndedError, on
from cauce.fastapi import ReadTx, Tx, service_of, transaction_of
from cauce.health import health_app
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError


class Added(DomainEvent, name="web.added"):
    word: str


class Heard:
    def __init__(self) -> None:
        self.words: list[str] = []

    @on(Added, when="after_commit")
    async def hear(self, event: Added) -> None:
        self.words.append(event.word)


class Site:
    """An application over one service on one SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.heard = Heard()
        self.engine = create_engine(f"sqlite+aiosqlite:///{folder}/web.sqlite")
        self.service = Service("web-ms", modules=[self.heard], store=SqlAlchemyStore(self.engine))
        self.app = FastAPI(lifespan=self.service.lifespan)
        self.order: list[str] = []
        app = self.app

        async def add(tx: Transaction, word: str) -> None:
            await tx.session.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
            await tx.publish(Added(word=word))

        @app.post("/words/{word}", status_code=201)
        async def create(word: str, tx: Tx) -> dict[str, str]:
            await add(tx, word)
            return {"word": word}

        @app.post("/orphans", status_code=201)
        async def orphan(tx: Tx) -> dict[str, str]:
            await add(tx, "orphan")
            await tx.session.execute(text("INSERT INTO children VALUES (7)"))  # refused at the commit
            return {"word": "orphan"}

        @app.post("/refused", status_code=201)
        async def refused(tx: Tx) -> None:
            await add(tx, "refused")
            raise HTTPException(409, "no")

        @app.post("/broken", status_code=201)
        async def broken(tx: Tx) -> None:
            await add(tx, "broken")
            raise ZeroDivisionError

        @app.post("/swallowed", status_code=201)
        async def swallowed(tx: Tx) -> None:
            await add(tx, "swallowed")
            with suppress(IntegrityError):
                await tx.session.execute(text("INSERT OR ROLLBACK INTO parents VALUES (1), (1)"))

        @app.post("/forgotten", status_code=201)
        async def forgotten(tx: Tx) -> None:
            tx.publish(Added(word="forgotten"))  # pyright: ignore[reportUnusedCoroutine]  # the mistake

        @app.post("/kept", status_code=202)
        async def kept(tx: Tx, tasks: BackgroundTasks) -> None:
            await add(tx, "kept")
            session = tx.session

            async def write_afterwards() -> None:
                try:
                    await session.execute(text("INSERT INTO words VALUES ('afterwards')"))
                except TransactionEndedError as error:
                    self.order.append(str(error))

            tasks.add_task(write_afterwards)

        @app.get("/streamed")
        async def streamed(tx: ReadTx) -> StreamingResponse:
            session = tx.session

            async def lines() -> AsyncGenerator[str]:
                try:
                    await session.execute(text("SELECT word FROM words"))
                except TransactionEndedError as error:
                    yield str(error)

            return StreamingResponse(lines())

        async def inner(tx: Tx) -> Transaction:
            return tx

        @app.post("/shared", status_code=201)
        async def shared(tx: Tx, same: Annotated[Transaction, Depends(inner)]) -> bool:
            return tx is same

        @app.get("/words")
        async def words(tx: ReadTx) -> list[str]:
            return list((await tx.session.execute(text("SELECT word FROM words"))).scalars())

        @app.get("/writes")
        async def writes(tx: ReadTx) -> None:
            await add(tx, "written by a reader")

        @app.post("/later/{word}", status_code=202)
        async def later(word: str, tx: Tx, tasks: BackgroundTasks, request: Request) -> None:
            await add(tx, word)

            async def look() -> None:
                async with service_of(request).transaction(read_only=True) as own:
                    self.order.extend((await own.session.execute(text("SELECT word FROM words"))).scalars())

            tasks.add_task(look)

    async def prepare(self) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE words (word TEXT)"))
            await connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
            await connection.execute(
                text("CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
            )

    async def stored(self) -> list[str]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(text("SELECT word FROM words"))).scalars())


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    site = Site(tmp_path)
    await site.prepare()
    async with site.service:
        yield site


def client_of(app: FastAPI, state: Mapping[str, object], *, raises: bool = False) -> httpx.AsyncClient:
    async def with_state(scope: Any, receive: Any, send: Any) -> None:  # as a server does after the lifespan began
        await app(scope | {"state": dict(state)}, receive, send)

    transport = httpx.ASGITransport(with_state, raise_app_exceptions=raises)
    return httpx.AsyncClient(transport=transport, base_url="http://web")


@pytest.fixture
async def client(site: Site) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(site.app, {"cauce_service": site.service}) as client:
        yield client


async def test_the_commit_comes_before_the_response(site: Site) -> None:
    """Seen at the very moment the response begins to leave."""
    stored_when_answered: list[list[str]] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 201
            stored_when_answered.append(await site.stored())

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/words/a",
        "raw_path": b"/words/a",
        "query_string": b"",
        "headers": [],
        "state": {"cauce_service": site.service},
    }
    await site.app(scope, receive, send)
    assert stored_when_answered == [["a"]]
    await site.service.idle()
    assert site.heard.words == ["a"]


async def test_a_commit_that_fails_is_not_answered_with_success(site: Site, client: httpx.AsyncClient) -> None:
    assert (await client.post("/orphans")).status_code == 500
    await site.service.idle()
    assert await site.stored() == []
    assert site.heard.words == []
    assert (await client.post("/words/next")).status_code == 201
    assert await site.stored() == ["next"]


@pytest.mark.parametrize(("path", "status"), [("/refused", 409), ("/broken", 500)])
async def test_an_endpoint_that_raises_rolls_back(
    site: Site, client: httpx.AsyncClient, path: str, status: int
) -> None:
    assert (await client.post(path)).status_code == status
    await site.service.idle()
    assert await site.stored() == []
    assert site.heard.words == []


@pytest.mark.filterwarnings(
    "ignore:coroutine 'Transaction:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("path", ["/swallowed", "/forgotten"])
async def test_what_cannot_be_committed_is_not_answered_with_success(
    site: Site, client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.post(path)).status_code == 500
    await site.service.idle()
    assert await site.stored() == []
    assert site.heard.words == []


async def test_a_background_task_or_a_stream_that_goes_on_with_the_session_is_told_the_way_out(
    site: Site, client: httpx.AsyncClient
) -> None:
    assert (await client.post("/kept")).status_code == 202
    streamed = (await client.get("/streamed")).text
    for said in (*site.order, streamed):
        assert "async with service.transaction() as tx" in said
    assert len(site.order) == 1
    async with asyncio.timeout(5):  # nobody holds the writers' turn
        assert (await client.post("/words/next")).status_code == 201
    assert await site.stored() == ["kept", "next"]


async def test_a_request_has_one_transaction(client: httpx.AsyncClient) -> None:
    assert (await client.post("/shared")).json() is True


async def test_a_reader_reads_and_cannot_write(site: Site, client: httpx.AsyncClient) -> None:
    await client.post("/words/a")
    assert (await client.get("/words")).json() == ["a"]
    assert (await client.get("/writes")).status_code == 500
    assert await site.stored() == ["a"]


async def test_a_background_task_finds_the_change_committed(site: Site, client: httpx.AsyncClient) -> None:
    assert (await client.post("/later/a")).status_code == 202
    assert site.order == ["a"]


async def test_requests_have_no_cause_and_each_its_own_conversation(site: Site, client: httpx.AsyncClient) -> None:
    conversations: list[str] = []
    site.service.observe(
        lambda one: conversations.append(one.envelope.correlation_id) if one.what == "published" else None
    )
    await client.post("/words/a")
    await client.post("/words/b")
    assert len(set(conversations)) == 2


async def anything(tx: Tx) -> None: ...


async def test_an_application_without_the_services_lifespan_is_told_how() -> None:
    app = FastAPI()

    @app.get("/")
    async def anything(tx: Tx) -> Response:
        return Response()

    async with client_of(app, {}, raises=True) as client:
        with pytest.raises(CauceError) as caught:
            await client.get("/")
    assert str(caught.value) == (
        "no service runs here; give the application its lifespan: FastAPI(lifespan=service.lifespan)"
    )


@asynccontextmanager
async def served(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """The application as a server runs it; its errors are raised here."""
    async with app.router.lifespan_context(app) as state, client_of(app, state or {}, raises=True) as client:
        yield client


async def test_a_lifespan_that_does_not_hand_on_the_state_is_told_how(tmp_path: Path) -> None:
    service = Site(tmp_path).service

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with service.lifespan(app):
            yield

    app = FastAPI(lifespan=lifespan)
    app.get("/")(anything)
    async with served(app) as client:
        with pytest.raises(CauceError) as caught:
            await client.get("/")
    assert "the application has a lifespan, and its state did not reach this request" in str(caught.value)
    assert "async with service.lifespan(app) as state: yield state" in str(caught.value)


async def test_a_client_that_runs_no_lifespan_is_told_how(tmp_path: Path) -> None:
    app = FastAPI(lifespan=Site(tmp_path).service.lifespan)
    app.get("/")(anything)
    async with client_of(app, {}, raises=True) as client:
        with pytest.raises(CauceError, match=r"httpx\.ASGITransport runs no lifespan"):
            await client.get("/")


async def test_a_mounted_application_with_a_lifespan_of_its_own_is_told_how(tmp_path: Path) -> None:
    inner = FastAPI(lifespan=Site(tmp_path).service.lifespan)
    inner.get("/")(anything)
    outer = FastAPI()
    outer.mount("/inner", inner)
    async with served(outer) as client:
        with pytest.raises(CauceError, match="only the outermost one's lifespan is run"):
            await client.get("/inner/")


async def test_a_mounted_application_uses_the_service_of_the_outermost(tmp_path: Path) -> None:
    inner = FastAPI()
    inner.get("/")(anything)
    outer = FastAPI(lifespan=Site(tmp_path).service.lifespan)
    outer.mount("/inner", inner)
    async with served(outer) as client:
        assert (await client.get("/inner/")).status_code == 200


# Several services


shop, mail = (Service(name, store=MemoryStore()) for name in ("shop-ms", "mail-ms"))
ShopTx = Annotated[Transaction, transaction_of(shop)]
MailTx = Annotated[Transaction, transaction_of(mail, read_only=True)]


async def test_with_two_services_in_one_application_each_transaction_names_its_own() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, object]]:
        async with shop.lifespan(app) as first, mail.lifespan(app) as second:
            yield {**first, **second}

    app = FastAPI(lifespan=lifespan)
    app.get("/")(anything)

    @app.post("/both")
    async def both(one: ShopTx, other: MailTx) -> str:
        await one.publish(Added(word="a"))
        with pytest.raises(CauceError) as refused:
            await other.publish(Added(word="b"))
        return str(refused.value)

    async with served(app) as client:
        with pytest.raises(CauceError) as caught:
            await client.get("/")
        assert str(caught.value) == (
            "several services run in this application (mail-ms, shop-ms), and Tx does not say which is meant. Name it: "
            "ShopTx = Annotated[Transaction, transaction_of(shop)]"
        )
        assert (await client.post("/both")).json().startswith("this transaction is read-only")
    assert (shop.counters["published"], mail.counters["published"]) == (1, 0)


# WebSockets


async def say(site: Site, word: str) -> list[str]:
    """Say one word on the socket and hang up; the types of what the application sent."""
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": word},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "path": "/socket",
        "raw_path": b"/socket",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
        "state": {"cauce_service": site.service},
    }
    await site.app(scope, receive, send)
    return sent


async def test_a_websocket_has_a_transaction_committed_when_its_endpoint_returns(site: Site) -> None:
    @site.app.websocket("/socket")
    async def socket(websocket: WebSocket, tx: Tx) -> None:
        await websocket.accept()
        word = await websocket.receive_text()
        await tx.session.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
        await tx.publish(Added(word=word))
        if word == "bad":
            raise ZeroDivisionError
        assert service_of(websocket) is site.service

    assert "websocket.accept" in await say(site, "good")
    with pytest.raises(ZeroDivisionError):
        await say(site, "bad")
    await site.service.idle()
    assert await site.stored() == ["good"]
    assert site.heard.words == ["good"]


# The health pages


@pytest.mark.parametrize("place", ["", "/internal", "/deep/internal"])
async def test_the_health_pages_can_be_mounted(tmp_path: Path, place: str) -> None:
    site = Site(tmp_path)
    site.app.mount(place, health_app(site.service))
    async with served(site.app) as client:
        for page in ("/health/live", "/health/ready", "/counters"):
            assert (await client.get(place + page)).status_code == 200
        unknown = await client.get(place + "/nothing")
    assert (unknown.status_code, unknown.json()["error"]) == (404, "no such page")


def test_one_application_runs_in_one_event_loop_after_the_other(tmp_path: Path) -> None:
    """As with the usual test client, which has a loop of its own in every test."""
    site = Site(tmp_path)

    async def use(number: int) -> None:
        async with site.app.router.lifespan_context(site.app) as state, client_of(site.app, state or {}) as client:
            if number == 0:
                await site.prepare()
            assert (await client.post(f"/words/{number}")).status_code == 201
            assert (await client.get("/words")).json() == [str(n) for n in range(number + 1)]

    for number in range(2):
        asyncio.run(use(number))
    assert site.heard.words == ["0", "1"]
