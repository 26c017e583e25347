"""How fast the in-process bus is, beside a bare loop and the libraries people use, as ratios.

    make bench                                     # everything, beside every peer; about two minutes
    python benchmarks/dispatch.py --quick          # a tiny round of everything: does it run, do the listeners count

Prints Markdown tables. Goals are ratios against peers in the same run; a goal counts as reached within 10 %, because
the machines this runs on are shared. README.md holds a table as it was seen.
"""

import argparse
import asyncio
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from dispatching.ways import async_ways, missing, pattern_ways, sync_ways
from goals import Goal, verdict
from imports import import_times
from rounds import Measured, Way, measure
from values import codec_ways, creation_ways, nest_ways


@dataclass(frozen=True, slots=True)
class Section:
    """Ways that are measured against each other."""

    title: str
    ways: Sequence[Way]
    goals: Sequence[Goal]


def sections() -> Iterable[Section]:
    yield Section(
        "plain call, 1 listener",
        tuple(sync_ways(1)),
        (
            Goal(1, "cauce, envelope made", "blinker", 0.9),
            Goal(1, "cauce, envelope made", "pyee", 0.5),
            Goal(1, "cauce", "pyee", 3.0),
        ),
    )
    yield Section("plain call, 10 listeners", tuple(sync_ways(10)), (Goal(1, "cauce", "pyee", 1.5),))
    yield Section(
        "awaited, 1 listener",
        tuple(async_ways(1)),
        (
            Goal(2, "cauce", "blinker send_async", 1.0),
            Goal(2, "cauce", "pyee AsyncIO", 8.0),
            Goal(2, "cauce", "bubus", 200.0),
        ),
    )
    yield Section("awaited, 10 listeners", tuple(async_ways(10)), (Goal(2, "cauce", "bare await loop", 0.6),))
    yield Section(
        "pattern, plain call",
        tuple(pattern_ways(awaited=False)),
        (Goal(3, "cauce, pattern", "cauce, exact", 0.9), Goal(3, "cauce, pattern", "pymitter, wildcard", 3.0)),
    )
    yield Section(
        "pattern, awaited",
        tuple(pattern_ways(awaited=True)),
        (Goal(3, "cauce, pattern", "cauce, exact", 0.9), Goal(3, "cauce, pattern", "pymitter, wildcard", 8.0)),
    )
    yield Section("envelope as JSON", tuple(codec_ways()), (Goal(14, "cauce: encode + decode", "pydantic", 3.0),))
    yield Section(
        "a new event", tuple(creation_ways()), (Goal(14, "cauce: new event, id, time, envelope", "uuid.uuid4()", 1.25),)
    )
    yield Section("the NestJS packet (no goal)", tuple(nest_ways()), ())


# The names of `cauce` are looked up on first use, so `import cauce` alone would say little: the star asks for all.
IMPORTS = (
    "from cauce import *",
    "import cauce",
    "import faststream",
    "import cauce.transports.redis_pubsub",
    "import faststream.redis",
    "import asyncio",
    "import msgspec",
)
IMPORT_GOALS = (
    Goal(15, "from cauce import *", "import faststream", 2.0),
    Goal(15, "import cauce", "import faststream", 2.0),
    Goal(15, "import cauce.transports.redis_pubsub", "import faststream.redis", 1 / 0.7),
)


def print_section(
    title: str, measured: Mapping[str, Measured], goals: Sequence[Goal], *, unit_ns: float, unit: str
) -> None:
    ours = next(iter(measured.values()))
    print(f"\n### {title}\n\n| way | {unit} | times {ours.name} |\n|---|---:|---:|")
    for one in measured.values():
        print(f"| {one.name} | {_figure(one.median_ns / unit_ns)} | {1 / one.times_faster_than(ours):.2f} |")
    if goals:
        print("\n| goal | ratio | wanted | reached |\n|---|---:|---:|---|")
    for goal in goals:
        if goal.ours in measured and goal.theirs in measured:
            ratio = measured[goal.ours].times_faster_than(measured[goal.theirs])
            print(
                f"| {goal.number}: {goal.ours} against {goal.theirs} | {ratio:.2f} | ≥ {goal.wanted:.2f} | {verdict(ratio / goal.wanted)} |"
            )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def versions() -> str:
    names = (
        "cauce",
        "msgspec",
        "uuid-utils",
        "blinker",
        "pyee",
        "pymitter",
        "pyventus",
        "bubus",
        "pydantic",
        "faststream",
    )
    found: list[str] = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {platform.machine()}; {', '.join(found)}"


async def run(*, rounds: int, slice_ms: float, import_rounds: int) -> None:
    print(versions())
    if absent := missing():
        print(f"left out, not installed: {', '.join(absent)} (make bench installs them)")
    for section in sections():
        measured = await measure(section.ways, rounds=rounds, slice_ms=slice_ms)
        print_section(section.title, measured, section.goals, unit_ns=1, unit="ns")
    imported = import_times(IMPORTS, rounds=import_rounds)
    print_section("imports, each in a fresh interpreter", imported, IMPORT_GOALS, unit_ns=1e6, unit="ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tiny round of everything; the figures mean nothing")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds of every way (default: 15)")
    parser.add_argument("--slice-ms", type=float, default=25.0, help="time of one way in one round (default: 25)")
    given = parser.parse_args()
    if given.quick:
        asyncio.run(run(rounds=1, slice_ms=0.2, import_rounds=1))
    else:
        asyncio.run(run(rounds=given.rounds, slice_ms=given.slice_ms, import_rounds=max(7, given.rounds)))


if __name__ == "__main__":
    main()
