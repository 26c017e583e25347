"""Threads for blocking listeners. One that outlives its call's limit keeps running: Python cannot end it.

So it is remembered until it ends: no other attempt for the same event begins meanwhile, and readiness reports when too
few threads are left. They are not asyncio's own, which look up addresses: those stay free.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

from cauce.errors import CauceError

__all__ = ["SIZE", "ThreadStillRunsError", "in_thread", "stuck_threads", "too_few_threads"]

log = logging.getLogger("cauce.durable")

SIZE = 32
"""How many calls of blocking listeners run at once in a process; more wait for their turn."""


class ThreadStillRunsError(CauceError):
    """The thread of an earlier attempt still runs, and the listener was not called. Costs no attempt: the event waits."""


@dataclass(slots=True)
class _Call:
    who: str
    began: float
    abandoned: bool = False


_pool = ThreadPoolExecutor(SIZE, thread_name_prefix="cauce-blocking")
_calls: dict[Hashable, _Call] = {}
"""Calls whose thread has not ended, by what they are for."""


async def in_thread(call: Callable[[], object], who: str, *, purpose: Hashable = None) -> object:
    """Make the call in a thread, with this task's context variables; return what it returns, raise what it raises.

    Raises ThreadStillRunsError if a call for the same `purpose` has been abandoned and its thread has not ended.
    """
    key = object() if purpose is None else purpose
    before = _calls.get(key)
    if before is not None and not before.abandoned:
        key, before = object(), None  # of another service in this process, or the same event given to it twice
    if before is not None:
        seconds = time.monotonic() - before.began
        raise ThreadStillRunsError(f"the thread of an earlier attempt of {who} still runs, for {seconds:.0f} s now")
    mine = _calls[key] = _Call(who, time.monotonic())

    def ended(_: "Future[object]") -> None:
        _calls.pop(key, None)

    future: Future[object] = _pool.submit(copy_context().run, call)
    future.add_done_callback(ended)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.done():
            mine.abandoned = True
            log.warning(
                "%s: its thread still runs after its call was given up; until it ends, its event waits and is not tried "
                "again",
                who,
            )
        raise


def stuck_threads() -> list[str]:
    """Name the listeners whose threads outlived their calls, once for each thread."""
    return sorted(one.who for one in list(_calls.values()) if one.abandoned)


def too_few_threads() -> str | None:
    """Say so once half of the threads outlived their calls: only another process has new ones."""
    stuck = stuck_threads()
    if len(stuck) < SIZE // 2:
        return None
    return f"{len(stuck)} of {SIZE} threads of blocking listeners do not end: {', '.join(dict.fromkeys(stuck))}"
