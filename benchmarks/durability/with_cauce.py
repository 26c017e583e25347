"""By Cauce: the relay, on PostgreSQL and on SQLite; both sides of the whole way."""

import sqlite3
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from cauce import Keep, Service, Transaction, on
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import hash_of, lane_of
from cauce.stores.sql.correlation import correlation_hash
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.transports.redis_streams import RedisStreams

from durability.events import BATCH, CONSUMER, PRODUCER, KeyedRenamed, Renamed, envelope_of, event_of
from durability.listening import Listening, say, told
from durability.place import Place
from durability.tables import effect_of
from durability.waiting import until

__all__ = ["consume", "consumer", "produce", "producer", "relay", "relay_sqlite", "send"]


def producer(place: Place, driver: str = "psycopg", prefix: str = "cauce") -> Service:
    """`prefix`: of its topics; two databases of one name have to have different ones."""
    return Service(
        PRODUCER,
        store=SqlAlchemyStore(place.engine(driver)),
        transport=RedisStreams(place.broker, prefix=prefix),
        publishes=[Renamed, KeyedRenamed],
        keep=Keep(sent_rows=10_000_000, sent_bytes=10 * 1024**3),
    )


def consumer(place: Place, listener: Any) -> Service:
    return Service(
        CONSUMER,
        modules=[listener],
        store=SqlAlchemyStore(place.engine()),
        transport=RedisStreams(place.broker),
        start="retained",
    )


async def relay(place: Place, count: int, *, keyed: bool) -> float:
    """Rows that were committed at once, sent and marked in a second; rows that were sent earlier stay."""
    run = uuid4().hex
    rows = [
        (
            one.id,
            PRODUCER,
            hash_of(one),
            one.key,
            one.key_seq,
            correlation_hash(one),
            one.name,
            to_json(one),
            time.time(),
        )
        for one in (envelope_of(number, keyed=keyed, run=run) for number in range(count))
    ]
    columns = ["event_id", "topic", "key_hash", "key", "key_seq", "correlation_hash", "name", "message", "created_at"]
    service = producer(place)
    async with service:
        async with service.transaction() as tx:
            await tx.publish(event_of(0, keyed=False))
        await until(lambda: service.counters["sent"] == 1)
        connection = await place.connect()
        transaction = connection.transaction()
        await transaction.start()
        await connection.copy_records_to_table("cauce_outbox", records=rows, columns=columns)
        began = time.perf_counter()
        await transaction.commit()
        async with service.transaction() as tx:
            await tx.publish(event_of(0, keyed=False))
        await until(lambda: service.counters["sent"] == count + 2)
        taken = time.perf_counter() - began
        await connection.close()
    return count / taken


_KEPT_ON_SQLITE = """
    INSERT INTO cauce_sent (sent_seq, part, position, event_id, topic, key_hash, correlation_hash, name, message,
        created_at, lane, sent_at, broker_id)
    WITH RECURSIVE kept (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM kept WHERE n < ?)
    SELECT sent_seq - n, part, -n, 'kept-' || n, topic, key_hash + n, correlation_hash + n, name, message, created_at,
        lane, sent_at, broker_id FROM cauce_sent, kept
"""


async def relay_sqlite(folder: Path, place: Place, count: int, kept: int = 0) -> float:
    run, file = uuid4().hex, folder / f"{uuid4().hex}.sqlite"
    here = Place(f"sqlite+aiosqlite:///{file}", place.broker)
    service = producer(here, prefix=f"of-{run}")
    async with service:
        async with service.transaction() as tx:
            await tx.publish(event_of(0, keyed=False))
        await until(lambda: service.counters["sent"] == 1)
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        if kept:
            connection.execute(_KEPT_ON_SQLITE, (kept,))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO cauce_outbox (event_id, topic, key_hash, correlation_hash, name, message, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (one.id, PRODUCER, hash_of(one), correlation_hash(one), one.name, to_json(one), time.time())
                for one in (envelope_of(number, keyed=False, run=run) for number in range(count))
            ),
        )
        began = time.perf_counter()
        connection.execute("COMMIT")
        connection.close()
        async with service.transaction() as tx:
            await tx.publish(event_of(0, keyed=False))
        await until(lambda: service.counters["sent"] == count + 2)
        return count / (time.perf_counter() - began)


async def consume(place: Place, count: int, *, shared: bool) -> None:
    listening = Listening(count)

    @on(KeyedRenamed, name="effect", shared_transaction=shared)
    async def effect(event: KeyedRenamed, tx: Transaction) -> None:
        listening.called()
        tx.session.add(effect_of(event.user_id, event.text))

    service = consumer(place, effect)
    service.observe(lambda happening: listening.committed() if happening.what == "handled" else None)
    async with service:
        say("ready")
        await listening.finished()


async def produce(place: Place, count: int) -> None:
    service = producer(place)
    async with service:
        say("ready")
        await told("go")
        for first in range(0, count, BATCH):
            async with service.transaction() as tx:
                for number in range(first, first + BATCH):
                    await tx.publish(event_of(number, keyed=True))
        await told("end")


async def send(place: Place, count: int) -> None:
    """What a relay would have sent, for a consumer that is measured alone."""
    run = uuid4().hex
    envelopes = [envelope_of(number, keyed=True, run=run) for number in range(count)]
    transport, lanes = RedisStreams(place.broker), dict[Any, list[bytes]]()
    for one in envelopes:
        lanes.setdefault(lane_of(one), []).append(to_json(one))
    for lane, messages in lanes.items():
        for first in range(0, len(messages), 500):
            await transport.append(PRODUCER, lane, messages[first : first + 500])
    await transport.close()
