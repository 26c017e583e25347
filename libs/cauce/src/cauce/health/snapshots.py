"""What a service's event loop tells the health port, which has a thread and a loop of its own and never waits for it."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from cauce.health.status import STATUS_LIMIT_S, Status
from cauce.service.service import Service

__all__ = ["Snapshots"]

_MOST_S = 1.0
_OF_BLOCKED = 0.1
"""So often, of the time after which the loop counts as blocked, it says that it turns."""
_FRESH_WITHIN_S = 0.1
"""So long is the service's loop waited for; what it said last will do after that."""
_DATABASE_EVERY_S = 1.0
_ASKED_LATELY_S = 30.0
"""What needs attention is read from the database only while somebody asks for it."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """One turn of the service's loop. Never changed, so that another thread may read it."""

    taken_at: float
    not_ready: Mapping[str, str]
    needs_attention: Mapping[str, str]
    counters: Mapping[str, int]


class Snapshots:
    """The `Answers` of a service to another thread.

    Made in the event loop of the service: for each question, and at least once a second, so that it shows when that loop
    does not turn. `/status` is asked there too. One question of each kind at a time, given up when nothing answers.
    """

    def __init__(self, service: Service, *, blocked_after_s: float) -> None:
        self.name = service.name
        self._service = service
        self._blocked_after_s = blocked_after_s
        self._loop = asyncio.get_running_loop()
        self._status = Status(service)
        self._database: str | None = None
        self._asked_at = -_ASKED_LATELY_S
        self._question: Future[tuple[int, object]] | None = None
        self._refreshing: Future[None] | None = None
        self._snapshot = self._taken()

    # In the service's loop

    async def publish(self) -> None:
        """Tell how the service is, until cancelled."""
        every_s = min(_MOST_S, self._blocked_after_s * _OF_BLOCKED)
        while True:
            await self._refresh()
            await asyncio.sleep(every_s)

    async def _refresh(self) -> None:
        self._snapshot = self._taken()

    async def watch_database(self) -> None:
        """Ask the database whether it answers, until cancelled; not while the service does that itself."""
        while True:
            if self._service.database_seen() is None:
                await self.ask_database()
            await asyncio.sleep(_DATABASE_EVERY_S)

    async def ask_database(self) -> None:
        """Ask it now, within the time that the store takes at most. A service that does not run asks nothing."""
        try:
            self._database = await self._service.store.problem() if self._service.running else None
        except Exception as error:  # whatever a driver raises: a page of the health port must not end the service
            self._database = f"the database cannot be asked ({type(error).__name__})"
        self._snapshot = self._taken()

    def _taken(self) -> _Snapshot:
        not_ready = self._service.readiness()
        seen = self._service.database_seen()
        if (problem := self._database if seen is None else seen.problem) is not None:
            not_ready = {**not_ready, "database": problem}
        asked_lately = time.monotonic() - self._asked_at < _ASKED_LATELY_S
        attention = self._status.needs_attention() if asked_lately and self._service.running else {}
        counters = {"unfinished": self._service.unfinished, **dict(self._service.counters)}
        return _Snapshot(time.monotonic(), not_ready, attention, counters)

    # In the thread of the health port

    def blocked_s(self) -> float | None:
        since_s = time.monotonic() - self._snapshot.taken_at
        return since_s if since_s > self._blocked_after_s else None

    async def readiness(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        self._asked_at = time.monotonic()
        await self._wait_for_a_fresh_one()
        snapshot, blocked_s = self._snapshot, self.blocked_s()
        if blocked_s is None:
            return snapshot.not_ready, snapshot.needs_attention
        blocked = {"event loop": f"has not turned for {blocked_s:.0f} s"}
        return {**snapshot.not_ready, **blocked}, snapshot.needs_attention

    async def counters(self) -> Mapping[str, int]:
        await self._wait_for_a_fresh_one()
        return self._snapshot.counters

    async def _wait_for_a_fresh_one(self) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.run_coroutine_threadsafe(self._refresh(), self._loop)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FRESH_WITHIN_S):
                await asyncio.shield(asyncio.wrap_future(self._refreshing))

    async def status(self) -> tuple[int, object]:
        if self.blocked_s() is not None:
            return 503, {"error": "the service's event loop does not answer"}
        if self._question is None or self._question.done():
            self._question = asyncio.run_coroutine_threadsafe(self._status.answer(), self._loop)
        try:
            async with asyncio.timeout(STATUS_LIMIT_S + 1):
                return await asyncio.shield(asyncio.wrap_future(self._question))
        except TimeoutError:
            return 503, {"error": "the service's event loop does not answer"}
