"""The same event to the same counting listeners: by Cauce, by a bare loop, and by the libraries people use.

Each peer is used as its own documentation does it and, where there is a choice, in its fastest form (strong
references for blinker, no debug mode for pyventus, no log and hardly a history for bubus, which searches its own). A peer that is not installed is left out and
named.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from cauce import Bus, Context, DomainEvent, on
from rounds import Counter, Way

__all__ = ["PEERS", "PlaylistUpdated", "async_ways", "missing", "pattern_ways", "sync_ways"]

PEERS = ("blinker", "pyee", "pymitter", "pyventus", "bubus")
NAME = "com.clonespotify.playlist-updated"
PATTERN = "com.clonespotify.*"

BURST = 100
"""Libraries that start a task per event are waited for once in so many, which is in their favour."""


class PlaylistUpdated(DomainEvent, name=NAME):
    playlist_id: str
    title: str


EVENT = PlaylistUpdated(playlist_id="p-1", title="Songs for the road")


def missing() -> list[str]:
    return [name for name in (*PEERS, "pydantic", "faststream") if find_spec(name) is None]


# --- listeners that count -----------------------------------------------------------------------------------


def _listeners(counter: Counter, count: int) -> list[Callable[[Any], None]]:
    def made() -> Callable[[Any], None]:
        def listener(event: Any) -> None:
            counter.calls += 1

        return listener

    return [made() for _ in range(count)]


def _async_listeners(counter: Counter, count: int) -> list[Callable[[Any], Any]]:
    def made() -> Callable[[Any], Any]:
        async def listener(event: Any) -> None:
            counter.calls += 1

        return listener

    return [made() for _ in range(count)]


def _bus(listeners: Sequence[Callable[..., Any]], *, pattern: str | None = None) -> Bus:
    def register(at: int, listener: Any) -> Any:
        name = f"listener-{at}"
        if pattern is None:
            return on(PlaylistUpdated, name=name)(listener)
        return on(pattern, kind=DomainEvent, name=name)(listener)

    return Bus([register(at, listener) for at, listener in enumerate(listeners)])


# --- plain calls ---------------------------------------------------------------------------------------------


def sync_ways(count: int) -> Iterator[Way]:
    """One event to `count` plain listeners."""
    yield _cauce_sync("cauce", count)
    yield _cauce_sync_asked(count)
    yield _loop_sync(count)
    yield from _peers_sync(count)


def _cauce_sync(label: str, count: int, *, pattern: str | None = None) -> Way:
    counter = Counter()
    bus = _bus(_listeners(counter, count), pattern=pattern)

    def run(times: int) -> None:
        for _ in range(times):
            bus.emit(EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)


def _cauce_sync_asked(count: int) -> Way:
    """The last listener asks for its Context, so every event gets an id, a time and an envelope."""
    counter = Counter()

    def curious(event: PlaylistUpdated, context: Context) -> None:
        counter.calls += 1

    bus = _bus([*_listeners(counter, count - 1), curious])

    def run(times: int) -> None:
        for _ in range(times):
            bus.emit(EVENT)

    return Way(name="cauce, envelope made", run=run, counter=counter, calls_each=count)


def _loop_sync(count: int) -> Way:
    counter = Counter()
    listeners = _listeners(counter, count)

    def run(times: int) -> None:
        for _ in range(times):
            for listener in listeners:
                listener(EVENT)

    return Way(name="bare loop", run=run, counter=counter, calls_each=count)


def _peers_sync(count: int) -> Iterator[Way]:
    if find_spec("blinker"):
        yield _blinker_sync(count)
    if find_spec("pyee"):
        yield _pyee_sync(count)
    if find_spec("pymitter"):
        yield _pymitter_sync("pymitter", count, heard=NAME, wildcard=False)


def _blinker_sync(count: int) -> Way:
    from blinker import Signal

    counter, signal = Counter(), Signal()
    for listener in _listeners(counter, count):
        signal.connect(listener, weak=False)

    def run(times: int) -> None:
        for _ in range(times):
            signal.send(EVENT)

    return Way(name="blinker", run=run, counter=counter, calls_each=count)


def _pyee_sync(count: int) -> Way:
    from pyee import EventEmitter

    counter, emitter = Counter(), EventEmitter()
    for listener in _listeners(counter, count):
        emitter.add_listener(NAME, listener)

    def run(times: int) -> None:
        for _ in range(times):
            emitter.emit(NAME, EVENT)

    return Way(name="pyee", run=run, counter=counter, calls_each=count)


def _pymitter_sync(label: str, count: int, *, heard: str, wildcard: bool) -> Way:
    from pymitter import EventEmitter

    counter, emitter = Counter(), EventEmitter(wildcard=wildcard)
    for listener in _listeners(counter, count):
        emitter.on(heard, listener)

    def run(times: int) -> None:
        for _ in range(times):
            emitter.emit(NAME, EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)


# --- awaited -------------------------------------------------------------------------------------------------


def async_ways(count: int) -> Iterator[Way]:
    """One event to `count` async listeners, handled by all of them when it counts as done."""
    yield _cauce_async("cauce", count)
    yield _loop_async(count)
    if find_spec("blinker"):
        yield _blinker_async(count)
    if find_spec("pyee"):
        yield _pyee_async(count)
    if find_spec("pymitter"):
        yield _pymitter_async("pymitter", count, heard=NAME, wildcard=False)
    if find_spec("pyventus"):
        yield _pyventus(count)
    if find_spec("bubus"):
        yield _bubus(count)


def _cauce_async(label: str, count: int, *, pattern: str | None = None) -> Way:
    counter = Counter()
    bus = _bus(_async_listeners(counter, count), pattern=pattern)

    async def run(times: int) -> None:
        for _ in range(times):
            await bus.publish(EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)


def _loop_async(count: int) -> Way:
    counter = Counter()
    listeners = _async_listeners(counter, count)

    async def run(times: int) -> None:
        for _ in range(times):
            for listener in listeners:
                await listener(EVENT)

    return Way(name="bare await loop", run=run, counter=counter, calls_each=count)


def _blinker_async(count: int) -> Way:
    from blinker import Signal

    counter, signal = Counter(), Signal()
    for listener in _async_listeners(counter, count):
        signal.connect(listener, weak=False)

    async def run(times: int) -> None:
        for _ in range(times):
            await signal.send_async(EVENT)

    return Way(name="blinker send_async", run=run, counter=counter, calls_each=count)


def _in_bursts(emit: Callable[[], Any], counter: Counter, count: int) -> Callable[[int], Any]:
    """For libraries that start a task per listener and return: done when everything was counted."""

    async def run(times: int) -> None:
        wanted = counter.calls
        while times:
            burst = min(BURST, times)
            for _ in range(burst):
                emit()
            times -= burst
            wanted += burst * count
            while counter.calls < wanted:  # noqa: ASYNC110  # nothing but the count says that they are done
                await asyncio.sleep(0)

    return run


def _pyee_async(count: int) -> Way:
    from pyee.asyncio import AsyncIOEventEmitter

    counter, emitter = Counter(), AsyncIOEventEmitter()
    for listener in _async_listeners(counter, count):
        emitter.add_listener(NAME, listener)
    run = _in_bursts(partial(emitter.emit, NAME, EVENT), counter, count)
    return Way(name="pyee AsyncIO", run=run, counter=counter, calls_each=count)


def _pymitter_async(label: str, count: int, *, heard: str, wildcard: bool) -> Way:
    from pymitter import EventEmitter

    counter, emitter = Counter(), EventEmitter(wildcard=wildcard)
    for listener in _async_listeners(counter, count):
        emitter.on(heard, listener)

    async def run(times: int) -> None:
        for _ in range(times):
            await emitter.emit_async(NAME, EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)


def _pyventus(count: int) -> Way:
    from pyventus.events import AsyncIOEventEmitter, EventLinker

    class Linker(EventLinker):  # pyright: ignore[reportUntypedBaseClass]  # a peer, not installed for the checks
        """A registry of this contender's own; the library's is global."""

    counter, emitter = Counter(), AsyncIOEventEmitter(event_linker=Linker, debug=False)
    for listener in _async_listeners(counter, count):
        Linker.subscribe(NAME, event_callback=listener)
    run = _in_bursts(partial(emitter.emit, NAME, EVENT), counter, count)
    return Way(name="pyventus", run=run, counter=counter, calls_each=count)


def _bubus(count: int) -> Way:
    logging.getLogger("bubus").setLevel(logging.CRITICAL)
    from bubus import BaseEvent, EventBus

    class PlaylistChanged(BaseEvent):  # pyright: ignore[reportUntypedBaseClass]  # a peer, not installed for the checks
        playlist_id: str
        title: str

    counter, bus = Counter(), EventBus(name=f"Bench{count}", max_history_size=1)
    for at, listener in enumerate(_async_listeners(counter, count)):
        listener.__name__ = f"listener_{at}"
        bus.on(PlaylistChanged, listener)

    async def run(times: int) -> None:
        for _ in range(times):
            # Its events carry their own results, so there must be a new one each time.
            await bus.dispatch(PlaylistChanged(playlist_id="p-1", title="Songs for the road"))

    async def close() -> None:
        await bus.stop(clear=True)

    return Way(name="bubus", run=run, counter=counter, calls_each=count, close=close)


# --- patterns ------------------------------------------------------------------------------------------------


def pattern_ways(*, awaited: bool) -> Iterator[Way]:
    """One event to one listener, which named it exactly or by pattern."""
    ours = _cauce_async if awaited else _cauce_sync
    theirs = _pymitter_async if awaited else _pymitter_sync
    yield ours("cauce, exact", 1)
    yield ours("cauce, pattern", 1, pattern=PATTERN)
    if find_spec("pymitter"):
        yield theirs("pymitter, wildcard", 1, heard=PATTERN, wildcard=True)
