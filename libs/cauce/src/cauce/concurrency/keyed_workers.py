"""Many keys at once, one job per key at a time: a bounded set of workers over queues by key."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["KeyedWorkers"]

J = TypeVar("J", bound=Hashable)

TOGETHER = 100


class KeyedWorkers(Generic[J]):
    """Runs `work` for every job: jobs of one key in the order they came, `at_once` keys concurrently.

    Jobs of different keys for which `group` returns the same value are passed to `work` together, up to a hundred; a
    job for which it returns None is passed alone. Holds `bound` jobs at most; `submit` waits for room. `work` returns the
    jobs that it is not done with, and in how many seconds each is to be passed to it again: its key waits meanwhile, and
    no worker does. `work` must not raise. Jobs that are `restrained` when their turn comes are passed alone, and
    `restrained_at_once` of them run concurrently at most: the other workers are for the others.
    """

    def __init__(
        self,
        work: Callable[[Sequence[J]], Awaitable[Mapping[J, float] | None]],
        *,
        group: Callable[[J], Hashable | None],
        at_once: int,
        bound: int,
        restrained: Callable[[J], bool] = lambda _job: False,
        restrained_at_once: int = 1,
    ) -> None:
        self._work = work
        self._group = group
        self._restrained = restrained
        self._restrained_at_once = restrained_at_once
        self._held_back: deque[Hashable] = deque()
        """Keys whose next jobs are restrained and have no room yet."""
        self._restrained_now: set[Hashable] = set()
        self._at_once = at_once
        self._room = asyncio.Semaphore(bound)
        self._queues: dict[Hashable, deque[J]] = {}
        self._ready: asyncio.Queue[deque[Hashable]] = asyncio.Queue()
        self._groups: dict[Hashable, deque[Hashable]] = {}
        """Keys whose next jobs may be passed on together; each is in `_ready` while it is not empty."""
        self._unfinished = 0
        self._running = 0
        self._ending = False

    @property
    def unfinished(self) -> int:
        """Jobs accepted and not done; after `end`, only those that run."""
        return self._running if self._ending else self._unfinished

    def end(self) -> None:
        """Start no further job. What runs may finish; what has not started is left."""
        self._ending = True

    def busy(self, key: Hashable) -> bool:
        return key in self._queues

    async def submit(self, key: Hashable, job: J) -> None:
        """Accept a job; waits while there is no room."""
        await self._room.acquire()
        self._unfinished += 1
        waiting = self._queues.get(key)
        if waiting is None:
            self._queues[key] = deque((job,))
            self._offer(key)
        else:
            waiting.append(job)

    async def run(self) -> None:
        """Work until cancelled; a job that is cancelled in the middle is not done."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._at_once):
                tasks.create_task(self._worker())

    def _offer(self, key: Hashable) -> None:
        """Queue the next job of this key for a worker."""
        job = self._queues[key][0]
        if self._restrained(job):
            self._held_back.append(key)
            self._offer_restrained()
            return
        group = self._group(job)
        keys = deque[Hashable]() if group is None else self._groups.setdefault(group, deque())
        if not keys:
            self._ready.put_nowait(keys)
        keys.append(key)

    def _offer_restrained(self) -> None:
        while self._held_back and len(self._restrained_now) < self._restrained_at_once:
            key = self._held_back.popleft()
            self._restrained_now.add(key)
            self._ready.put_nowait(deque((key,)))

    async def _worker(self) -> None:
        while not self._ending:
            offered = await self._ready.get()
            keys = [offered.popleft() for _ in range(min(TOGETHER, len(offered)))]
            if offered:
                self._ready.put_nowait(offered)
            self._running += len(keys)
            jobs = {key: self._queues[key][0] for key in keys}
            again: Mapping[J, float] | None = None
            try:
                again = await self._work(list(jobs.values()))
            finally:
                self._running -= len(keys)
                self._restrained_now.difference_update(keys)
                for key, job in jobs.items():
                    if again and job in again:
                        asyncio.get_running_loop().call_later(again[job], self._offer, key)
                    else:
                        self._done(key)
                self._offer_restrained()

    def _done(self, key: Hashable) -> None:
        waiting = self._queues[key]
        waiting.popleft()
        self._unfinished -= 1
        self._room.release()
        if waiting:
            self._offer(key)
        else:
            del self._queues[key]
