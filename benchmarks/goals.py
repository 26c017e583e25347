"""Goals as ratios against others in the same run, and taking turns so that the machine is the same for all."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["SLACK", "Goal", "in_turn", "median_ratio", "verdict"]

SLACK = 0.9
"""Of a goal, what still counts as reached."""


@dataclass(frozen=True, slots=True)
class Goal:
    """`ours` is to be at least `wanted` times as fast as `theirs`; for a latency, at most so many times as long."""

    number: int
    ours: str
    theirs: str
    wanted: float


async def in_turn(todo: Mapping[str, Callable[[], Awaitable[float]]], rounds: int) -> Mapping[str, Sequence[float]]:
    """One figure for every way and round; the order turns from round to round."""
    names = list(todo)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            found[name].append(await todo[name]())
    return found


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def verdict(share: float) -> str:
    """In words for a table: how much of a goal was reached, 1 for all of it."""
    return "yes" if share >= 1 else "yes, within 10 %" if share >= SLACK else "**no**"
