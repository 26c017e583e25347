"""A database in a state that a test describes, and two services to put life into it."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from cauce import Context, DomainEvent, IntegrationEvent, Service, Transaction, on
from cauce.cli import main
from cauce.delivery.pace import Pace
from cauce.delivery.retention import Keep
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.retry import Reject, Retry
from cauce.ports.figures import Figures
from cauce.ports.outbox import KeepSent
from cauce.ports.store import SupportsFigures
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.schema import create_tables
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from sqlalchemy import text

PYPROJECT = """
[tool.cauce.dev.services.shop]
command = "python shop.py"
database = "SHOP_DATABASE_URL"
[tool.cauce.dev.services.mail]
command = "python mail.py"
database = "MAIL_DATABASE_URL"
[tool.cauce.dev.services.web]
command = "python web.py"
"""

Command = Callable[..., Awaitable["Said"]]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def screen(self) -> str:
        """What a person sees, with everything that differs between two runs made alike, at the same width."""
        shown = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-11-24 08:05:41", self.out)
        shown = re.sub(r"\b\d\d:\d\d:\d\d\.\d{3}\b", "08:05:41.123", shown)
        shown = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "x" * 8 + "-xxxx" * 3 + "-" + "x" * 12, shown)
        return re.sub(r"127\.0\.0\.1:\d{5}", "127.0.0.1:55555", shown)


def run_command(words: Sequence[str]) -> int:
    try:
        return main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)


# --- a database that a test describes -----------------------------------------------------------------------


class Database:
    """Rows of Cauce's tables, written by hand. Ages are seconds before now."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self._dialect = Dialect(self.engine.dialect.name)
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> "Database":
        await create_tables(self.engine)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.dispose()

    async def run(self, statement: str, **values: Any) -> list[Any]:
        async with self.engine.begin() as connection:
            done = await connection.execute(self._dialect.sql(statement), values)
            return list(done) if done.returns_rows else []

    async def one(self, statement: str, **values: Any) -> Any:
        return (await self.run(statement, **values))[0][0]

    async def described(self, service: Service) -> None:
        """It was started here once: what it says about itself is written down, with a broker or without."""
        async with service:
            pass

    async def member(self, name: str, lanes: range, *, lease_s: float = 3600) -> None:
        await self.run(
            "INSERT INTO cauce_member (id, lease_until) VALUES (:name, :NOW + :lease)", name=name, lease=lease_s
        )
        for lane in lanes:
            await self.run("UPDATE cauce_lane SET member = :name WHERE lane = :lane", name=name, lane=lane)

    async def handled(self, listener: str, count: int, *, age: float = 60) -> None:
        rows = [{"consumer": f"mail-ms/{listener}", "event_id": self.new_id(), "age": age} for _ in range(count)]
        statement = (
            "INSERT INTO cauce_inbox (consumer, source, event_id, received_at) "
            "VALUES (:consumer, 'shop-ms', :event_id, :NOW - :age)"
        )
        async with self.engine.begin() as connection:
            await connection.execute(self._dialect.sql(statement), rows)

    async def waiting(
        self,
        listener: str,
        *,
        attempts: int = 0,
        due_in: float | None = None,
        age: float = 60,
        key: str | None = None,
        event_id: str | None = None,
        message: bytes | None = None,
        name: str = "shop.user-created",
        error: str | None = None,
        place: str | None = None,
        in_trouble: float | None = None,
    ) -> str:
        if event_id is None:
            event_id = self.new_id()
            await self._received(listener, event_id, age)
        await self.run(
            "INSERT INTO cauce_waiting (consumer, source, event_id, name, lane, key, channel, message, attempts, next_at, "
            "error, place, in_trouble_since, attempt_log, created_at) "
            "VALUES (:consumer, 'shop-ms', :event_id, :name, 0, :key, :channel, :message, :attempts, "
            ":NOW + CAST(:due AS double precision), :error, :place, :NOW - CAST(:in_trouble AS double precision), "
            ":attempt_log, :NOW - :age)",
            consumer=f"mail-ms/{listener}",
            event_id=event_id,
            key=key,
            channel="cauce:{shop-ms}:0",
            name=name,
            message=message or cloud_event(event_id, name=name, key=key),
            error=error,
            place=place,
            in_trouble=in_trouble,
            attempt_log="".join(f"{1795507541 + 60 * number} {error}\n" for number in range(attempts))
            if error
            else None,
            attempts=attempts,
            due=due_in,
            age=age,
        )
        return event_id

    async def dead(
        self,
        listener: str,
        letter_id: str,
        *,
        name: str = "shop.user-created",
        reason: str = "exhausted",
        error: str = "RuntimeError: smtp said no",
        attempts: int = 8,
        age: float = 60,
        key: str | None = None,
        data: Any = None,
        message: bytes | None = None,
    ) -> str:
        event_id = self.new_id()
        await self._received(listener, event_id, age)
        body = message if message is not None else cloud_event(event_id, name=name, key=key, data=data)
        if key is not None and reason == "exhausted":
            await self.waiting(listener, attempts=attempts, key=key, event_id=event_id, age=age, message=body)
        await self.run(
            "INSERT INTO cauce_dead_letter (id, consumer, source, event_id, name, lane, key, channel, message, reason, "
            "error, stack, attempts, first_at, last_at, worker, version, attempt_log) VALUES (:id, :consumer, :source, :event_id, :name, "
            "0, :key, :channel, :message, :reason, :error, :stack, :attempts, :moment, :moment, "
            "'host:1', '2.1', :attempt_log)",
            id=letter_id,
            consumer=f"mail-ms/{listener}" if listener else "mail-ms",
            source="shop-ms",
            event_id=event_id,
            name=name,
            key=key,
            channel="cauce:{shop-ms}:0",
            message=body,
            reason=reason,
            error=error,
            stack='  File "/srv/mail/mail.py", line 12, in send\n    smtp.send(mail)\n',
            attempts=attempts,
            moment=await self.one("SELECT :NOW - :age", age=age),
            attempt_log="".join(f"{1795507541 + 60 * number} {error}\n" for number in range(attempts)),
        )
        return event_id

    async def outgoing(
        self,
        name: str,
        *,
        age: float,
        sent_age: float | None = None,
        lane: int = 0,
        key: str | None = None,
        problem: str | None = None,
    ) -> str:
        event_id = self.new_id()
        table, more, values = "cauce_outbox", "", dict[str, object]()
        if problem is not None:
            table, more, values = "cauce_set_aside", ", problem, set_aside_at", {"problem": problem}
        if sent_age is not None:
            table, more, values = (
                "cauce_sent",
                ", sent_seq, lane, sent_at, broker_id",
                {"sent_age": sent_age, "lane": lane},
            )
        of_more = {
            "cauce_outbox": "",
            "cauce_set_aside": ", :problem, :NOW",
            "cauce_sent": ", (SELECT count(*) + 1 FROM cauce_sent), :lane, :NOW - :sent_age, '1-0'",
        }[table]
        # It had a place in the queue first, wherever it stands now.
        of_event = "event_id, topic, key_hash, key, name, message, created_at"
        await self.run(
            f"INSERT INTO cauce_outbox ({of_event}) "
            "VALUES (:event_id, 'shop-ms', :key_hash, :key, :name, :message, :NOW - :age)",
            event_id=event_id,
            key_hash=lane,
            key=key,
            name=name,
            message=cloud_event(event_id, name=name, key=key),
            age=age,
        )
        if more:
            await self.run(
                f"INSERT INTO {table} (position, {of_event}{more}) SELECT position, {of_event}{of_more} FROM cauce_outbox "
                "WHERE event_id = :event_id",
                event_id=event_id,
                **values,
            )
            await self.run("DELETE FROM cauce_outbox WHERE event_id = :event_id", event_id=event_id)
        return event_id

    async def pruned(self, *, rows: int) -> None:
        """So many of what was sent are kept, as by a running service."""
        keep, more = KeepSent(seconds=1e9, rows=rows, bytes=10**12), True
        while more:
            more = (await SqlAlchemyStore(self.engine).message_store().prune_sent(keep)).more

    async def _received(self, listener: str, event_id: str, age: float) -> None:
        await self.run(
            "INSERT INTO cauce_inbox (consumer, source, event_id, received_at) "
            "VALUES (:consumer, 'shop-ms', :event_id, :NOW - :age)",
            consumer=f"mail-ms/{listener}" if listener else "mail-ms",
            event_id=event_id,
            age=age,
        )

    def new_id(self) -> str:
        return str(UUID(int=next(self._numbers)))


