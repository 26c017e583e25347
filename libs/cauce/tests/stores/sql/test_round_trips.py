"""How often a service waits for its database: counted, so that no trip is added unseen.

An event costs none: its row travels with COMMIT. On psycopg BEGIN travels with the first statement besides.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, Transaction, on
from cauce.dev.servers import ScratchDatabases
from cauce.stores.outbox import Outbox
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from testsupport.database_proxy import DatabaseProxy
from testsupport.waiting import until

INSERT = text("INSERT INTO written VALUES (:word)")
OFTEN = 7
"""From the sixth time on psycopg has a statement prepared."""


class Told(IntegrationEvent, name="trips.told", version=1, source="trips-ms"):
    word: str


class Counted(IntegrationEvent, name="trips.counted", version=1, source="trips-ms", key="word"):
    word: str


class Noted(DomainEvent, name="trips.noted"):
    word: str


class Hearing:
    @on(Counted)
    async def alone(self, event: Counted, tx: Transaction) -> None:
        await tx.session.execute(text(f"INSERT INTO written VALUES ('heard {event.word}')"))

    @on(Told)
    async def and_publishes(self, event: Told, tx: Transaction) -> None:
        await tx.session.execute(text(f"INSERT INTO written VALUES ('heard {event.word}, and told')"))
        await tx.publish(Counted(word=event.word))


class Durable:
    @on(Noted, when="durable")
    async def later(self, event: Noted) -> None: ...


@dataclass(frozen=True)
class Place:
    proxy: DatabaseProxy
    engine: AsyncEngine
    service: Service

    async def trips(self, *events: type[Told | Counted | Noted], writes: bool = True) -> int:
        """Of one transaction with these events, on a connection that has everything prepared."""
        words = [uuid4().hex for _ in range(OFTEN)]
        for word in words:
            async with self.service.transaction() as tx:
                if writes:
                    await tx.session.execute(INSERT, {"word": word})
                for event in events:
                    await tx.publish(event(word=word))
        return min(map(self.proxy.trips_of, words))


@asynccontextmanager
async def place_on(url: str, make: Callable[..., AsyncEngine], **options: Any) -> AsyncGenerator[Place]:
    proxy = DatabaseProxy(url)
    async with proxy.open() as behind:
        engine = make(behind, **options)
        try:
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TABLE written (word TEXT)"))
            modules, events = [Durable(), Hearing()], [Told, Counted]
            store, transport = SqlAlchemyStore(engine), MemoryStreams()
            service = Service(
                "trips-ms", modules=modules, store=store, transport=transport, publishes=events, start="retained"
            )
            async with service:
                yield Place(proxy, engine, service)
        finally:
            await engine.dispose()


@pytest.mark.parametrize(
    ("driver", "make", "alone", "with_events"),
    [
        ("psycopg", create_engine, 2, 2),
        ("asyncpg", create_engine, 3, 3),
        ("psycopg", create_async_engine, 3, 4),
    ],
    ids=["psycopg", "asyncpg", "an engine of SQLAlchemy's own"],
)
async def test_an_event_costs_no_trip(
    postgres: ScratchDatabases, driver: str, make: Callable[..., AsyncEngine], alone: int, with_events: int
) -> None:
    async with place_on(postgres.database().replace("psycopg", driver), make) as place:
        assert await place.trips() == alone
        assert await place.trips(Told) == with_events
        assert await place.trips(Counted) == with_events
        assert await place.trips(Noted) == with_events
        assert await place.trips(Told, Counted, Counted, Noted) == with_events


async def test_events_alone_are_one_trip(postgres: ScratchDatabases) -> None:
    async with place_on(postgres.database(), create_engine) as place:
        assert await place.trips(Told, writes=False) == 1
        assert await place.trips(Counted, Told, writes=False) == 1


async def test_nor_does_an_event_of_ones_own_session(postgres: ScratchDatabases) -> None:
    outbox = Outbox("trips-ms", publishes=[Told])
    async with place_on(postgres.database(), create_engine) as place:
        words = [uuid4().hex for _ in range(OFTEN)]
        for word in words:
            async with AsyncSession(place.engine) as session, session.begin():
                outbox.add(session, Told(word=word))
                await session.execute(INSERT, {"word": word})
        assert min(map(place.proxy.trips_of, words)) == 2

        word = uuid4().hex
        async with place.engine.connect() as connection, connection.begin():
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session, session.begin():
                outbox.add(session, Told(word=word))
            written = await connection.execute(text(f"SELECT count(*) FROM cauce_outbox WHERE event_id <> '{word}'"))
            assert written.scalar_one() == OFTEN + 1  # there is no COMMIT to wait for
        assert place.proxy.trips_of(word) == 6  # BEGIN, SAVEPOINT, the row, RELEASE, the count, COMMIT


async def test_a_read_only_transaction_is_as_short(postgres: ScratchDatabases) -> None:
    async with place_on(postgres.database(), create_engine) as place:
        word = uuid4().hex
        async with place.service.transaction(read_only=True) as tx:
            await tx.session.execute(text("SELECT count(*) FROM written WHERE word = :word"), {"word": word})
        assert place.proxy.trips_of(word) == 2


async def test_handling_an_event_is_three_trips(postgres: ScratchDatabases) -> None:
    """BEGIN with the question whether it is new, the listener's own statement, COMMIT with what it publishes."""
    said_in_full = {"connect_args": {"prepare_threshold": None}}
    async with place_on(postgres.database(), create_engine, **said_in_full) as place:
        for word in "abc":
            async with place.service.transaction() as tx:
                await tx.publish(Told(word=word))
        await until(lambda: place.service.counters["handled"] == 6)
        for word in "abc":
            assert place.proxy.trips_of(f"VALUES ('heard {word}')") == 3
            assert place.proxy.trips_of(f"VALUES ('heard {word}, and told')") == 3
