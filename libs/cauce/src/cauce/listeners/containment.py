"""A listener's trouble kept to its own call: what would end a task, or the program, is raised as an error instead."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, cast

from cauce.concurrency.cancellation import being_cancelled
from cauce.errors import CauceError

__all__ = ["as_error", "contained", "in_a_task_of_its_own"]


async def contained(work: Awaitable[object], who: str) -> None:
    """Await `work`, which is code of `who`; raise as an Exception whatever it raises.

    What really ends this task still does: its cancellation, Ctrl-C, and being closed with its event loop.
    """
    task = asyncio.current_task()
    try:
        await work
    except Exception:
        raise
    except BaseException as gone:
        if _ends_this(task, gone):
            raise
        raise as_error(gone, who) from gone


async def in_a_task_of_its_own(work: Coroutine[Any, Any, None], who: str) -> None:
    """Await `work` in a task of its own: who cancels the task that runs it ends neither the caller nor its commit."""
    await contained(asyncio.get_running_loop().create_task(contained(work, who)), who)


def as_error(gone: BaseException, who: str) -> Exception:
    """Return `gone` as an Exception, with where it was raised; a group keeps the errors in it."""
    made: Exception
    if isinstance(gone, Exception):
        return gone
    if isinstance(gone, BaseExceptionGroup):
        inner = cast("tuple[BaseException, ...]", gone.exceptions)
        made = ExceptionGroup(gone.message, [as_error(one, who) for one in inner])
    elif isinstance(gone, asyncio.CancelledError):
        made = CauceError(f"{who} awaited something that was cancelled, or cancelled itself")
    else:
        made = CauceError(f"{who} raised {type(gone).__name__}, which is no Exception: it would end the whole program")
    made.__cause__ = gone
    return made.with_traceback(gone.__traceback__)


def _ends_this(task: "asyncio.Task[Any] | None", gone: BaseException) -> bool:
    if isinstance(gone, asyncio.CancelledError):
        return being_cancelled()
    if isinstance(gone, GeneratorExit):
        return not _runs(task)  # closed from outside, with its event loop; otherwise somebody raised it
    return isinstance(gone, KeyboardInterrupt)


def _runs(task: "asyncio.Task[Any] | None") -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no event loop runs
        return False
