"""Durable delivery from database to database: Cauce beside hand-written loops and faststream-outbox, as ratios.

    python benchmarks/durable.py                   # everything: about a quarter of an hour
    python benchmarks/durable.py --only 10 12      # some goals
    python benchmarks/durable.py --quick           # a tiny round of everything: does it run

Starts its own PostgreSQL (fsync on) and Valkey (append-only file, synced every second). All ways take turns, round by
round; a ratio is taken inside each round and the table shows the median, because the machines this runs on are shared.
Goals: 10 a unit of work, 11 the relay, 12 the whole way, 13 latency, also beside a key that
fails, idleness, and that kept rows cost nothing.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import durable_ways as ways
from cauce.dev.servers import PostgresServer, ValkeyServer
from durable_ways import Place

SLACK = 0.9
"""Of a goal, what still counts as reached."""

Rounds = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Goal:
    """`ours` is to be at least `wanted` times as fast as `theirs`."""

    number: int
    ours: str
    theirs: str
    wanted: float


class Bench:
    """The servers, and how much of everything."""

    def __init__(self, postgres: PostgresServer, valkey: ValkeyServer, folder: Path, args: argparse.Namespace) -> None:
        self._postgres = postgres
        self.valkey = valkey
        self.folder = folder
        self.rounds: int = 1 if args.quick else args.rounds
        self._scale: float = 0.01 if args.quick else args.scale
        self.kept = int(1_000_000 * self._scale)
        self.driver: str = args.driver

    def times(self, count: int) -> int:
        return max(100, int(count * self._scale) // 100 * 100)

    async def place(self, name: str) -> Place:
        place = Place(self._postgres.create_database(name, role="bench"), self.valkey.url)
        await place.prepare()
        return place

    async def interleave(self, todo: Mapping[str, Callable[[], Awaitable[float]]]) -> Rounds:
        """One figure for every way and round, the first round (warming up) left out; the order turns."""
        found: dict[str, list[float]] = {name: [] for name in todo}
        names = list(todo)
        for turn in range(self.rounds + 1):
            for step in range(len(names)):
                name = names[(turn + step) % len(names)]
                figure = await todo[name]()
                if turn or self.rounds == 1:
                    found[name].append(figure)
        return found


def ratio(rounds: Rounds, ours: str, theirs: str) -> float:
    return median(one / other for one, other in zip(rounds[ours], rounds[theirs], strict=False))


def show(title: str, unit: str, rounds: Rounds, goals: Sequence[Goal]) -> None:
    print(f"\n### {title} ({unit}, medians of {max(map(len, rounds.values()))})\n")
    for name, figures in rounds.items():
        print(f"  {name:<44}{median(figures):>12,.0f}")
    for goal in goals:
        if goal.ours in rounds and goal.theirs in rounds:
            found = ratio(rounds, goal.ours, goal.theirs)
            verdict = "reached" if found >= goal.wanted * SLACK else "NOT REACHED"
            print(
                f"  goal {goal.number}: {goal.ours} is {found:.2f} × {goal.theirs} (wanted ≥ {goal.wanted:g}) {verdict}"
            )
    sys.stdout.flush()


def limit(number: int, what: str, found: float, unit: str, most: float) -> None:
    verdict = "reached" if found <= most / SLACK else "NOT REACHED"
    print(f"  goal {number}: {what}: {found:.2f} {unit} (wanted ≤ {most:g}) {verdict}", flush=True)


# --- goal 10 -------------------------------------------------------------------------------------------------


async def units_of_work(bench: Bench) -> None:
    place = await bench.place("units")
    work = ways.UnitOfWork(place, bench.driver)
    goals = [
        Goal(10, "Cauce, un-keyed", "business insert alone", 0.75),
        Goal(10, "Cauce, un-keyed", "faststream-outbox", 1.0),
        Goal(10, "Cauce, keyed", "business insert alone", 0.6),
    ]
    async with work.running():
        for at_once in (1, 8):
            count = bench.times(100 + 12 * at_once)
            todo = {name: partial(work.measure, name, count, at_once) for name in work.ways}
            title = f"A unit of work with one event, {at_once} at once, {bench.driver}"
            show(title, "transactions/s", await bench.interleave(todo), goals)


# --- goal 11 -------------------------------------------------------------------------------------------------


async def relay(bench: Bench) -> None:
    place = await bench.place("relay")
    todo = ways.relays(place, bench.folder)
    count = bench.times(10_000)
    goals = [
        Goal(11, "Cauce, un-keyed", "by hand, deleting", 0.8),
        Goal(11, "Cauce, keyed", "by hand, deleting", 0.6),
        Goal(11, "Cauce, un-keyed", "faststream-outbox, tuned", 12),
        Goal(11, "Cauce on SQLite", "by hand on SQLite", 0.8),
    ]
    rounds = await bench.interleave({name: partial(way, count) for name, way in todo.items()})
    show("From the outbox to the stream", "rows/s", rounds, goals)


# --- goal 12 -------------------------------------------------------------------------------------------------


class Side:
    """A process of its own: the producer's or the consumer's."""

    def __init__(self, what: str, way: str, place: Place, count: int) -> None:
        command = [sys.executable, __file__, f"--{what}", way, "--count", str(count)]
        environment = {**os.environ, "BENCH_PLACE": json.dumps([place.database, place.broker])}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    async def said(self, word: str) -> list[str]:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line.startswith(word):
            raise RuntimeError(f"expected {word!r} from a process of the benchmark, got {line!r}")
        return line.split()[1:]

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(30)


class WholeWay:
    """From the commit in one database to the effect in another, two processes."""

    def __init__(self, producing: Place, consuming: Place) -> None:
        self._producing = producing
        self._consuming = consuming

    async def measure(self, producer: str, consumer: str, count: int) -> float:
        """Events a second, from the first one published to the last effect committed."""
        before = await ways.effects(self._consuming)
        consuming = Side("consume", consumer, self._consuming, count)
        await consuming.said("ready")
        producing = Side("produce", producer, self._producing, count)
        await producing.said("ready")
        began = time.monotonic()
        producing.tell("go")
        _, ended = await consuming.said("done")
        producing.tell("end")
        producing.end()
        consuming.end()
        await self._check(before + count)
        return count / (float(ended) - began)

    async def measure_consumer(self, consumer: str, count: int) -> float:
        """Events a second that lie in the stream already."""
        before = await ways.effects(self._consuming)
        await ways.send_to_stream(self._consuming, count, by_hand=consumer == "hand")
        consuming = Side("consume", consumer, self._consuming, count)
        await consuming.said("ready")
        began, ended = await consuming.said("done")
        consuming.end()
        await self._check(before + count)
        return count / (float(ended) - float(began))

    async def _check(self, expected: int) -> None:
        found = await ways.effects(self._consuming)
        assert found == expected, f"{found} effects instead of {expected}"


async def whole_way(bench: Bench) -> None:
    way = WholeWay(await bench.place("producing"), await bench.place("consuming"))
    own, shared = "Cauce, each event its own transaction", "Cauce, shared transactions"
    peer = "faststream-outbox + FastStream + inbox by hand"
    slow, fast = bench.times(500), bench.times(4_000)
    todo = {
        own: lambda: way.measure("cauce", "cauce", slow),
        shared: lambda: way.measure("cauce", "cauce-shared", fast),
    }
    if not ways.missing():
        todo[peer] = lambda: way.measure("peer", "peer", bench.times(300))
    show(
        "The whole way, in the order of keys", "events/s", await bench.interleave(todo),
        [Goal(12, own, peer, 1.5), Goal(12, shared, peer, 5)],
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
    hearing = ways.Hearing(await bench.place("calling"), await bench.place("hearing"))
    count = bench.times(500)
    found: list[float] = []
    commits: list[float] = []
    async with hearing.running():
        for _ in range(bench.rounds):
            ids, commit_ms = await hearing.at_pace(count, 0.01, keys=1000)
            found.append(await hearing.typical_ms(ids))
            commits.append(commit_ms)
    print(f"\n### Latency at 100 events/s (medians of {bench.rounds})\n")
    limit(13, "commit → effect, p50", median(found), "ms", 5)
    print(f"  one transaction that publishes takes {median(commits):.2f} ms here")


async def idle(bench: Bench) -> None:
    producing, consuming = await bench.place("resting"), await bench.place("dozing")
    seconds = max(3.0, 20.0 * bench.times(1000) / 1000)
    found = await ways.idle(producing, consuming, seconds)
    print(f"\n### Two idle services for {seconds:.0f} s, per service\n")
    limit(13, "processor", found.cpu_percent, "% of a core", 1)
    limit(13, "transactions", found.commits, "/s", 5)
    limit(13, "broker commands", found.commands, "/s", 20)


async def one_key_fails(bench: Bench) -> None:
    hearing = ways.Hearing(await bench.place("parking"), await bench.place("parked"))
    window_s = max(2.0, 0.06 * bench.times(1000))
    async with hearing.running():
        found = await ways.one_key_fails(hearing, window_s, bad="user-7")
    print(f"\n### One of 50 keys fails for {window_s:.0f} s ({found.waited} events waited)\n")
    limit(13, "the others' p50 meanwhile, against before", found.slower, "×", 1.2)
    limit(13, "all applied in order after the cause is gone", found.recovered_s, "s", 2)


async def one_process_dies(bench: Bench) -> None:
    consuming = await bench.place("survived")
    hearing = ways.Hearing(await bench.place("surviving"), consuming)
    window_s = max(2.0, 0.015 * bench.times(1000))
    async with hearing.running():
        other = Side("consume", "cauce", consuming, 1_000_000_000)
        await other.said("ready")
        found = await ways.one_process_dies(hearing, window_s, kill=other.kill)
    print(f"\n### One of two processes is killed; {window_s:.0f} s before and after\n")
    limit(13, "p50 of the other's lanes, against before", found.slower, "×", 1.2)
    limit(13, "an event of the dead one's lanes, slowest (the lease is 10 s)", found.delayed_s, "s", 12)


async def kept_rows(bench: Bench) -> None:
    empty, full = await bench.place("empty"), await bench.place("well_used")
    await ways.fill(full, bench.kept)
    rows = f"{bench.kept:,} kept rows"
    units = {name: ways.UnitOfWork(place, bench.driver) for name, place in (("empty", empty), (rows, full))}
    async with units["empty"].running(), units[rows].running():
        count = bench.times(200)
        found = await bench.interleave(
            {name: partial(unit.measure, "Cauce, keyed", count, 8) for name, unit in units.items()}
        )
    show("Kept rows: a unit of work, keyed", "transactions/s", found, [Goal(13, rows, "empty", 0.9)])
    count = bench.times(5_000)
    todo = {
        "empty": lambda: ways.cauce_relay(empty, count, keyed=True),
        rows: lambda: ways.cauce_relay(full, count, keyed=True),
    }
    show("Kept rows: the relay", "rows/s", await bench.interleave(todo), [Goal(13, rows, "empty", 0.9)])
    bench.valkey.flush()  # what the relay left there is not to be heard
    todo = {
        name: partial(WholeWay(place, place).measure_consumer, "cauce-shared", count)
        for name, place in (("empty", empty), (rows, full))
    }
    show("Kept rows: the consumer", "events/s", await bench.interleave(todo), [Goal(13, rows, "empty", 0.9)])


GOALS: Mapping[str, Sequence[Callable[[Bench], Awaitable[None]]]] = {
    "10": [units_of_work],
    "11": [relay],
    "12": [whole_way],
    "13": [latency, one_key_fails, one_process_dies, idle, kept_rows],
}


async def measure(args: argparse.Namespace) -> None:
    if absent := ways.missing():
        print(f"not installed, and left out: {', '.join(absent)}")
    with tempfile.TemporaryDirectory(prefix="cauce-durable-") as name:
        os.chmod(name, 0o711)  # PostgreSQL's account has to enter it
        folder = Path(name)
        postgres, valkey = PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey")
        postgres.start()
        valkey.start()
        try:
            bench = Bench(postgres, valkey, folder, args)
            for number in args.only or GOALS:
                for task in GOALS[number]:
                    valkey.flush()
                    await task(bench)
        finally:
            postgres.kill()
            valkey.kill()
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
    if args.produce or args.consume:
        place = Place(*json.loads(os.environ["BENCH_PLACE"]))
        side: Callable[[str, Place, int], Any] = ways.produce if args.produce else ways.consume
        asyncio.run(side(args.produce or args.consume, place, args.count))
    else:
        asyncio.run(measure(args))


if __name__ == "__main__":
    main()