def cloud_event(event_id: str, *, name: str = "shop.user-created", key: str | None = None, data: Any = None) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": "shop-ms",
            "type": name,
            "time": "2026-11-24T08:05:41Z",
            "datacontenttype": "application/json",
            "eventversion": 2,
            **({"partitionkey": key} if key is not None else {}),
            "data": {"id": key or "u-1", "name": "Ann"} if data is None else data,
        }
    ).encode()


# --- two services that run ----------------------------------------------------------------------------------


class UserCreated(
    IntegrationEvent,
    name="shop.user-created",
    version=2,
    key="id",
    source="shop-ms",
    earlier_names=("shop.user-added",),
):
    id: str
    name: str


class Ticked(IntegrationEvent, name="shop.ticked", version=1, source="shop-ms"):
    number: int


class Welcomed(DomainEvent, name="mail.welcomed", version=1, key="id"):
    id: str


class OutOfOrderError(Exception):
    """What the listeners raise as long as the world is broken."""


@dataclass
class World:
    """What the listeners of mail do: they note what they hear, and fail as long as a test says so."""

    broken: set[str] = field(default_factory=set)
    in_trouble: set[str] = field(default_factory=set)
    """Whose welcome meets trouble with the database."""
    heard: list[tuple[str, str, int, bool]] = field(default_factory=list)
    """listener, event id, attempt, replayed"""

    def note(self, listener: str, context: Context, about: str) -> None:
        self.heard.append((listener, context.event_id, context.attempt, context.replayed))
        if about in self.broken:
            raise OutOfOrderError(f"{about} is broken")

    def of(self, listener: str) -> list[tuple[str, str, int, bool]]:
        return [one for one in self.heard if one[0] == listener]


