"""Many keys at once, one key never: a bounded set of workers over queues by key."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["PerKey"]

J = TypeVar("J")


class PerKey(Generic[J]):
    """Runs `work` for every job: jobs of one key in the order they came, `at_once` keys side by side.

    Holds `bound` jobs at most; whoever submits more waits. `work` must not raise.
    """

    def __init__(self, work: Callable[[J], Awaitable[None]], *, at_once: int, bound: int) -> None:
        self._work = work
        self._at_once = at_once
        self._room = asyncio.Semaphore(bound)
        self._queues: dict[Hashable, deque[J]] = {}
        self._ready: asyncio.Queue[Hashable] = asyncio.Queue()
        self._unfinished = 0

    @property
    def unfinished(self) -> int:
        return self._unfinished

    def busy(self, key: Hashable) -> bool:
        return key in self._queues

    async def submit(self, key: Hashable, job: J) -> None:
        """Accept a job; waits while there is no room."""
        await self._room.acquire()
        self._unfinished += 1
        waiting = self._queues.get(key)
        if waiting is None:
            self._queues[key] = deque((job,))
            self._ready.put_nowait(key)
        else:
            waiting.append(job)

    async def run(self) -> None:
        """Work until cancelled; a job that is cancelled in the middle is not done."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._at_once):
                tasks.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            waiting = self._queues[key]
            try:
                await self._work(waiting[0])
            finally:
                waiting.popleft()
                self._unfinished -= 1
                self._room.release()
                if waiting:
                    self._ready.put_nowait(key)
                else:
                    del self._queues[key]
