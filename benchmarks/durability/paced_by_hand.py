"""Goal 13, by hand: the least that takes an event from one commit to another, in one process, at a pace.

The same two commits and one trip to the broker, as a team would write it today: a SQLAlchemy session adds a row to an
outbox, a relay that the commit wakes reads it through asyncpg, redis-py appends it to a stream and reads it from a group, a
session adds a row to an inbox and the effect. No keys, no order, no lanes, no retries. `bare`: asyncpg in place of the two
sessions.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any
from uuid import uuid4

import msgspec
import redis.asyncio
from cauce import Envelope
from cauce.formats.cloudevents import to_json
from sqlalchemy import insert
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import async_sessionmaker

from durability.events import envelope_of
from durability.place import Place
from durability.tables import effect_of, hand_inbox, hand_outbox

__all__ = ["PacedByHand"]

_STREAM, _GROUP = "hand-paced", "effect"


class PacedByHand:
    """A publisher, a relay and a consumer."""

    def __init__(self, producing: Place, consuming: Place, *, bare: bool = False) -> None:
        self._producing, self._consuming, self._bare = producing, consuming, bare
        self._engines = [one.plain_engine("psycopg") for one in (producing, consuming)]
        self._sessions = [async_sessionmaker(one, expire_on_commit=False) for one in self._engines]
        self._committed: dict[str, float] = {}
        self._applied: dict[str, float] = {}
        self._woken = asyncio.Event()
        self._publisher: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        self._publisher = await self._producing.connect()
        await self._publisher.execute("TRUNCATE hand_outbox RESTART IDENTITY")
        broker: Any = redis.asyncio.Redis.from_url(self._producing.broker)
        await broker.delete(_STREAM)
        await broker.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
        await broker.aclose()
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(self._relay()), tasks.create_task(self._consume())]
            await self.typical_ms(50, 0.01)  # warming up
            yield
            for one in loops:
                one.cancel()
        await self._publisher.close()
        for engine in self._engines:
            await engine.dispose()

    async def typical_ms(self, count: int, every_s: float) -> float:
        """From the commit of the change to the commit of its effect: the median."""
        run, due, ids = uuid4().hex, time.perf_counter(), list[str]()
        for number in range(count):
            envelope = envelope_of(number, keyed=True, run=run)
            await self._publish(envelope)
            self._committed[envelope.id] = time.perf_counter()
            self._woken.set()
            ids.append(envelope.id)
            due += every_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        while not all(one in self._applied for one in ids):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
        return median(self._applied[one] - self._committed[one] for one in ids) * 1000

    async def _publish(self, envelope: Envelope) -> None:
        row = {"key": envelope.key, "message": to_json(envelope)}
        if self._bare:
            async with self._publisher.transaction():
                await self._publisher.execute("INSERT INTO hand_outbox (key, message) VALUES ($1, $2)", *row.values())
            return
        async with self._sessions[0]() as session, session.begin():
            await session.execute(insert(hand_outbox).values(**row).inline())

    async def _handle(self, connection: Any, message: Any) -> None:
        data = message["data"]
        if self._bare:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO hand_inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING", message["id"]
                )
                await connection.execute(
                    "INSERT INTO effect (user_id, name, text) VALUES ($1, $2, $3)",
                    data["user_id"],
                    "John",
                    data["text"],
                )
            return
        async with self._sessions[1]() as session, session.begin():
            await session.execute(postgresql.insert(hand_inbox).values(event_id=message["id"]).on_conflict_do_nothing())
            session.add(effect_of(data["user_id"], data["text"]))

    async def _relay(self) -> None:
        connection = await self._producing.connect()
        broker: Any = redis.asyncio.Redis.from_url(self._producing.broker)
        try:
            while True:
                rows = await connection.fetch("SELECT id, message FROM hand_outbox ORDER BY id LIMIT 500")
                if not rows:
                    await self._woken.wait()
                    self._woken.clear()
                    continue
                async with broker.pipeline(transaction=False) as pipeline:
                    for row in rows:
                        pipeline.xadd(_STREAM, {"e": row["message"]})
                    await pipeline.execute()
                await connection.execute(
                    "DELETE FROM hand_outbox WHERE id = ANY($1::bigint[])", [row["id"] for row in rows]
                )
        finally:
            await broker.aclose()
            await connection.close()

    async def _consume(self) -> None:
        connection = await self._consuming.connect()
        broker: Any = redis.asyncio.Redis.from_url(self._consuming.broker)
        try:
            while True:
                answer = await broker.xreadgroup(_GROUP, "one", {_STREAM: ">"}, count=100, block=1000)
                for entry_id, fields in answer[0][1] if answer else ():
                    message = msgspec.json.decode(fields[b"e"])
                    await self._handle(connection, message)
                    self._applied[message["id"]] = time.perf_counter()
                    await broker.xack(_STREAM, _GROUP, entry_id)
        finally:
            await broker.aclose()
            await connection.close()
