"""The connection to PostgreSQL breaks around COMMIT (RELIABILITY.md H13): nobody knows, so nobody claims to."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from cauce import Context, Service, on
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from contracts.accounts import UserCreated
from sqlalchemy import make_url

from .conftest import Running, running, somebody

Break = Literal["none", "reply to COMMIT dropped", "COMMIT dropped"]


@dataclass
class Proxy:
    """Between accounts-ms and PostgreSQL; breaks the next connection that commits a sign-up."""

    target: tuple[str, int]
    next_commit: Break = "none"
    broken: int = 0
    port: int = 0
    _connections: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])

    async def connection(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(*self.target)
        self._connections += [to_client, to_server]
        dropping = asyncio.Event()

        async def requests() -> None:
            wrote = False
            while data := await client.read(65536):
                wrote = wrote or b"INSERT INTO users" in data
                if wrote and b"COMMIT" in data and self.next_commit != "none":
                    how, self.next_commit = self.next_commit, "none"
                    dropping.set()
                    self.broken += 1
                    if how == "COMMIT dropped":
                        break
                to_server.write(data)
                await to_server.drain()
            if not dropping.is_set():
                to_server.close()
            elif how_ended := to_server:
                how_ended.close()

        async def replies() -> None:
            while data := await server.read(65536):
                if dropping.is_set():  # PostgreSQL has answered COMMIT: it is done
                    break
                to_client.write(data)
                await to_client.drain()
            to_client.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(requests(), replies())

    def close(self) -> None:
        for writer in self._connections:
            writer.close()


@contextlib.asynccontextmanager
async def behind_a_proxy(database_url: str, **settings: str) -> AsyncGenerator[tuple[Proxy, Running]]:
    url = make_url(database_url)
    proxy = Proxy(target=(str(url.host), int(url.port or 5432)))
    server = await asyncio.start_server(proxy.connection, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    async with running(through, **settings) as accounts:
        yield proxy, accounts
    proxy.close()
    server.close()


@pytest.fixture
async def proxied(postgres: Any) -> AsyncGenerator[tuple[Proxy, Running]]:
    async with behind_a_proxy(postgres.database()) as made:
        yield made


@pytest.mark.parametrize(("how", "committed"), [("reply to COMMIT dropped", True), ("COMMIT dropped", False)])
async def test_an_unknown_commit_is_503_and_a_repeat_with_the_key_ends_in_one_account(
    proxied: tuple[Proxy, Running], how: Break, committed: bool
) -> None:
    proxy, accounts = proxied
    body = somebody()
    proxy.next_commit = how

    unknown = await accounts.post(body, key="k")

    assert proxy.broken == 1
    assert unknown.status_code == 503
    assert int(unknown.headers["retry-after"]) >= 1
    assert "unknown" in unknown.json()["detail"]
    assert accounts.published == []
    assert len(await accounts.rows()) == int(committed)

    repeat = await accounts.post(body, key="k")

    assert repeat.status_code == 201
    [row] = await accounts.rows()
    assert repeat.json() == {"id": row["id"], "username": body["username"], "email": body["email"]}
    assert (await accounts.post(body, key="k")).json() == repeat.json()


class Welcomes:
    """Whoever hears of new users: one line for every call, without any uniqueness."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    @on(UserCreated)
    async def note(self, event: UserCreated, context: Context) -> None:
        self.heard.append((event.id, context.event_id))


@pytest.mark.parametrize("how", ["reply to COMMIT dropped", "COMMIT dropped"])
async def test_on_streams_an_unknown_commit_and_its_repeats_are_one_account_one_event_and_one_welcome(
    postgres: Any, valkey: Any, how: Break
) -> None:
    welcomes = Welcomes()
    mailing = Service(
        "mailing-ms",
        modules=[welcomes],
        store=SqlAlchemyStore(create_engine(postgres.database())),
        transport=RedisStreams(valkey.url),
        start="retained",
    )
    settings = {"EVENTS_TRANSPORT": "redis-streams", "REDIS_URL": valkey.url}
    async with behind_a_proxy(postgres.database(), **settings) as (proxy, accounts), mailing:
        body = somebody()
        proxy.next_commit = how
        assert (await accounts.post(body, key="k")).status_code == 503
        assert proxy.broken == 1

        repeats = [await accounts.post(body, key="k") for _ in range(3)]
        last = await accounts.sign_up()

        async def all_is_done() -> bool:
            heard = {user_id for user_id, _ in welcomes.heard}
            unsent = await accounts.rows("SELECT 1 FROM cauce_outbox")
            return heard >= {last["id"], repeats[0].json()["id"]} and not unsent and not mailing.unfinished

        assert [repeat.status_code for repeat in repeats] == [201] * 3
        async with asyncio.timeout(20):
            while not await all_is_done():  # noqa: ASYNC110  # two databases are asked
                await asyncio.sleep(0.02)
        assert len(await accounts.rows()) == 2
        events = await accounts.rows("SELECT event_id FROM cauce_sent")
        assert len(events) == 2
        assert sorted(event_id for _, event_id in welcomes.heard) == sorted(row["event_id"] for row in events)
        assert {user_id for user_id, _ in welcomes.heard} == {last["id"], repeats[0].json()["id"]}


async def test_without_a_key_the_repeat_at_least_cannot_make_a_second_account(
    proxied: tuple[Proxy, Running],
) -> None:
    proxy, accounts = proxied
    body = somebody()
    proxy.next_commit = "reply to COMMIT dropped"
    assert (await accounts.post(body)).status_code == 503

    repeat = await accounts.post(body)

    assert repeat.status_code == 409
    assert len(await accounts.rows()) == 1


async def test_a_database_that_is_away_is_503_and_back_when_it_is_back(own_postgres: Any) -> None:
    url = own_postgres.create_database("accounts", role="accounts")
    async with running(url) as accounts:
        user = await accounts.sign_up()
        own_postgres.kill()

        away = [await accounts.post(somebody()), await accounts.get(user["id"])]
        missing = await accounts.service.check()
        own_postgres.start()
        back = await accounts.get(user["id"])

    assert [answer.status_code for answer in away] == [503, 503]
    assert all(answer.headers["retry-after"] for answer in away)
    assert "database" in missing
    assert back.json() == user
