"""The consumer's process."""

import asyncio
import os
import time
from statistics import median

from streaming.ways import WAYS

__all__ = ["consume"]


async def consume(way: str, url: str, count: int) -> None:
    """Report `ready`, and after `count` messages when the first and the last came, and the median of their ages."""
    ages: list[float] = []
    moments: list[float] = []
    one = WAYS[way](url)
    finished = asyncio.Event()

    async def listener(made_at: float) -> None:
        ages.append(made_at)
        if len(ages) in (1, count) or count < 5_000:
            moments.append(time.monotonic())
            if len(ages) == count:
                finished.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.consume(lambda: print("ready", flush=True), listener))
        await finished.wait()
        typical = median(at - age for at, age in zip(moments, ages, strict=False)) if len(moments) == count else 0.0
        print("done", moments[0], moments[-1], typical, flush=True)
        os._exit(0)  # redis-py may swallow a cancellation that comes while it acknowledges
