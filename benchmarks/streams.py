"""Events over Redis Streams: Cauce's transport beside raw redis-py and FastStream, as ratios.

    python benchmarks/streams.py                # about five minutes; FastStream is left out where it is not installed
    python benchmarks/streams.py --quick        # a tiny round of everything: does it run

Starts its own Valkey (append-only file, synced every second). All ways take turns, round by round; a ratio is taken
inside each round and the table shows the median, because the machines this runs on are shared. The consumer is a
process of its own. Goals: 4 one at a time, 5 batches, 6 concurrent publishers, 7 consuming, 8 end to end, 9 latency.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cauce.dev.servers import ValkeyServer
from redis import Redis
from stream_ways import GROUP, STREAM, WAYS, missing

SLACK = 0.9
"""Of a goal, what still counts as reached."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Ours is to be at least so many times as fast as theirs; for a latency, ours divided by theirs at most."""

    number: int
    theirs: str
    wanted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    title: str
    unit: str
    run: Callable[["Bench", str], Awaitable[float]]
    goals: Sequence[Goal]
    ways: Sequence[str]
    lower_is_better: bool = False


ALL = ("cauce", "redis-py", "FastStream", "FastStream, batch of 100")
ONCE = ALL[:3]


class Bench:
    """One server, and how much of everything."""

    def __init__(self, server: ValkeyServer, *, scale: float) -> None:
        self.server = server
        self.admin: Any = Redis.from_url(server.url)
        self._scale = scale

    def times(self, count: int) -> int:
        return max(200, int(count * self._scale) // 200 * 200)

    async def published(self, way: str, count: int, publish: Callable[[Any], Awaitable[None]]) -> float:
        """Messages a second."""
        self.admin.flushall()
        one = WAYS[way](self.server.url)
        try:
            await one.one_by_one(20)
            began = time.perf_counter()
            await publish(one)
            return count / (time.perf_counter() - began)
        finally:
            await one.close()

    async def one_by_one(self, way: str) -> float:
        count = self.times(4_000)
        return await self.published(way, count, lambda one: one.one_by_one(count))

    async def by_hundreds(self, way: str) -> float:
        count = self.times(30_000)
        return await self.published(way, count, lambda one: one.by_hundreds(count))

    async def concurrently(self, way: str) -> float:
        count = self.times(15_000)
        return await self.published(way, count, lambda one: one.concurrently(count, 100))

    async def consume(self, way: str) -> float:
        """Messages that lie there, consumed in a second."""
        count = self.times(8_000 if way == "FastStream" else 40_000)
        await self._empty()
        one = WAYS[way](self.server.url)
        await one.by_hundreds(count)
        await one.close()
        consumer = self._consumer(way, count)
        first, last, _ = await self._outcome(consumer)
        return count / (last - first)

    async def end_to_end(self, way: str) -> float:
        """Messages a second from the first batch published to the last message consumed, both at once."""
        count = self.times(8_000 if way == "FastStream" else 40_000)
        await self._empty()
        consumer = self._consumer(way, count)
        await self._said(consumer, "ready")
        one = WAYS[way](self.server.url)
        began = time.monotonic()
        await one.by_hundreds(count)
        _, last, _ = await self._outcome(consumer)
        await one.close()
        return count / (last - began)

    async def latency(self, way: str) -> float:
        """Microseconds from making a message to its listener, at 200 a second: the median."""
        count = self.times(600)
        await self._empty()
        consumer = self._consumer(way, count)
        await self._said(consumer, "ready")
        one = WAYS[way](self.server.url)
        await asyncio.sleep(0.2)
        due = time.monotonic()
        for _ in range(count):
            await one.at_pace()
            due += 0.005
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        _, _, typical = await self._outcome(consumer)
        await one.close()
        return typical * 1e6

    async def _empty(self) -> None:
        self.admin.flushall()
        self.admin.xgroup_create(STREAM, GROUP, "0", mkstream=True)

    def _consumer(self, way: str, count: int) -> "subprocess.Popen[str]":
        command = [sys.executable, __file__, "--consume", way, "--url", self.server.url, "--count", str(count)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    async def _said(self, consumer: "subprocess.Popen[str]", word: str) -> list[str]:
        assert consumer.stdout is not None
        while True:
            line = await asyncio.to_thread(consumer.stdout.readline)
            if not line:
                raise RuntimeError(f"the consumer ended with {consumer.wait()}")
            if line.startswith(word):
                return line.split()[1:]

    async def _outcome(self, consumer: "subprocess.Popen[str]") -> tuple[float, float, float]:
        first, last, typical = await self._said(consumer, "done")
        assert consumer.stdout is not None
        consumer.stdout.close()
        consumer.wait(10)
        return float(first), float(last), float(typical)


TASKS = (
    Task(
        title="one awaited publish at a time",
        unit="/s",
        run=Bench.one_by_one,
        ways=ONCE,
        goals=(Goal(4, "redis-py", 0.85), Goal(4, "FastStream", 1.05)),
    ),
    Task(
        title="batches of 100",
        unit="/s",
        run=Bench.by_hundreds,
        ways=ONCE,
        goals=(Goal(5, "redis-py", 1.5), Goal(5, "FastStream", 3.0)),
    ),
    Task(
        title="100 concurrent publishers",
        unit="/s",
        run=Bench.concurrently,
        ways=ONCE,
        goals=(Goal(6, "redis-py", 3.0),),
    ),
    Task(
        title="consuming what lies there, a typed listener call each",
        unit="/s",
        run=Bench.consume,
        ways=ALL,
        goals=(Goal(7, "redis-py", 0.5), Goal(7, "FastStream", 20.0), Goal(7, "FastStream, batch of 100", 1.2)),
    ),
    Task(
        title="end to end, a process each",
        unit="/s",
        run=Bench.end_to_end,
        ways=ALL,
        goals=(Goal(8, "redis-py", 1.0), Goal(8, "FastStream", 15.0), Goal(8, "FastStream, batch of 100", 1.8)),
    ),
    Task(
        title="latency at 200 a second, median",
        unit="µs",
        run=Bench.latency,
        ways=ONCE,
        goals=(Goal(9, "redis-py", 1.15), Goal(9, "FastStream", 0.75)),
        lower_is_better=True,
    ),
)


async def measure(bench: Bench, task: Task, rounds: int) -> Mapping[str, Sequence[float]]:
    ways = [way for way in task.ways if way in WAYS]
    figures: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for step in range(len(ways)):
            way = ways[(turn + step) % len(ways)]
            figures[way].append(await task.run(bench, way))
    return figures


def report(task: Task, figures: Mapping[str, Sequence[float]]) -> None:
    print(f"\n### {task.title}\n\n| way | {task.unit} | cauce's ratio |\n|---|---:|---:|")
    ours = figures["cauce"]

    def ratio(theirs: Sequence[float]) -> float:
        return median(mine / other for mine, other in zip(ours, theirs, strict=True))

    for way, theirs in figures.items():
        print(f"| {way} | {median(theirs):,.0f} | {ratio(theirs):.2f} |")
    print("\n| goal | ratio | wanted | reached |\n|---|---:|---:|---|")
    for goal in task.goals:
        if goal.theirs in figures:
            found = ratio(figures[goal.theirs])
            sign = "≤" if task.lower_is_better else "≥"
            print(
                f"| {goal.number}: against {goal.theirs} | {found:.2f} | {sign} {goal.wanted:.2f} | {_verdict(task, goal, found)} |"
            )


def _verdict(task: Task, goal: Goal, found: float) -> str:
    good = found / goal.wanted if not task.lower_is_better else goal.wanted / found
    return "yes" if good >= 1 else "yes, within 10 %" if good >= SLACK else "**no**"


async def consume(way: str, url: str, count: int) -> None:
    """The consumer's process: says `ready`, and after `count` messages when the first and the last came, and the
    median of their ages."""
    ages: list[float] = []
    moments: list[float] = []
    one = WAYS[way](url)
    finished = asyncio.Event()

    async def listener(made_at: float) -> None:
        ages.append(made_at)
        if len(ages) in (1, count) or count < 5_000:
            moments.append(time.monotonic())
            if len(ages) == count:
                finished.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.consume(lambda: print("ready", flush=True), listener))
        await finished.wait()
        typical = median(at - age for at, age in zip(moments, ages, strict=False)) if len(moments) == count else 0.0
        print("done", moments[0], moments[-1], typical, flush=True)
        os._exit(0)  # redis-py may swallow a cancellation that comes while it acknowledges


async def run(*, rounds: int, scale: float, only: str) -> None:
    if missing():
        print(f"left out, not installed: {', '.join(missing())}")
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder) / "valkey")
        server.start()
        try:
            bench = Bench(server, scale=scale)
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
