"""Work side by side, and now and then a piece that has to be alone."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["SharedLock"]


class SharedLock:
    """Any number of pieces run at once, except while one is alone. Whoever wants to be alone goes first: no new
    piece begins before he is done."""

    def __init__(self) -> None:
        self._running = 0
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._open = asyncio.Event()
        self._open.set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def shared(self) -> AsyncGenerator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._running += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._nobody.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncGenerator[None]:
        async with self._turn:
            self._open.clear()
            try:
                await self._nobody.wait()
                yield
            finally:
                self._open.set()
