"""Events over Redis Streams: Cauce's transport beside raw redis-py and FastStream, as ratios.

    python benchmarks/streams.py                # about five minutes; FastStream is left out where it is not installed
    python benchmarks/streams.py --quick        # a tiny round of everything: does it run

Starts its own Valkey (append-only file, synced every second). All ways take turns, round by round; a ratio is taken
inside each round and the table shows the median, because the machines this runs on are shared. The consumer is a
process of its own. Goals: 4 one at a time, 5 batches, 6 concurrent publishers, 7 consuming, 8 end to end, 9 latency.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from cauce.dev.servers import ValkeyServer
from goals import Goal, in_turn, median_ratio, verdict
from streaming.bench import Bench
from streaming.consumer import consume
from streaming.ways import WAYS, missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    title: str
    unit: str
    run: Callable[[Bench, str], Awaitable[float]]
    goals: Sequence[Goal]
    ways: Sequence[str]
    lower_is_better: bool = False


ALL = ("cauce", "redis-py", "FastStream", "FastStream, batch of 100")
ONCE = ALL[:3]


TASKS = (
    Task(
        title="one awaited publish at a time",
        unit="/s",
        run=Bench.one_by_one,
        ways=ONCE,
        goals=(Goal(4, "cauce", "redis-py", 0.85), Goal(4, "cauce", "FastStream", 1.05)),
    ),
    Task(
        title="batches of 100",
        unit="/s",
        run=Bench.by_hundreds,
        ways=ONCE,
        goals=(Goal(5, "cauce", "redis-py", 1.5), Goal(5, "cauce", "FastStream", 3.0)),
    ),
    Task(
        title="100 concurrent publishers",
        unit="/s",
        run=Bench.concurrently,
        ways=ONCE,
        goals=(Goal(6, "cauce", "redis-py", 3.0),),
    ),
    Task(
        title="consuming what lies there, a typed listener call each",
        unit="/s",
        run=Bench.consume,
        ways=ALL,
        goals=(
            Goal(7, "cauce", "redis-py", 0.5),
            Goal(7, "cauce", "FastStream", 20.0),
            Goal(7, "cauce", "FastStream, batch of 100", 1.2),
        ),
    ),
    Task(
        title="end to end, a process each",
        unit="/s",
        run=Bench.end_to_end,
        ways=ALL,
        goals=(
            Goal(8, "cauce", "redis-py", 1.0),
            Goal(8, "cauce", "FastStream", 15.0),
            Goal(8, "cauce", "FastStream, batch of 100", 1.8),
        ),
    ),
    Task(
        title="latency at 200 a second, median",
        unit="µs",
        run=Bench.latency,
        ways=ONCE,
        goals=(Goal(9, "cauce", "redis-py", 1.15), Goal(9, "cauce", "FastStream", 0.75)),
        lower_is_better=True,
    ),
)


async def measure(bench: Bench, task: Task, rounds: int) -> Mapping[str, Sequence[float]]:
    return await in_turn({way: partial(task.run, bench, way) for way in task.ways if way in WAYS}, rounds)


def report(task: Task, figures: Mapping[str, Sequence[float]]) -> None:
    print(f"\n### {task.title}\n\n| way | {task.unit} | cauce's ratio |\n|---|---:|---:|")
    ours = figures["cauce"]

    for way, theirs in figures.items():
        print(f"| {way} | {median(theirs):,.0f} | {median_ratio(ours, theirs):.2f} |")
    print("\n| goal | ratio | wanted | reached |\n|---|---:|---:|---|")
    for goal in task.goals:
        if goal.theirs in figures:
            found = median_ratio(ours, figures[goal.theirs])
            reached = verdict(goal.wanted / found if task.lower_is_better else found / goal.wanted)
            sign = "≤" if task.lower_is_better else "≥"
            print(f"| {goal.number}: against {goal.theirs} | {found:.2f} | {sign} {goal.wanted:.2f} | {reached} |")


async def run(*, rounds: int, scale: float, only: str) -> None:
    if missing():
        print(f"left out, not installed: {', '.join(missing())}")
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder) / "valkey")
        server.start()
        try:
            bench = Bench(__file__, server, scale=scale)
            print(f"Valkey {server.version}, Python {sys.version.split()[0]}, {rounds} rounds")
            for task in TASKS:
                if only in task.title:
                    report(task, await measure(bench, task, rounds))
        finally:
            server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tiny round of everything; the figures mean nothing")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds of every way (default: 7)")
    parser.add_argument("--only", default="", help="a part of the title of what to measure")
    parser.add_argument("--consume", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.consume:
        asyncio.run(consume(given.consume, given.url, given.count))
    elif given.quick:
        asyncio.run(run(rounds=1, scale=0.02, only=given.only))
    else:
        asyncio.run(run(rounds=given.rounds, scale=1.0, only=given.only))


if __name__ == "__main__":
    main()
