"""By FastStream: faststream-outbox in front of a stream, as it comes and tuned, and an inbox written by hand."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import redis.asyncio
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from durability.events import BATCH, KEYS, TEXT
from durability.listening import Listening, say, told
from durability.peers import outbox_table
from durability.place import Place
from durability.tables import effect_of, hand_inbox
from durability.waiting import until

__all__ = ["consume", "outbox", "produce", "relay", "write_outbox_row"]


def outbox(engine: AsyncEngine) -> Any:
    from faststream_outbox import OutboxBroker

    return OutboxBroker(engine, outbox_table=outbox_table(), logger=None)


async def write_outbox_row(broker: Any, session: AsyncSession, number: int) -> None:
    await broker.publish(_body(number), queue="relay", session=session)


def _body(number: int, **more: str) -> dict[str, str]:
    return {**more, "user_id": f"user-{number % KEYS}", "text": TEXT}


@asynccontextmanager
async def relaying(place: Place, *, tuned: bool) -> AsyncGenerator[tuple[Any, AsyncEngine, list[int]]]:
    """faststream-outbox in front of FastStream's stream publisher; the list counts what was relayed."""
    from faststream.redis import RedisBroker

    engine = create_async_engine(place.database.replace("psycopg", "asyncpg"), pool_size=20)
    broker: Any = RedisBroker(place.broker, logger=None)
    rows: Any = outbox(engine)
    relayed = [0]
    options: dict[str, Any] = (
        {"max_workers": 8, "fetch_batch_size": 500, "terminal_flush_batch_size": 100, "min_fetch_interval": 0.01}
        if tuned
        else {}
    )

    async def relay(body: dict[str, str]) -> dict[str, str]:
        relayed[0] += 1
        return body

    broker.publisher(stream="peer")(rows.subscriber("relay", **options)(relay))
    await broker.connect()
    await rows.start()
    try:
        yield rows, engine, relayed
    finally:
        await rows.stop()
        await broker.stop()
        await engine.dispose()


async def relay(place: Place, count: int, *, tuned: bool) -> float:
    connection = await place.connect()
    await connection.execute("TRUNCATE peer_outbox")
    async with relaying(place, tuned=tuned) as (rows, engine, relayed):
        sessions = async_sessionmaker(engine)
        bodies = [_body(number, event_id=str(number)) for number in range(count)]
        began = time.perf_counter()
        async with sessions() as session, session.begin():
            await rows.publish_batch(*bodies, queue="relay", session=session)
            began = time.perf_counter()
        await until(lambda: relayed[0] == count)
        while await connection.fetchval("SELECT count(*) FROM peer_outbox"):  # noqa: ASYNC110  # its last deletes
            await asyncio.sleep(0.005)
        taken = time.perf_counter() - began
    await connection.close()
    broker: Any = redis.asyncio.Redis.from_url(place.broker)
    await broker.delete("peer")
    await broker.aclose()
    return count / taken


async def consume(place: Place, count: int) -> None:
    """FastStream with the inbox that one writes by hand, one event at a time: anything else would mix up the keys."""
    from faststream.redis import RedisBroker, StreamSub

    listening = Listening(count)
    engine = create_async_engine(place.database.replace("psycopg", "asyncpg"), pool_size=20)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    broker: Any = RedisBroker(place.broker, logger=None)

    async def effect(body: dict[str, str]) -> None:
        listening.called()
        async with sessions() as session, session.begin():
            known = await session.execute(
                postgres_insert(hand_inbox).values(event_id=body["event_id"]).on_conflict_do_nothing()
            )
            if known.rowcount:  # pyright: ignore[reportAttributeAccessIssue]  # a CursorResult, for an insert
                session.add(effect_of(body["user_id"], body["text"]))
        listening.committed()

    broker.subscriber(stream=StreamSub("peer", group="effect", consumer="one", max_records=100))(effect)
    await broker.start()
    say("ready")
    await listening.finished()
    await broker.stop()
    await engine.dispose()


async def produce(place: Place, count: int) -> None:
    async with relaying(place, tuned=True) as (rows, engine, _):
        sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine)
        say("ready")
        await told("go")
        run = uuid4().hex
        for first in range(0, count, BATCH):
            bodies = [_body(number, event_id=f"{run}-{number}") for number in range(first, first + BATCH)]
            async with sessions() as session, session.begin():
                await rows.publish_batch(*bodies, queue="relay", session=session)
        await told("end")
