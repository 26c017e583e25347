"""By Cauce: by class or by pattern, with and without an envelope."""

from collections.abc import Callable, Sequence
from typing import Any

from cauce import Bus, Context, DomainEvent, on
from rounds import Counter, Way

from dispatching.counting import EVENT, PlaylistUpdated, async_counting_listeners, counting_listeners

__all__ = ["awaited", "plain", "plain_asked"]


def _bus(listeners: Sequence[Callable[..., Any]], *, pattern: str | None = None) -> Bus:
    def register(at: int, listener: Any) -> Any:
        name = f"listener-{at}"
        if pattern is None:
            return on(PlaylistUpdated, name=name)(listener)
        return on(pattern, kind=DomainEvent, name=name)(listener)

    return Bus([register(at, listener) for at, listener in enumerate(listeners)])


def plain(label: str, count: int, *, pattern: str | None = None) -> Way:
    counter = Counter()
    bus = _bus(counting_listeners(counter, count), pattern=pattern)

    def run(times: int) -> None:
        for _ in range(times):
            bus.emit(EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)


def plain_asked(count: int) -> Way:
    """The last listener asks for its Context, so every event gets an id, a time and an envelope."""
    counter = Counter()

    def curious(event: PlaylistUpdated, context: Context) -> None:
        counter.calls += 1

    bus = _bus([*counting_listeners(counter, count - 1), curious])

    def run(times: int) -> None:
        for _ in range(times):
            bus.emit(EVENT)

    return Way(name="cauce, envelope made", run=run, counter=counter, calls_each=count)


def awaited(label: str, count: int, *, pattern: str | None = None) -> Way:
    counter = Counter()
    bus = _bus(async_counting_listeners(counter, count), pattern=pattern)

    async def run(times: int) -> None:
        for _ in range(times):
            await bus.publish(EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)
