"""What a change of the statements of publishing and handling costs: this version of Cauce against another, as ratios.

    git worktree add ../before origin/main
    python benchmarks/two_versions.py --against ../before/libs/cauce/src
    python benchmarks/two_versions.py              # against itself: the noise
    python benchmarks/two_versions.py --quick      # does it run

Each version runs in a process of its own, with databases of its own on one PostgreSQL (its own, without fsync, which would
hide the rest) and as SQLite files. They take turns, slice by slice; a ratio is taken inside each round, and the table shows
the median. It counts processor time, that of PostgreSQL's process for the connection included, and time on the clock.

publish: a transaction with a business row and keyed events.   handle: one with their arrival in the inbox and a row.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cauce.dev.servers import PostgresServer
from cauce.stores.outbox import Outbox
from cauce.stores.sql.inbox import SqlInbox
from cauce.stores.sql.schema import create_tables
from cauce.stores.sqlalchemy import create_engine
from durability.events import CONSUMER, KEYS, PRODUCER, TEXT, KeyedRenamed, envelope_of, event_of
from durability.tables import Base, Business, effect_of
from goals import median_ratio
from processes import Child
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

OWN = Path(__file__).resolve().parents[1] / "libs/cauce/src"
WAYS = {"publish, 1 event": 1, "publish, 20 events": 20, "handle, 1 event": 1, "handle, 100 events": 100}


class Worker:
    """One version, on one database."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._outbox = Outbox(PRODUCER, publishes=[KeyedRenamed])
        self._number = 0
        self._backend: Path | None = None

    async def prepare(self) -> None:
        await create_tables(self._engine)
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            if self._engine.dialect.name == "postgresql":
                pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
                self._backend = Path(f"/proc/{pid}/schedstat")

    async def publish(self, session: AsyncSession, count: int) -> None:
        session.add(Business(user_id=f"user-{self._number % KEYS}", name="John", text=TEXT))
        for _ in range(count):
            self._number += 1
            self._outbox.add(session, event_of(self._number, keyed=True))

    async def handle(self, session: AsyncSession, count: int) -> None:
        envelopes = [envelope_of(self._number + at, keyed=True, run="1") for at in range(count)]
        self._number += count
        found = await SqlInbox(session, {}).arrive(f"{CONSUMER}/effect", envelopes, idle_s=5)
        assert not any(arrival.known for arrival in found)
        session.add(effect_of("user", TEXT))

    async def measure(self, way: str, times: int) -> tuple[float, float]:
        """Microseconds of processor time and on the clock, for one transaction."""
        do: Callable[[AsyncSession, int], Awaitable[None]] = self.publish if way.startswith("publish") else self.handle
        began, cpu = time.perf_counter(), self._cpu()
        for _ in range(times):
            async with self._sessions() as session, session.begin():
                await do(session, WAYS[way])
        return (self._cpu() - cpu) / times * 1e6, (time.perf_counter() - began) / times * 1e6

    def _cpu(self) -> float:
        server = int(self._backend.read_text().split()[0]) / 1e9 if self._backend else 0.0
        return time.process_time() + server

    async def serve(self) -> None:
        await self.prepare()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            way, _, times = line.rpartition(" ")
            print("took", *await self.measure(way, int(times)), flush=True)
        await self._engine.dispose()


async def compared(children: Sequence[Child], way: str, rounds: int, slice_s: float) -> None:
    """The first is this version."""

    async def ask(child: Child, times: int) -> tuple[float, float]:
        child.tell(f"{way} {times}")
        cpu, clock = await child.report("took")
        return float(cpu), float(clock)

    first = [await ask(child, 10) for child in children]  # which also prepares the statements
    times = max(5, int(slice_s * 1e6 / max(clock for _, clock in first)))
    found: list[list[tuple[float, float]]] = [[], []]
    for turn in range(rounds + 1):
        for step in (0, 1):
            at = (turn + step) % 2
            found[at].append(await ask(children[at], times))
    ours, theirs = (list(zip(*rounds_of[1:], strict=True)) for rounds_of in found)
    cells = [
        f"{median(ours[at]):>9,.0f}{median(theirs[at]):>9,.0f}{median_ratio(ours[at], theirs[at]):>8.3f}"
        for at in (0, 1)
    ]
    print(f"  {way:<22}{'  '.join(cells)}", flush=True)


async def compare(args: argparse.Namespace) -> None:
    rounds, slice_s = (1, 0.01) if args.quick else (args.rounds, args.slice_s)
    with tempfile.TemporaryDirectory() as folder:
        postgres = PostgresServer(Path(folder) / "postgres", options={"fsync": "off", "autovacuum": "off"})
        postgres.start()
        try:
            for database in args.databases:
                print(
                    f"\n### {database}: µs for a transaction, this version, the other, ratio; processor, then clock\n"
                )
                children = [child(args, database, name, folder, postgres) for name in ("this", "other")]
                for one in children:
                    await one.report("ready")
                for way in (one for one in WAYS if one.startswith(args.only)):
                    await compared(children, way, rounds, slice_s)
                for one in children:
                    one.end()
        finally:
            postgres.stop()


def child(args: argparse.Namespace, database: str, name: str, folder: str, postgres: Any) -> Child:
    url = (
        postgres.create_database(name, role="bench")
        if database == "postgresql"
        else f"sqlite+aiosqlite:///{folder}/{name}.sqlite"
    )
    source = OWN if name == "this" else Path(args.against).resolve()
    return Child(__file__, "--serve", url, environment={"PYTHONPATH": str(source)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", default=str(OWN), help="libs/cauce/src of the other version")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--slice-s", type=float, default=0.3)
    parser.add_argument("--only", default="", help="how the ways to measure begin: publish, handle, …")
    parser.add_argument("--databases", nargs="+", default=["postgresql", "sqlite"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    asyncio.run(Worker(args.serve).serve() if args.serve else compare(args))


if __name__ == "__main__":
    main()
