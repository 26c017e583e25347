"""All ways of handing on an event, in the order of the tables."""

from collections.abc import Iterator
from importlib.util import find_spec

from rounds import Way

from dispatching import bare_loop, with_blinker, with_bubus, with_cauce, with_pyee, with_pymitter, with_pyventus
from dispatching.counting import NAME, PATTERN

__all__ = ["PEERS", "async_ways", "missing", "pattern_ways", "sync_ways"]

PEERS = ("blinker", "pyee", "pymitter", "pyventus", "bubus")


def missing() -> list[str]:
    return [name for name in (*PEERS, "pydantic", "faststream") if find_spec(name) is None]


def sync_ways(count: int) -> Iterator[Way]:
    """One event to `count` plain listeners."""
    yield with_cauce.plain("cauce", count)
    yield with_cauce.plain_asked(count)
    yield bare_loop.plain(count)
    if find_spec("blinker"):
        yield with_blinker.plain(count)
    if find_spec("pyee"):
        yield with_pyee.plain(count)
    if find_spec("pymitter"):
        yield with_pymitter.plain("pymitter", count, heard=NAME, wildcard=False)


def async_ways(count: int) -> Iterator[Way]:
    """One event to `count` async listeners, handled by all of them when it counts as done."""
    yield with_cauce.awaited("cauce", count)
    yield bare_loop.awaited(count)
    if find_spec("blinker"):
        yield with_blinker.awaited(count)
    if find_spec("pyee"):
        yield with_pyee.awaited(count)
    if find_spec("pymitter"):
        yield with_pymitter.awaited("pymitter", count, heard=NAME, wildcard=False)
    if find_spec("pyventus"):
        yield with_pyventus.awaited(count)
    if find_spec("bubus"):
        yield with_bubus.awaited(count)


def pattern_ways(*, awaited: bool) -> Iterator[Way]:
    """One event to one listener, which named it exactly or by pattern."""
    ours = with_cauce.awaited if awaited else with_cauce.plain
    theirs = with_pymitter.awaited if awaited else with_pymitter.plain
    yield ours("cauce, exact", 1)
    yield ours("cauce, pattern", 1, pattern=PATTERN)
    if find_spec("pymitter"):
        yield theirs("pymitter, wildcard", 1, heard=PATTERN, wildcard=True)
