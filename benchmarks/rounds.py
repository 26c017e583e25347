"""Measuring several ways of doing the same thing, fairly, on a machine that is never quiet.

Every way gets a slice of time in every round, and the order turns from round to round: whatever the machine does
meanwhile, it does to all. What is measured is the processor time of this process, so others who use the machine at
the same time do not count; nothing here waits for anything outside. A ratio is taken inside each round and the median
over the rounds is reported. The garbage collector runs before each slice and rests during it, for everybody alike.
"""

import asyncio
import gc
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import process_time_ns

from goals import median_ratio

__all__ = ["Counter", "Measured", "Way", "measure"]


class Counter:
    """What every listener of a benchmark raises by one: a peer that does not call its listeners is not fast."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of doing it. `run(times)` does it that often and returns, or is awaited, when all of it is done."""

    name: str
    run: Callable[[int], Awaitable[None] | None]
    counter: Counter | None = None
    """Raised by the listeners; None for what calls nobody (codecs, ids)."""
    calls_each: int = 1
    """How many listener calls one time means."""
    close: Callable[[], Awaitable[None]] | None = None
    """Awaited at the end, for what keeps something running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Nanoseconds of processor time for one time, one figure a round, in the order of the rounds."""

    name: str
    ns: Sequence[float]

    @property
    def median_ns(self) -> float:
        return median(self.ns)

    def times_faster_than(self, other: "Measured") -> float:
        """How many of ours fit into one of theirs: the median of the rounds' own ratios."""
        return median_ratio(other.ns, self.ns)


async def measure(ways: Sequence[Way], *, rounds: int, slice_ms: float) -> dict[str, Measured]:
    """All `ways`, interleaved. AssertionError if listeners were not called exactly as often as they should be."""
    taken: list[list[float]] = [[] for _ in ways]
    try:
        times = [await _calibrate(way, slice_ms) for way in ways]
        for turn in range(rounds):
            for step in range(len(ways)):
                at = (turn + step) % len(ways)
                taken[at].append(await _slice(ways[at], times[at]) / times[at])
    finally:
        for way in ways:
            if way.close:
                await way.close()
    return {way.name: Measured(name=way.name, ns=ns) for way, ns in zip(ways, taken, strict=True)}


async def _calibrate(way: Way, slice_ms: float) -> int:
    """How many times fit into a slice; also the warming up."""
    times = 8
    while True:
        ns = await _slice(way, times)
        if ns >= slice_ms * 250_000:
            return max(1, round(times * slice_ms * 1_000_000 / ns))
        times *= 4


async def _slice(way: Way, times: int) -> int:
    before = way.counter.calls if way.counter else 0
    gc.collect()
    gc.disable()
    try:
        start = process_time_ns()
        pending = way.run(times)
        if inspect.isawaitable(pending):
            await pending
        end = process_time_ns()
    finally:
        gc.enable()
    await asyncio.sleep(0)
    if way.counter:
        called, wanted = way.counter.calls - before, times * way.calls_each
        assert called == wanted, f"{way.name}: {called} listener calls instead of {wanted}"
    return end - start
