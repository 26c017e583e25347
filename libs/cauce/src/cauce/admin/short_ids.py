"""Ids as people type them: as much of the beginning as tells one from the others."""

from collections.abc import Iterable
from itertools import pairwise

__all__ = ["shortest_beginnings"]

_SHORT = 8


def shortest_beginnings(ids: Iterable[str]) -> dict[str, str]:
    """For every id its shortest beginning, of 8 characters at least, that no other of them has."""
    ordered = sorted(ids)
    shared = [_alike(one, other) for one, other in pairwise(ordered)]
    needed = [max(before, after) + 1 for before, after in zip([0, *shared], [*shared, 0], strict=False)]
    return {one: one[: max(_SHORT, length)] for one, length in zip(ordered, needed, strict=False)}


def _alike(one: str, other: str) -> int:
    """How many characters they begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
