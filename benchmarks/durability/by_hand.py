"""By hand: the least that an outbox, a relay and an inbox can do, through asyncpg (or sqlite3) and redis-py."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import redis
import redis.asyncio
from cauce import Envelope
from cauce.formats.cloudevents import to_json
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from durability.events import BATCH, envelope_of, event_of
from durability.listening import Listening, say
from durability.place import Place
from durability.tables import hand_outbox

__all__ = ["consume", "relay", "relay_sqlite", "send", "write_outbox_row"]


async def write_outbox_row(session: AsyncSession, number: int) -> None:
    message = to_json(Envelope.of(event_of(number, keyed=False)))
    await session.execute(insert(hand_outbox).values(key=None, message=message).inline())


async def relay(place: Place, count: int) -> float:
    """The least one can do: 500 rows, a pipeline of 500, and they are deleted. One stream, no order of keys."""
    connection = await place.connect()
    broker: Any = redis.asyncio.Redis.from_url(place.broker)
    messages = [to_json(envelope_of(number, keyed=False, run="")) for number in range(count)]
    await connection.execute("TRUNCATE hand_outbox RESTART IDENTITY")
    await connection.copy_records_to_table("hand_outbox", records=list(enumerate(messages)), columns=["id", "message"])
    began = time.perf_counter()
    while rows := await connection.fetch("SELECT id, message FROM hand_outbox ORDER BY id LIMIT 500"):
        async with broker.pipeline(transaction=False) as pipeline:
            for row in rows:
                pipeline.xadd("hand", {"e": row["message"]})
            await pipeline.execute()
        await connection.execute("DELETE FROM hand_outbox WHERE id = ANY($1::bigint[])", [row["id"] for row in rows])
    taken = time.perf_counter() - began
    await broker.delete("hand")
    await broker.aclose()
    await connection.close()
    return count / taken


def _relay_sqlite(folder: Path, place: Place, count: int) -> float:
    connection = sqlite3.connect(folder / f"{uuid4().hex}.sqlite", isolation_level=None)
    for pragma in ("journal_mode = wal", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE outbox (id INTEGER PRIMARY KEY, message BLOB NOT NULL)")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO outbox (message) VALUES (?)",
        ((to_json(envelope_of(number, keyed=False, run="")),) for number in range(count)),
    )
    connection.execute("COMMIT")
    broker: Any = redis.Redis.from_url(place.broker)
    began = time.perf_counter()
    while rows := connection.execute("SELECT id, message FROM outbox ORDER BY id LIMIT 500").fetchall():
        pipeline = broker.pipeline(transaction=False)
        for _, message in rows:
            pipeline.xadd("hand", {"e": message})
        pipeline.execute()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM outbox WHERE id <= ?", (rows[-1][0],))
        connection.execute("COMMIT")
    taken = time.perf_counter() - began
    broker.delete("hand")
    broker.close()
    connection.close()
    return count / taken


async def relay_sqlite(folder: Path, place: Place, count: int) -> float:
    return await asyncio.to_thread(_relay_sqlite, folder, place, count)


async def consume(place: Place, count: int) -> None:
    """A hundred at a time in one transaction, through asyncpg: inbox, then effect, then XACK."""
    listening = Listening(count)
    connection = await place.connect()
    broker: Any = redis.asyncio.Redis.from_url(place.broker)
    say("ready")
    while count > 0:
        answer = await broker.xreadgroup("effect", "one", {"hand": ">"}, count=BATCH, block=1000)
        entries: Sequence[Any] = answer[0][1] if answer else ()
        if not entries:
            continue
        listening.called()
        async with connection.transaction():
            for _, fields in entries:
                message = msgspec.json.decode(fields[b"e"])
                known = await connection.execute(
                    "INSERT INTO hand_inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING", message["id"]
                )
                if known != "INSERT 0 0":
                    await connection.execute(
                        "INSERT INTO effect (user_id, name, text) VALUES ($1, $2, $3)",
                        message["data"]["user_id"], "John", message["data"]["text"],
                    )  # fmt: skip
        await broker.xack("hand", "effect", *(entry_id for entry_id, _ in entries))
        count -= len(entries)
        listening.committed(len(entries))
    await listening.finished()
    await broker.aclose()
    await connection.close()


async def send(place: Place, count: int) -> None:
    """The same messages, in one stream for a consumer by hand."""
    run = uuid4().hex
    envelopes = [envelope_of(number, keyed=True, run=run) for number in range(count)]
    broker: Any = redis.asyncio.Redis.from_url(place.broker)
    await broker.delete("hand")
    await broker.xgroup_create("hand", "effect", "0", mkstream=True)
    async with broker.pipeline(transaction=False) as pipeline:
        for one in envelopes:
            pipeline.xadd("hand", {"e": to_json(one)})
        await pipeline.execute()
    await broker.aclose()
