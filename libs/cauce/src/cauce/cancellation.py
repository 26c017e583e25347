"""Finishing what must not be left half done."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["to_the_end"]

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Let `work` finish even if this task is cancelled meanwhile; the cancellation goes on afterwards.

    For commits, rollbacks and giving connections back, each of which has a time limit of its own.
    """
    task = asyncio.ensure_future(work)  # noqa: TID251  # owned by this frame until it is done
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen; the cancellation is what the caller gets
        raise
