"""Ways to get an event from one database into another, exactly once: by Cauce, by hand, by FastStream. For durable.py.

What all have in common: a business row or an effect is one row of four columns, written through a SQLAlchemy session
(by hand: through asyncpg); an event's payload is two fields, its message about 315 bytes. Cauce runs on its default
driver, psycopg; FastStream and faststream-outbox on asyncpg, as they document it. Effects are ORM objects for both.
"""

import asyncio
import logging
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import redis
import redis.asyncio
from cauce import Envelope, IntegrationEvent, Keep, Retry, Service, Transaction, on
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import LANES, Lane, lane_of
from cauce.stores.sql.schema import create_tables
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from sqlalchemy import Column, LargeBinary, MetaData, Table, Text, func, insert, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "PEERS",
    "Hearing",
    "Place",
    "UnitOfWork",
    "consume",
    "fill",
    "idle",
    "missing",
    "one_key_fails",
    "one_process_dies",
    "produce",
    "relays",
    "send_to_stream",
]

PEERS = ("faststream", "faststream_outbox")
PRODUCER, CONSUMER = "producer-ms", "consumer-ms"
KEYS = 1000
BATCH = 100
TEXT = "Songs for the road, and for the way back; nobody has heard them yet."

logging.disable(logging.ERROR)


class Base(DeclarativeBase):
    pass


class Business(Base):
    __tablename__ = "business"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    name: Mapped[str]
    text: Mapped[str]


class Effect(Base):
    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    name: Mapped[str]
    text: Mapped[str]


hand = MetaData()
hand_outbox = Table("hand_outbox", hand, Column("id", Base.registry.metadata.tables["business"].c.id.type, primary_key=True),
                    Column("key", Text), Column("message", LargeBinary, nullable=False))  # fmt: skip
hand_inbox = Table("hand_inbox", hand, Column("event_id", Text, primary_key=True))


class Renamed(IntegrationEvent, name="com.example.bench.renamed", version=1, source=PRODUCER):
    user_id: str
    text: str


class KeyedRenamed(IntegrationEvent, name="com.example.bench.keyed-renamed", version=1, source=PRODUCER, key="user_id"):
    user_id: str
    text: str


def missing() -> list[str]:
    return [name for name in PEERS if find_spec(name) is None]


