"""Turns among the writers of one process: SQLite's own waiting is a lottery, which some writer loses under load."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from weakref import WeakKeyDictionary

__all__ = ["TURN_LIMIT_S", "Turns"]

TURN_LIMIT_S = 30.0


class Turns:
    """Who writes next to one SQLite file, in the order of asking; for every event loop of its own."""

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def wait(self) -> asyncio.Lock | None:
        """Wait for a turn; it ends when the lock is released. None after TURN_LIMIT_S: whoever has waited so long goes on
        without one, and gets SQLite's own error."""
        turn = self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        with suppress(TimeoutError):
            async with asyncio.timeout(TURN_LIMIT_S):
                await turn.acquire()
            return turn
        return None

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[None]:
        """A turn for as long as the block lasts."""
        turn = await self.wait()
        try:
            yield
        finally:
            if turn is not None:
                turn.release()
