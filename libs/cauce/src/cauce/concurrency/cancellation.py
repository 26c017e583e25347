"""Finishing work that must not stop halfway."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["being_cancelled", "to_the_end"]

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Let `work` finish however often this task is cancelled meanwhile; then raise the cancellation.

    For commits, rollbacks and giving connections back, each of which has a time limit of its own.
    """
    task = asyncio.ensure_future(work)  # noqa: TID251  # owned by this frame until it is done
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # retrieved; the caller gets the cancellation
        raise


def being_cancelled() -> bool:
    """Whether this task is being cancelled. If not, a CancelledError came from something it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