@dataclass(frozen=True, slots=True)
class Place:
    """A database of its own, and a broker that is shared."""

    database: str
    broker: str

    @property
    def plain(self) -> str:
        return self.database.replace("+psycopg", "")

    def engine(self, driver: str = "psycopg") -> AsyncEngine:
        return create_engine(self.database.replace("psycopg", driver))

    async def prepare(self) -> None:
        """All tables, empty."""
        engine = self.engine()
        await create_tables(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.run_sync(hand.create_all)
            if find_spec("faststream_outbox"):
                await connection.run_sync(_peer_outbox()[0].create_all)
        await engine.dispose()

    async def connect(self) -> Any:
        return await asyncpg.connect(self.plain)

    async def truncate(self, *tables: str) -> None:
        connection = await self.connect()
        await connection.execute(f"TRUNCATE {', '.join(tables)}")
        await connection.close()


def _peer_outbox() -> tuple[MetaData, Any]:
    from faststream_outbox import make_outbox_table

    metadata = MetaData()
    return metadata, make_outbox_table(metadata, table_name="peer_outbox")


def event_of(number: int, *, keyed: bool) -> IntegrationEvent:
    user_id = f"user-{number % KEYS}"
    return KeyedRenamed(user_id=user_id, text=TEXT) if keyed else Renamed(user_id=user_id, text=TEXT)


def envelope_of(number: int, *, keyed: bool, run: str) -> Envelope:
    """As the outbox would have numbered it; `run` is the incarnation, so that every run starts anew."""
    envelope = Envelope.of(event_of(number, keyed=keyed))
    if not keyed:
        return envelope
    return msgspec.structs.replace(envelope, key_seq=number // KEYS + 1, incarnation=run)


def producer(place: Place, driver: str = "psycopg") -> Service:
    return Service(
        PRODUCER,
        store=SqlAlchemyStore(place.engine(driver)),
        transport=RedisStreams(place.broker),
        publishes=[Renamed, KeyedRenamed],
        keep=Keep(sent_rows=10_000_000, sent_bytes=10 * 1024**3),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():  # noqa: ASYNC110  # counters of loops; nothing wakes for them
            await asyncio.sleep(0.001)


# --- goal 10: a unit of work with one event ------------------------------------------------------------------


class UnitOfWork:
    """All ways in one process, on one engine; a relay elsewhere has the lanes."""

    def __init__(self, place: Place, driver: str) -> None:
        self._place = place
        self._service = producer(place, driver)
        store: Any = self._service.store
        self._sessions = async_sessionmaker(store.engine, expire_on_commit=False)
        self._number = 0
        self.ways: dict[str, Callable[[], Awaitable[None]]] = {
            "business insert alone": self.business,
            "with an outbox row by hand": self.by_hand,
            "Cauce, un-keyed": self.unkeyed,
            "Cauce, keyed": self.keyed,
        }
        if find_spec("faststream_outbox"):
            from faststream_outbox import OutboxBroker

            self._peer: Any = OutboxBroker(store.engine, outbox_table=_peer_outbox()[1])
            self.ways["faststream-outbox"] = self.peer

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        connection = await self._place.connect()
        await connection.execute("INSERT INTO cauce_member VALUES ('elsewhere', 1e12) ON CONFLICT DO NOTHING")
        await connection.execute("UPDATE cauce_lane SET member = 'elsewhere'")
        async with self._service:
            yield
        await connection.execute("UPDATE cauce_lane SET member = NULL")
        await connection.execute("DELETE FROM cauce_member")
        await connection.execute("DELETE FROM cauce_outbox WHERE sent_at IS NULL")
        await connection.close()

    def _row(self) -> Any:
        self._number += 1
        return insert(Base.metadata.tables["business"]).values(
            user_id=f"user-{self._number % KEYS}", name="John", text=TEXT
        )

    async def business(self) -> None:
        async with self._sessions() as session, session.begin():
            await session.execute(self._row())

    async def by_hand(self) -> None:
        """The least that a unit of work with an event can do."""
        async with self._sessions() as session, session.begin():
            await session.execute(self._row())
            message = to_json(Envelope.of(event_of(self._number, keyed=False)))
            await session.execute(insert(hand_outbox).values(key=None, message=message).inline())

    async def unkeyed(self) -> None:
        async with self._service.transaction() as tx:
            await tx.session.execute(self._row())
            await tx.publish(event_of(self._number, keyed=False))

    async def keyed(self) -> None:
        async with self._service.transaction() as tx:
            await tx.session.execute(self._row())
            await tx.publish(event_of(self._number, keyed=True))

    async def peer(self) -> None:
        async with self._sessions() as session, session.begin():
            await session.execute(self._row())
            body = {"user_id": f"user-{self._number % KEYS}", "text": TEXT}
            await self._peer.publish(body, queue="relay", session=session)

    async def measure(self, way: str, count: int, at_once: int) -> float:
        """Transactions a second."""
        do, left = self.ways[way], count

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await do()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return count / (time.perf_counter() - began)


# --- goal 11: from the outbox to the stream ------------------------------------------------------------------


async def cauce_relay(place: Place, count: int, *, keyed: bool) -> float:
    """Rows that were committed at once, sent and marked in a second; rows that were sent earlier stay."""
    run = uuid4().hex
    rows = [
        (one.id, PRODUCER, int(lane_of(one)), one.key, one.key_seq, one.name, to_json(one), time.time())
        for one in (envelope_of(number, keyed=keyed, run=run) for number in range(count))
    ]
    columns = ["event_id", "topic", "lane", "key", "key_seq", "name", "message", "created_at"]
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


async def cauce_relay_sqlite(folder: Path, place: Place, count: int) -> float:
    run, file = uuid4().hex, folder / f"{uuid4().hex}.sqlite"
    here = Place(f"sqlite+aiosqlite:///{file}", place.broker)
    service = producer(here)
    async with service:
        async with service.transaction() as tx:
            await tx.publish(event_of(0, keyed=False))
        await until(lambda: service.counters["sent"] == 1)
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO cauce_outbox (event_id, topic, lane, name, message, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (one.id, PRODUCER, int(lane_of(one)), one.name, to_json(one), time.time())
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


async def hand_relay(place: Place, count: int) -> float:
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


def _hand_relay_sqlite(folder: Path, place: Place, count: int) -> float:
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


async def hand_relay_sqlite(folder: Path, place: Place, count: int) -> float:
    return await asyncio.to_thread(_hand_relay_sqlite, folder, place, count)


@asynccontextmanager
async def peer_relaying(place: Place, *, tuned: bool) -> AsyncGenerator[tuple[Any, AsyncEngine, list[int]]]:
    """faststream-outbox in front of FastStream's stream publisher; the list counts what was relayed."""
    from faststream.redis import RedisBroker
    from faststream_outbox import OutboxBroker

    engine = create_async_engine(place.database.replace("psycopg", "asyncpg"), pool_size=20)
    broker: Any = RedisBroker(place.broker, logger=None)
    outbox: Any = OutboxBroker(engine, outbox_table=_peer_outbox()[1], logger=None)
    relayed = [0]
    options: dict[str, Any] = (
        {"max_workers": 8, "fetch_batch_size": 500, "terminal_flush_batch_size": 100, "min_fetch_interval": 0.01}
        if tuned
        else {}
    )

    async def relay(body: dict[str, str]) -> dict[str, str]:
        relayed[0] += 1
        return body

    broker.publisher(stream="peer")(outbox.subscriber("relay", **options)(relay))
    await broker.connect()
    await outbox.start()
    try:
        yield outbox, engine, relayed
    finally:
        await outbox.stop()
        await broker.stop()
        await engine.dispose()


async def peer_relay(place: Place, count: int, *, tuned: bool) -> float:
    connection = await place.connect()
    await connection.execute("TRUNCATE peer_outbox")
    async with peer_relaying(place, tuned=tuned) as (outbox, engine, relayed):
        sessions = async_sessionmaker(engine)
        bodies = [
            {"event_id": str(number), "user_id": f"user-{number % KEYS}", "text": TEXT} for number in range(count)
        ]
        began = time.perf_counter()
        async with sessions() as session, session.begin():
            await outbox.publish_batch(*bodies, queue="relay", session=session)
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


def relays(place: Place, folder: Path) -> dict[str, Callable[[int], Awaitable[float]]]:
    ways: dict[str, Callable[[int], Awaitable[float]]] = {
        "Cauce, un-keyed": lambda count: cauce_relay(place, count, keyed=False),
        "Cauce, keyed": lambda count: cauce_relay(place, count, keyed=True),
        "by hand, deleting": lambda count: hand_relay(place, count),
        "Cauce on SQLite": lambda count: cauce_relay_sqlite(folder, place, count),
        "by hand on SQLite": lambda count: hand_relay_sqlite(folder, place, count),
    }
    if not missing():
        ways["faststream-outbox"] = lambda count: peer_relay(place, max(200, count // 20), tuned=False)
        ways["faststream-outbox, tuned"] = lambda count: peer_relay(place, max(200, count // 10), tuned=True)
    return ways


# --- goal 12: the whole way; each side is a process of its own ------------------------------------------------


class Listening:
    """What the consumer's process tells: when its first event was handled, and when the last one was committed."""

    def __init__(self, count: int) -> None:
        self.first = 0.0
        self._left = count
        self._all = asyncio.Event()

    def called(self) -> None:
        self.first = self.first or time.monotonic()

    def committed(self, how_many: int = 1) -> None:
        self._left -= how_many
        if self._left <= 0:
            self._all.set()

    async def finished(self) -> None:
        await self._all.wait()
        say("done", self.first, time.monotonic())


def say(*words: object) -> None:
    print(*words, flush=True)


async def heard(word: str) -> None:
    """Wait for a line from the parent process."""
    line = await asyncio.to_thread(sys.stdin.readline)
    if line.strip() != word:
        raise RuntimeError(f"expected {word!r} from the benchmark, got {line!r}")


def _effect(user_id: str, text: str) -> Effect:
    return Effect(user_id=user_id, name="John", text=text)


async def cauce_consume(place: Place, count: int, *, shared: bool) -> None:
    listening = Listening(count)

    @on(KeyedRenamed, name="effect", shared_transaction=shared)
    async def effect(event: KeyedRenamed, tx: Transaction) -> None:
        listening.called()
        tx.session.add(_effect(event.user_id, event.text))

    service = Service(
        CONSUMER,
        modules=[effect],
        store=SqlAlchemyStore(place.engine()),
        transport=RedisStreams(place.broker),
        start="retained",
    )
    service.observe(lambda happening: listening.committed() if happening.what == "handled" else None)
    async with service:
        say("ready")
        await listening.finished()


async def peer_consume(place: Place, count: int) -> None:
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
                session.add(_effect(body["user_id"], body["text"]))
        listening.committed()

    broker.subscriber(stream=StreamSub("peer", group="effect", consumer="one", max_records=100))(effect)
    await broker.start()
    say("ready")
    await listening.finished()
    await broker.stop()
    await engine.dispose()


async def hand_consume(place: Place, count: int) -> None:
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


async def cauce_produce(place: Place, count: int) -> None:
    service = producer(place)
    async with service:
        say("ready")
        await heard("go")
        for first in range(0, count, BATCH):
            async with service.transaction() as tx:
                for number in range(first, first + BATCH):
                    await tx.publish(event_of(number, keyed=True))
        await heard("end")


async def peer_produce(place: Place, count: int) -> None:
    async with peer_relaying(place, tuned=True) as (outbox, engine, _):
        sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine)
        say("ready")
        await heard("go")
        run = uuid4().hex
        for first in range(0, count, BATCH):
            bodies = [
                {"event_id": f"{run}-{number}", "user_id": f"user-{number % KEYS}", "text": TEXT}
                for number in range(first, first + BATCH)
            ]
            async with sessions() as session, session.begin():
                await outbox.publish_batch(*bodies, queue="relay", session=session)
        await heard("end")


async def send_to_stream(place: Place, count: int, *, by_hand: bool) -> None:
    """What a relay would have sent, for a consumer that is measured alone."""
    run = uuid4().hex
    envelopes = [envelope_of(number, keyed=True, run=run) for number in range(count)]
    if by_hand:
        broker: Any = redis.asyncio.Redis.from_url(place.broker)
        await broker.delete("hand")
        await broker.xgroup_create("hand", "effect", "0", mkstream=True)
        async with broker.pipeline(transaction=False) as pipeline:
            for one in envelopes:
                pipeline.xadd("hand", {"e": to_json(one)})
            await pipeline.execute()
        await broker.aclose()
        return
    transport, lanes = RedisStreams(place.broker), dict[Any, list[bytes]]()
    for one in envelopes:
        lanes.setdefault(lane_of(one), []).append(to_json(one))
    for lane, messages in lanes.items():
        for first in range(0, len(messages), 500):
            await transport.append(PRODUCER, lane, messages[first : first + 500])
    await transport.close()


async def produce(way: str, place: Place, count: int) -> None:
    """The producer's process."""
    await {"cauce": cauce_produce, "peer": peer_produce}[way](place, count)


async def consume(way: str, place: Place, count: int) -> None:
    """The consumer's process."""
    match way:
        case "cauce":
            await cauce_consume(place, count, shared=False)
        case "cauce-shared":
            await cauce_consume(place, count, shared=True)
        case "peer":
            await peer_consume(place, count)
        case _:
            await hand_consume(place, count)


async def effects(place: Place) -> int:
    engine = place.engine()
    async with engine.connect() as connection:
        found = await connection.execute(select(func.count()).select_from(Effect))
    await engine.dispose()
    return int(found.scalar_one())


# --- goal 13: latency, idleness, kept rows --------------------------------------------------------------------


class Hearing:
    """A service that publishes at a pace and one that hears it, and how long each event was under way.

    The listener refuses `bad` while there is a `cause`.
    """

    def __init__(self, producing: Place, consuming: Place) -> None:
        self.cause = False
        self.bad = ""
        self._service = producer(producing)
        self._committed: dict[str, float] = {}
        self._applied: dict[str, float] = {}
        self._lanes: dict[str, Lane] = {}
        self._order: dict[str, list[int]] = {}
        self._number = 0

        @on(KeyedRenamed, name="effect", retry=Retry(attempts=10_000, base=0.05, cap=0.5))
        async def effect(event: KeyedRenamed, tx: Transaction) -> None:
            if self.cause and event.user_id == self.bad:
                raise RuntimeError("not yet")
            tx.session.add(_effect(event.user_id, event.text))

        self._consumer = Service(
            CONSUMER,
            modules=[effect],
            store=SqlAlchemyStore(consuming.engine()),
            transport=RedisStreams(consuming.broker),
            start="retained",
        )
        self._consumer.observe(self._happened)

    def _happened(self, happening: Any) -> None:
        if happening.what == "handled":
            event = happening.envelope.payload
            self._applied[happening.envelope.id] = time.perf_counter()
            self._order.setdefault(event.user_id, []).append(int(event.text))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with self._consumer, self._service:
            await self.at_pace(50, 0.01, keys=50)  # warming up
            await self.everything_applied()
            yield

    async def at_pace(self, count: int, every_s: float, *, keys: int) -> tuple[Sequence[str], float]:
        """Publish; the ids of the events whose key is not `bad`, and how many ms a committing transaction took."""
        ids: list[str] = []
        commits: list[float] = []
        due = time.perf_counter()
        for _ in range(count):
            self._number += 1
            user_id = f"user-{self._number % keys}"
            began = time.perf_counter()
            async with self._service.transaction() as tx:
                envelope = await tx.publish(KeyedRenamed(user_id=user_id, text=str(self._number)))
            self._committed[envelope.id] = time.perf_counter()
            self._lanes[envelope.id] = lane_of(envelope)
            commits.append(self._committed[envelope.id] - began)
            if user_id != self.bad:
                ids.append(envelope.id)
            due += every_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return ids, median(commits) * 1000

    async def typical_ms(self, ids: Sequence[str]) -> float:
        """From the commit of the change to the commit of its effect: the median."""
        await until(lambda: all(one in self._applied for one in ids))
        return median(self._applied[one] - self._committed[one] for one in ids) * 1000

    def lanes(self) -> Collection[Lane]:
        """Those of the process that hears here."""
        run = self._consumer._run  # pyright: ignore[reportPrivateUsage]
        return run.lanes() if run is not None else ()

    def of_lanes(self, ids: Sequence[str], lanes: Collection[Lane]) -> Sequence[str]:
        return [one for one in ids if self._lanes[one] in lanes]

    async def slowest_s(self, ids: Sequence[str]) -> float:
        """From the commit of the change to the commit of its effect, of the one that took longest."""
        await until(lambda: all(one in self._applied for one in ids))
        return max(self._applied[one] - self._committed[one] for one in ids)

    async def everything_applied(self) -> None:
        await until(lambda: len(self._applied) == len(self._committed))
        assert all(numbers == sorted(numbers) for numbers in self._order.values()), "not in the order of the keys"


@dataclass(frozen=True, slots=True)
class Failing:
    slower: float
    """How many times as long the others' median is while one key fails."""
    waited: int
    recovered_s: float
    """From the end of the cause to the last waiting event applied, all in order."""


async def one_key_fails(hearing: Hearing, window_s: float, *, bad: str) -> Failing:
    """Fifty keys, each of them once a second: well for a while, then one of them failing for as long."""
    count = int(window_s * 50)
    well, _ = await hearing.at_pace(count, 0.02, keys=50)
    well_ms = await hearing.typical_ms(well)
    hearing.bad, hearing.cause = bad, True
    others, _ = await hearing.at_pace(count, 0.02, keys=50)
    failing_ms = await hearing.typical_ms(others)
    hearing.bad, hearing.cause = "", False
    began = time.perf_counter()
    await hearing.everything_applied()
    return Failing(failing_ms / well_ms, count - len(others), time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Died:
    slower: float
    """How many times as long the median of the lanes of the living is, after another process was killed."""
    delayed_s: float
    """The longest that an event of the dead one's lanes was under way."""


async def one_process_dies(hearing: Hearing, window_s: float, *, kill: Callable[[], None]) -> Died:
    """Half of the lanes are another process's, which is killed in the middle. 100 events a second."""
    await until(lambda: len(hearing.lanes()) == LANES // 2)
    ours, count = set(hearing.lanes()), int(window_s * 100)
    before, _ = await hearing.at_pace(count, 0.01, keys=KEYS)
    before_ms = await hearing.typical_ms(hearing.of_lanes(before, ours))
    kill()
    after, _ = await hearing.at_pace(count, 0.01, keys=KEYS)
    after_ms = await hearing.typical_ms(hearing.of_lanes(after, ours))
    return Died(after_ms / before_ms, await hearing.slowest_s(after))


@dataclass(frozen=True, slots=True)
class Idle:
    cpu_percent: float
    commits: float
    commands: float


async def idle(producing: Place, consuming: Place, seconds: float) -> Idle:
    """What a service costs that has nothing to do: the average of one that publishes and one that hears."""

    @on(KeyedRenamed, name="effect")
    async def effect(event: KeyedRenamed, tx: Transaction) -> None:
        return

    consumer = Service(
        CONSUMER,
        modules=[effect],
        store=SqlAlchemyStore(consuming.engine()),
        transport=RedisStreams(consuming.broker),
        start="retained",
    )
    broker: Any = redis.asyncio.Redis.from_url(producing.broker)
    connection = await producing.connect()

    async def commits() -> int:
        return int(
            await connection.fetchval(
                "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname = ANY($1)",
                [place.database.rpartition("/")[2] for place in (producing, consuming)],
            )
        )

    async with consumer, producer(producing):
        await asyncio.sleep(3)  # the loops have slowed down by then
        before = await commits(), (await broker.info("stats"))["total_commands_processed"], time.process_time()
        await asyncio.sleep(seconds)
        spent = time.process_time() - before[2]
        commands = (await broker.info("stats"))["total_commands_processed"] - before[1] - 1
        transactions = await commits() - before[0] - 1
    await broker.aclose()
    await connection.close()
    return Idle(spent / seconds / 2 * 100, transactions / seconds / 2, commands / seconds / 2)


async def fill(place: Place, rows: int) -> None:
    """So many kept rows in outbox and inbox, as a busy day leaves them."""
    connection = await place.connect()
    await connection.execute(
        "INSERT INTO cauce_outbox (event_id, topic, lane, key, key_seq, name, message, created_at, sent_at, broker_id) "
        "SELECT 'kept-' || n, $2, n % 16, 'kept-' || n % 1000, n, 'com.example.bench.kept', "
        "convert_to(repeat('x', 300), 'UTF8'), extract(epoch FROM now()), extract(epoch FROM now()), '1-' || n "
        "FROM generate_series(1, $1) n",
        rows, PRODUCER,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO cauce_inbox (consumer, source, event_id, received_at) "
        "SELECT $2 || '/effect', $3, 'kept-' || n, extract(epoch FROM now()) FROM generate_series(1, $1::int) n",
        rows, CONSUMER, PRODUCER,
    )  # fmt: skip
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    # The broker need not have them any more: they were trimmed on purpose.
    broker: Any = redis.asyncio.Redis.from_url(place.broker)
    trimmed = {str(lane): "2-0" for lane in range(LANES)}
    await broker.hset(RedisStreams(place.broker).keys.trimmed(PRODUCER), mapping=trimmed)
    await broker.aclose()
