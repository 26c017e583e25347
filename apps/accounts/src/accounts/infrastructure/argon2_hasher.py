"""Password hashes by argon2id, in a bounded pool of threads."""

import asyncio
import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import argon2

from accounts.application import HashingOverloadedError
from accounts.domain import Password

__all__ = ["Argon2Hasher"]

MEMORY_COST_KIB: Final = 19 * 1024
TIME_COST: Final = 2
"""OWASP's least for argon2id with one lane. Raising them is safe at any time: each hash says how it was made."""

WAITING_LIMIT: Final = 1000


class Argon2Hasher:
    """argon2id off the event loop, in as many threads as processors and `memory_mib` allow."""

    def __init__(self, *, memory_mib: int) -> None:
        self._argon2 = argon2.PasswordHasher(
            time_cost=TIME_COST, memory_cost=MEMORY_COST_KIB, parallelism=1, type=argon2.Type.ID
        )
        threads = max(1, min(os.cpu_count() or 1, memory_mib * 1024 // MEMORY_COST_KIB))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2", initializer=_give_way_to_the_event_loop)
        self._waiting = 0

    async def hash(self, password: Password, *, salt: bytes | None = None) -> str:
        """The encoded hash. Raises HashingOverloadedError when WAITING_LIMIT calls wait already."""
        if self._waiting >= WAITING_LIMIT:
            raise HashingOverloadedError
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: self._argon2.hash(password, salt=salt))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Give the threads back; what was still waiting is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _give_way_to_the_event_loop() -> None:
    """On Linux each thread has a priority of its own; elsewhere this would be the whole process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
