"""Waiting for what counters say."""

import asyncio
from collections.abc import Callable

__all__ = ["until"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():  # noqa: ASYNC110  # counters of loops; nothing wakes for them
            await asyncio.sleep(0.001)
