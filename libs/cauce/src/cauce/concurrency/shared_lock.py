"""A lock that many hold at once, or one alone."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["SharedLock"]


class SharedLock:
    """Any number of `shared` holders at a time, or one `exclusive` holder. Exclusive work has priority: once it waits,
    no shared work starts until it finishes."""

    def __init__(self) -> None:
        self._running = 0
        self._unshared = asyncio.Event()
        self._unshared.set()
        self._open = asyncio.Event()
        self._open.set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def shared(self) -> AsyncGenerator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._running += 1
        self._unshared.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._unshared.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncGenerator[None]:
        async with self._turn:
            self._open.clear()
            try:
                await self._unshared.wait()
                yield
            finally:
                self._open.set()
