"""Durable delivery from database to database: Cauce beside hand-written loops and faststream-outbox, as ratios.

    python benchmarks/durable.py                   # everything: about a quarter of an hour
    python benchmarks/durable.py --only 10 12      # some goals
    python benchmarks/durable.py --quick           # a tiny round of everything: does it run

Starts its own PostgreSQL (fsync on) and Valkey (append-only file, synced every second). All ways take turns, round by
round; a ratio is taken inside each round and the table shows the median, because the machines this runs on are shared.
Goals: 10 a unit of work, 11 the relay, 12 the whole way, 13 latency, also with two processes
of each service and beside a key that fails, idleness, and that kept rows cost nothing.
"""

import argparse
import asyncio
import logging
import os
import resource
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from cauce.dev.servers import PostgresServer, ValkeyServer
from durability import failing_key, idleness, killed_process, with_cauce
from durability import two_of_each as two
from durability.kept_rows import fill
from durability.paced_by_hand import PacedByHand
from durability.paced_services import PacedServices
from durability.peers import missing
from durability.place import Place
from durability.relays import relays
from durability.unit_of_work import UnitOfWork
from durability.whole_way import WholeWay, consume, place_of_this_process, produce, side
from goals import SLACK, Goal, in_turn, median_ratio

Rounds = Mapping[str, Sequence[float]]


