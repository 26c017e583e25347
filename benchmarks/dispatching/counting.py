"""The event, and listeners that count."""

import asyncio
from collections.abc import Callable
from typing import Any

from cauce import DomainEvent
from rounds import Counter

__all__ = ["EVENT", "NAME", "PATTERN", "PlaylistUpdated", "async_counting_listeners", "counting_listeners", "in_bursts"]

NAME = "com.clonespotify.playlist-updated"
PATTERN = "com.clonespotify.*"

BURST = 100
"""Libraries that start a task per event are waited for once in so many, which is in their favour."""


class PlaylistUpdated(DomainEvent, name=NAME):
    playlist_id: str
    title: str


EVENT = PlaylistUpdated(playlist_id="p-1", title="Songs for the road")


def counting_listeners(counter: Counter, count: int) -> list[Callable[[Any], None]]:
    def made() -> Callable[[Any], None]:
        def listener(event: Any) -> None:
            counter.calls += 1

        return listener

    return [made() for _ in range(count)]


def async_counting_listeners(counter: Counter, count: int) -> list[Callable[[Any], Any]]:
    def made() -> Callable[[Any], Any]:
        async def listener(event: Any) -> None:
            counter.calls += 1

        return listener

    return [made() for _ in range(count)]


def in_bursts(emit: Callable[[], Any], counter: Counter, count: int) -> Callable[[int], Any]:
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
