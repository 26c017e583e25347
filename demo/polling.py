"""Asking until an answer is good."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["ask_until"]

T = TypeVar("T")


async def ask_until(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, limit_s: float) -> T:
    """Ask again until the answer is good; after `limit_s` the last answer, good or not."""
    deadline = time.monotonic() + limit_s
    answer = await ask()
    while not good(answer) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        answer = await ask()
    return answer
