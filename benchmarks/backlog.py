"""What a backlog costs a service: memory, start and `cauce status`, with much that waits against little.

    .venv/bin/python benchmarks/backlog.py                    # PostgreSQL and SQLite
    .venv/bin/python benchmarks/backlog.py --quick            # a hundredth of everything: does it run

Each figure is of a process of its own, on a database that was filled before it started and whose rows do not move: the
deliveries wait for a later hour, the broker of the unsent events refuses them. Memory is the resident set of the process ten
seconds after its start. Rounds are interleaved; a ratio is taken inside each round and the median is shown.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from uuid import uuid4

from cauce import DomainEvent, IntegrationEvent, Service, on
from cauce.dev.servers import PostgresServer
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from goals import verdict
from processes import Child
from sqlalchemy import text

SERVICE, LITTLE = "backlog-ms", 1_000
MOST = 1.1
SETTLED_S = 10.0
FILLS: Mapping[str, tuple[int, Sequence[str]]] = {
    "waiting deliveries": (
        100_000,
        [
            (
                "INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, next_at, created_at) "
                "SELECT 'backlog-ms/heard', 'other-ms', 'w' || n, n % 16, 'k' || n, '', :message, 99999999999, 1 FROM (:rows) r"
            )
        ],
    ),
    "unsent events": (100_000, []),
    "keys": (
        1_000_000,
        [
            "INSERT INTO cauce_key_head (topic, key, seq) SELECT 'backlog-ms', 'key-' || n, 1 FROM (:rows) r",
            (
                "INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation) "
                "SELECT 'backlog-ms/heard', 'other-ms', 'key-' || n, 1, 'one' FROM (:rows) r"
            ),
        ],
    ),
}
ROWS = {
    "postgresql": "SELECT n FROM generate_series(1, {}) AS s(n)",
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {}) SELECT n FROM s",
}


class Said(IntegrationEvent, name="backlog.said", version=1, source=SERVICE, key="key"):
    key: str
    words: str


class Heard(DomainEvent, name="backlog.heard"):
    key: str


@on(Heard, name="heard", when="durable")
async def heard(event: Heard) -> None:
    return


def service_on(url: str, *, refusing: bool = True) -> Service:
    broker = MemoryStreams()
    if refusing:
        broker.stop("it takes nothing in this benchmark")
    return Service(
        SERVICE, modules=[heard], store=SqlAlchemyStore(create_engine(url)), transport=broker, publishes=[Said]
    )


async def fill(url: str, what: str, count: int) -> None:
    """Write the rows, as they would lie there."""
    store = SqlAlchemyStore(create_engine(url))
    await store.prepare()
    async with store.engine.begin() as connection:
        for statement in FILLS[what][1]:
            rows = ROWS[store.name].format(count)
            await connection.execute(text(statement.replace(":rows", rows)), _used(statement))
    await store.close()
    if what == "unsent events":
        async with (service := service_on(url)):
            for begin in range(0, count, 1000):
                async with service.transaction() as tx:
                    for number in range(begin, min(begin + 1000, count)):
                        await tx.publish(Said(key=f"key-{number}", words="x" * 100))


def _used(statement: str) -> Mapping[str, object]:
    return {"message": b"x" * 300} if ":message" in statement else {}


def resident() -> int:
    """This process's memory, in bytes."""
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmRSS:")[1].split()[0]) * 1024


async def run(url: str) -> None:
    """The process that is measured."""
    began = time.perf_counter()
    async with (service := service_on(url)):
        started_s = time.perf_counter() - began
        await asyncio.sleep(SETTLED_S)
        memory = resident()
        store = service.store
        assert isinstance(store, SqlAlchemyStore)
        began = time.perf_counter()
        await store.figures()
        print("measured", json.dumps([memory, started_s, time.perf_counter() - began]), flush=True)


async def measured(url: str) -> Sequence[float]:
    child = Child(__file__, "--run", environment={"BACKLOG_URL": url})
    said = await child.report("measured")
    child.end()
    return json.loads(" ".join(said))


async def compare(urls: Mapping[str, str], rounds: int) -> Sequence[float]:
    """How many times as much with much as with little: memory, start, figures."""
    ratios: list[Sequence[float]] = []
    for _ in range(rounds):
        little, much = await measured(urls["little"]), await measured(urls["much"])
        ratios.append([one / other for one, other in zip(much, little, strict=True)])
    return [median(column) for column in zip(*ratios, strict=True)]


async def size_of_keys(url: str) -> float:
    """Bytes of the database that its tables of keys take."""
    store = SqlAlchemyStore(create_engine(url))
    async with store.engine.connect() as connection:
        if store.name == "sqlite":
            found = await connection.execute(
                text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
            )
        else:
            tables = "pg_total_relation_size('cauce_key_head') + pg_total_relation_size('cauce_position')"
            found = await connection.execute(text(f"SELECT {tables}"))
        size = float(found.scalar_one())
    await store.close()
    return size


async def report(postgres: PostgresServer, folder: Path, share: float, rounds: int) -> None:
    print("| database | what waits | memory | start | status | memory wanted | reached |")
    print("|---|---|---:|---:|---:|---:|---|")
    sizes: dict[str, float] = {}
    for database in ("PostgreSQL", "SQLite"):
        for what, (count, _) in FILLS.items():
            much, urls = int(count * share), dict[str, str]()
            for name, rows in {"little": int(LITTLE * share) or 1, "much": much}.items():
                one = f"{what.split()[0]}_{name}"
                file = f"sqlite+aiosqlite:///{folder / f'{one}_{uuid4().hex}.sqlite'}"
                urls[name] = postgres.create_database(one) if database == "PostgreSQL" else file
                await fill(urls[name], what, rows)
            memory, start, status = await compare(urls, rounds)
            print(
                f"| {database} | {much:,} {what} | {memory:.2f} | {start:.2f} | {status:.2f} | ≤ {MOST:g} "
                f"| {verdict(MOST / memory)} |",
                flush=True,
            )
            if what == "keys":
                grown = await size_of_keys(urls["much"]) - await size_of_keys(urls["little"])
                sizes[database] = grown / (much - int(LITTLE * share))
    print("\nbytes a silent key, at its publisher and at one listener together:", end=" ")
    print(", ".join(f"{name} {size:.0f}" for name, size in sizes.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        asyncio.run(run(os.environ["BACKLOG_URL"]))
        return
    with tempfile.TemporaryDirectory(prefix="cauce-backlog-") as place:
        folder = Path(place)
        folder.chmod(0o711)
        postgres = PostgresServer(folder / "postgres")
        postgres.start()
        try:
            asyncio.run(report(postgres, folder, 0.01 if given.quick else 1.0, 1 if given.quick else given.rounds))
        finally:
            postgres.stop()


if __name__ == "__main__":
    sys.exit(main())