class Bench:
    """The servers, and how much of everything."""

    def __init__(
        self,
        postgres: PostgresServer,
        valkey: ValkeyServer,
        beside: ValkeyServer,
        folder: Path,
        args: argparse.Namespace,
    ) -> None:
        self._postgres = postgres
        self.valkey = valkey
        self._beside = beside
        self.folder = folder
        self.rounds: int = 1 if args.quick else args.rounds
        self._scale: float = 0.01 if args.quick else args.scale
        self.kept = int(1_000_000 * self._scale)
        self.driver: str = args.driver

    def times(self, count: int) -> int:
        return max(100, int(count * self._scale) // 100 * 100)

    async def place_on_sqlite(self, name: str) -> Place:
        """Beside a broker of its own: one service has one database."""
        place = Place(f"sqlite+aiosqlite:///{self.folder / name}.sqlite", self._beside.url)
        await place.prepare()
        return place

    async def place(self, name: str) -> Place:
        place = Place(self._postgres.create_database(name, role="bench"), self.valkey.url)
        await place.prepare()
        return place

    async def interleave(self, todo: Mapping[str, Callable[[], Awaitable[float]]]) -> Rounds:
        """The figures of every way, without the first round, which warms up; with one round, of both."""
        found = await in_turn(todo, self.rounds + 1)
        return found if self.rounds == 1 else {name: figures[1:] for name, figures in found.items()}


def show(title: str, unit: str, rounds: Rounds, goals: Sequence[Goal]) -> None:
    print(f"\n### {title} ({unit}, medians of {max(map(len, rounds.values()))})\n")
    for name, figures in rounds.items():
        print(f"  {name:<44}{median(figures):>12,.0f}")
    for goal in goals:
        if goal.ours in rounds and goal.theirs in rounds:
            found = median_ratio(rounds[goal.ours], rounds[goal.theirs])
            reached = "reached" if found >= goal.wanted * SLACK else "NOT REACHED"
            print(
                f"  goal {goal.number}: {goal.ours} is {found:.2f} × {goal.theirs} (wanted ≥ {goal.wanted:g}) {reached}"
            )
    sys.stdout.flush()


def limit(number: int, what: str, found: float, unit: str, most: float) -> None:
    reached = "reached" if found <= most / SLACK else "NOT REACHED"
    print(f"  goal {number}: {what}: {found:.2f} {unit} (wanted ≤ {most:g}) {reached}", flush=True)


# --- goal 10 -------------------------------------------------------------------------------------------------


async def units_of_work(bench: Bench) -> None:
    place = await bench.place("units")
    work = UnitOfWork(place, bench.driver)
    async with work.running():
        for at_once in (1, 8):
            goals = [
                Goal(10, "Cauce, un-keyed", "business insert alone", 0.9 if at_once == 1 else 0.85),
                Goal(10, "Cauce, un-keyed", "faststream-outbox", 1.2),
                Goal(10, "Cauce, keyed", "business insert alone", 0.8),
            ]
            count = bench.times(100 + 12 * at_once)
            todo = {name: partial(work.measure, name, count, at_once) for name in work.ways}
            title = f"A unit of work with one event, {at_once} at once, {bench.driver}"
            show(title, "transactions/s", await bench.interleave(todo), goals)


# --- goal 11 -------------------------------------------------------------------------------------------------


async def relay(bench: Bench) -> None:
    place = await bench.place("relay")
    todo = relays(place, bench.folder)
    count = bench.times(30_000)
    goals = [
        Goal(11, "Cauce, un-keyed", "by hand, deleting", 0.9),
        Goal(11, "Cauce, keyed", "by hand, deleting", 0.7),
        Goal(11, "Cauce, un-keyed", "faststream-outbox, tuned", 12),
        Goal(11, "Cauce on SQLite", "by hand on SQLite", 0.8),
        Goal(11, "Cauce on SQLite, 30 kept for each", "by hand on SQLite", 0.8),
    ]
    ways = {name: partial(way, count // 3 if "SQLite" in name else count) for name, way in todo.items()}
    rounds = await bench.interleave(ways)
    show("From the outbox to the stream", "rows/s", rounds, goals)


# --- goal 12 -------------------------------------------------------------------------------------------------


async def whole_way(bench: Bench) -> None:
    way = WholeWay(__file__, await bench.place("producing"), await bench.place("consuming"))
    on_sqlite = WholeWay(__file__, await bench.place_on_sqlite("producing"), await bench.place_on_sqlite("consuming"))
    own, shared = "Cauce, each event its own transaction", "Cauce, shared transactions"
    peer = "faststream-outbox + FastStream + inbox by hand"
    slow, fast = bench.times(500), bench.times(4_000)
    todo = {
        own: lambda: way.measure("cauce", "cauce", slow),
        shared: lambda: way.measure("cauce", "cauce-shared", fast),
        f"{own}, SQLite": lambda: on_sqlite.measure("cauce", "cauce", slow),
        f"{shared}, SQLite": lambda: on_sqlite.measure("cauce", "cauce-shared", fast),
    }
    if not missing():
        todo[peer] = lambda: way.measure("peer", "peer", bench.times(300))
    show(
        "The whole way, in the order of keys", "events/s", await bench.interleave(todo),
        [
            Goal(12, own, peer, 1.5), Goal(12, shared, peer, 5),
            Goal(12, f"{own}, SQLite", own, 0.5), Goal(12, f"{shared}, SQLite", shared, 0.5),
        ],
    )  # fmt: skip
    hand = "by hand through asyncpg, 100 in a transaction"
    todo = {
        shared: lambda: way.measure_consumer("cauce-shared", fast),
        own: lambda: way.measure_consumer("cauce", slow),
        hand: lambda: way.measure_consumer("hand", fast),
    }
    show("The consumer's side alone", "events/s", await bench.interleave(todo), [Goal(12, shared, hand, 0.5)])


# --- goal 13 -------------------------------------------------------------------------------------------------


async def latency(bench: Bench) -> None:
    calling, hearing = await bench.place("calling"), await bench.place("hearing")
    services, by_hand, count = PacedServices(calling, hearing), PacedByHand(calling, hearing), bench.times(300)
    ours: list[float] = []
    theirs: list[float] = []
    commits: list[float] = []
    async with services.running(), by_hand.running():
        for _ in range(bench.rounds):
            ids, commit_ms = await services.at_pace(count, 0.01, keys=1000)
            ours.append(await services.typical_ms(ids))
            theirs.append(await by_hand.typical_ms(count, 0.01))
            commits.append(commit_ms)
    print(f"\n### Latency at 100 events/s (medians of {bench.rounds})\n")
    print(f"  commit → effect, p50: {median(ours):.2f} ms; by hand {median(theirs):.2f} ms")
    limit(13, "commit → effect, p50, against a loop by hand", median_ratio(ours, theirs), "×", 1.3)
    print(f"  one transaction that publishes takes {median(commits):.2f} ms here")


async def idle(bench: Bench) -> None:
    producing, consuming = await bench.place("resting"), await bench.place("dozing")
    seconds = max(3.0, 20.0 * bench.times(1000) / 1000)
    found = await idleness.idle(producing, consuming, seconds)
    print(f"\n### Two idle services for {seconds:.0f} s, per service\n")
    limit(13, "processor", found.cpu_percent, "% of a core", 0.5)
    limit(13, "transactions", found.commits, "/s", 2)
    limit(13, "broker commands", found.commands, "/s", 2)


async def one_key_fails(bench: Bench) -> None:
    services = PacedServices(await bench.place("parking"), await bench.place("parked"))
    window_s = max(2.0, 0.06 * bench.times(1000))
    async with services.running():
        found = await failing_key.one_key_fails(services, window_s, bad="user-7")
    print(f"\n### One of 50 keys fails for {window_s:.0f} s ({found.waited} events waited)\n")
    limit(13, "the others' p50 meanwhile, against before", found.slower, "×", 1.2)
    limit(13, "all applied in order after the cause is gone", found.recovered_s, "s", 2)


async def one_process_dies(bench: Bench) -> None:
    consuming = await bench.place("survived")
    services = PacedServices(await bench.place("surviving"), consuming)
    window_s = max(2.0, 0.015 * bench.times(1000))
    async with services.running():
        other = side(__file__, "consume", "cauce", consuming, 1_000_000_000)
        await other.report("ready")
        found = await killed_process.one_process_dies(services, window_s, kill=other.kill)
    print(f"\n### One of two processes is killed; {window_s:.0f} s before and after\n")
    limit(13, "p50 of the other's lanes, against before", found.slower, "×", 1.2)
    limit(13, "an event of the dead one's lanes, slowest (the lease is 10 s)", found.delayed_s, "s", 12)


async def two_of_each(bench: Bench) -> None:
    producing, consuming = await bench.place("shared_calling"), await bench.place("shared_hearing")
    services, count = PacedServices(producing, consuming), max(20, bench.times(100) * 6 // 10)
    async with services.running():
        alone = await two.p50_and_p90(services, count)
        others = (
            side(__file__, "produce", "cauce", producing, 0),
            side(__file__, "consume", "cauce", consuming, 1_000_000_000),
        )
        try:
            await two.shared_out(services, others)
            shared = await two.p50_and_p90(services, count)
        finally:
            for other in others:
                other.kill()
    print(f"\n### Two processes of each service instead of one, four events a second ({count} of them)\n")
    print(f"  one of each: p50 {alone[0]:.1f} ms, p90 {alone[1]:.1f} ms; two: {shared[0]:.1f} and {shared[1]:.1f} ms")
    limit(13, "commit → effect, p50, against one of each", shared[0] / alone[0], "×", 1.3)
    limit(13, "commit → effect, p90, against one of each", shared[1] / alone[1], "×", 2)


async def kept_rows(bench: Bench) -> None:
    empty, full = await bench.place("empty"), await bench.place("well_used")
    await fill(full, bench.kept)
    rows = f"{bench.kept:,} kept rows"
    units = {name: UnitOfWork(place, bench.driver) for name, place in (("empty", empty), (rows, full))}
    async with units["empty"].running(), units[rows].running():
        count = bench.times(200)
        found = await bench.interleave(
            {name: partial(unit.measure, "Cauce, keyed", count, 8) for name, unit in units.items()}
        )
    show("Kept rows: a unit of work, keyed", "transactions/s", found, [Goal(13, rows, "empty", 0.9)])
    count = bench.times(5_000)
    todo = {
        "empty": lambda: with_cauce.relay(empty, count, keyed=True),
        rows: lambda: with_cauce.relay(full, count, keyed=True),
    }
    show("Kept rows: the relay", "rows/s", await bench.interleave(todo), [Goal(13, rows, "empty", 0.9)])
    bench.valkey.flush()  # what the relay left there is not to be heard
    todo = {
        name: partial(WholeWay(__file__, place, place).measure_consumer, "cauce-shared", count)
        for name, place in (("empty", empty), (rows, full))
    }
    show("Kept rows: the consumer", "events/s", await bench.interleave(todo), [Goal(13, rows, "empty", 0.9)])


GOALS: Mapping[str, Sequence[Callable[[Bench], Awaitable[None]]]] = {
    "10": [units_of_work],
    "11": [relay],
    "12": [whole_way],
    "13": [latency, two_of_each, one_key_fails, one_process_dies, idle, kept_rows],
}


async def measure(args: argparse.Namespace) -> None:
    if absent := missing():
        print(f"not installed, and left out: {', '.join(absent)}")
    with tempfile.TemporaryDirectory(prefix="cauce-durable-") as name:
        os.chmod(name, 0o711)  # PostgreSQL's account has to enter it
        folder = Path(name)
        postgres, valkey = PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey")
        beside = ValkeyServer(folder / "valkey-beside")
        postgres.start()
        valkey.start()
        beside.start()
        try:
            bench = Bench(postgres, valkey, beside, folder, args)
            for number in args.only or GOALS:
                for task in GOALS[number]:
                    valkey.flush()
                    await task(bench)
        finally:
            postgres.kill()
            valkey.kill()
            beside.kill()
    print(f"\nmemory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Durable delivery, measured beside its peers.")
    parser.add_argument("--only", nargs="+", choices=list(GOALS), help="the goals to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of events in a round, and of kept rows")
    parser.add_argument("--driver", default="psycopg", choices=["psycopg", "asyncpg"], help="for goal 10")
    parser.add_argument("--quick", action="store_true", help="a tiny round of everything")
    parser.add_argument("--produce", help=argparse.SUPPRESS)
    parser.add_argument("--consume", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.ERROR)
    if args.produce or args.consume:
        work = produce if args.produce else consume
        asyncio.run(work(args.produce or args.consume, place_of_this_process(), args.count))
    else:
        asyncio.run(measure(args))


if __name__ == "__main__":
    main()