def listeners(world: World, retry: Retry) -> list[object]:
    """The listeners of mail. `welcome` and `index` hear the same event."""

    @on(UserCreated, name="mail.welcome", retry=retry)
    async def welcome(event: UserCreated, context: Context, tx: Transaction) -> None:
        if event.name == "unwanted":
            raise Reject("no such country")
        world.note("welcome", context, event.name)
        if event.name in world.in_trouble:
            await tx.session.execute(text(TROUBLE[tx.session.get_bind().dialect.name]))
        await tx.session.execute(
            text("INSERT INTO welcomes (event_id, name) VALUES (:id, :name)"),
            {"id": context.event_id, "name": event.name},
        )
        await tx.publish(Welcomed(id=event.id))

    @on(UserCreated, name="mail.index", retry=retry)
    async def index(event: UserCreated, context: Context) -> None:
        world.note("index", context, f"index of {event.name}")

    @on(Ticked, name="mail.tick", effect=AtLeastOnce(), retry=retry)
    async def tick(event: Ticked, context: Context) -> None:
        world.note("tick", context, f"tick {event.number}")

    @on(Welcomed, when="durable", name="mail.count", retry=retry)
    async def count(event: Welcomed, context: Context) -> None:
        world.note("count", context, f"count of {event.id}")

    return [welcome, index, tick, count]


TROUBLE = {
    "sqlite": "ATTACH DATABASE '/nowhere/at/all.sqlite' AS other",  # the disk does not open it
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'chosen' USING ERRCODE = '40001'; END $$",  # as if to end a conflict
}
"""Looks like trouble with the database, and is the listener's doing."""

FAST = Pace(lease_s=4, beat_every_s=0.2, verify_every_s=5, prune_every_s=600)
TRIED_TWICE = Retry(attempts=2, base=0.01, cap=0.05)


@dataclass
class Project:
    """Where the services are; `shop()` and `mail()` make them, not started."""

    folder: Path
    dialect: str
    urls: dict[str, str]

    def database(self, name: str) -> Database:
        return Database(self.urls[name])

    def shop(self, broker_url: str, keep: Keep | None = None) -> Service:
        return Service(
            "shop-ms",
            store=SqlAlchemyStore(create_engine(self.urls["shop"])),
            transport=RedisStreams(broker_url),
            publishes=[UserCreated, Ticked],
            keep=keep,
            pace=FAST,
        )

    def mail(self, broker_url: str, world: World | None = None, *, retry: Retry = TRIED_TWICE) -> Service:
        return Service(
            "mail-ms",
            modules=listeners(world or World(), retry),
            store=SqlAlchemyStore(create_engine(self.urls["mail"])),
            transport=RedisStreams(broker_url),
            start="retained",
            pace=FAST,
        )

    @asynccontextmanager
    async def running(
        self, broker_url: str, world: World, *, retry: Retry = TRIED_TWICE
    ) -> AsyncGenerator[tuple[Service, Service]]:
        async with self.database("mail") as database:
            await database.run("CREATE TABLE IF NOT EXISTS welcomes (event_id text, name text)")
        async with self.shop(broker_url) as shop, self.mail(broker_url, world, retry=retry) as mail:
            yield shop, mail


async def publish(shop: Service, *events: IntegrationEvent) -> None:
    async with shop.transaction() as tx:
        for event in events:
            await tx.publish(event)


async def figures_of(service: Service) -> Figures:
    """The numbers of a service of these tests, which all have a database."""
    assert isinstance(service.store, SupportsFigures)
    return await service.store.figures()


async def until(condition: Callable[[], Awaitable[bool]], *, within_s: float = 30.0) -> None:
    """Wait for it, or fail."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110  # another process, or a database
            await asyncio.sleep(0.02)
