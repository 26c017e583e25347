"""The end of a process, bounded: whatever does not end by itself is left, and named in one line."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from cauce.concurrency.still_running import still_running

__all__ = ["ProcessEnd"]

_TO_SAY_IT_S = 1.0


class ProcessEnd:
    """Once begun, the process has ended `grace_s` later: by itself, or by `os._exit`, which asks nobody.

    A thread of its own watches, so that a blocked event loop, a listener that swallows its cancellation and a thread
    that never returns cannot stop it. Only for a process that belongs to one service.
    """

    def __init__(self, name: str, *, grace_s: float, exit_code: int, log: logging.Logger) -> None:
        self._name = name
        self._grace_s = grace_s
        self._exit_code = exit_code
        self._log = log
        self._begun, self._over = threading.Event(), threading.Event()
        self._threads_before = threading.enumerate()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop whose tasks are named, once there is one."""
        threading.Thread(target=self._watch, name="cauce end", daemon=True).start()

    def begin(self) -> None:
        """From now on `grace_s` are left. Safe to call again, and from a signal handler."""
        self._begun.set()

    def over(self) -> None:
        """It ends by itself now, unless a thread is left that Python would wait for."""
        left = (
            one
            for one in threading.enumerate()
            if not one.daemon and one not in self._threads_before and not _idle(one)
        )
        if not any(one is not threading.current_thread() for one in left):
            self._over.set()
            self._begun.set()

    def _watch(self) -> None:
        self._begun.wait()
        if self._over.wait(self._grace_s):
            return
        _briefly(self._say)
        os._exit(self._exit_code)

    def _say(self) -> None:
        where = "nothing that can be named"
        if self.loop is not None:
            where = still_running(self.loop, threads_before=self._threads_before)
        self._log.critical(
            "%s: did not end within %.3g s, still running: %s; the process exits now, what is not committed did not "
            "happen",
            self._name, self._grace_s, where,
        )  # fmt: skip


def _idle(thread: threading.Thread) -> bool:
    """Whether it is a thread of a pool that waits for work: such a one ends with Python."""
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage]  # documented
    return (
        frame is not None
        and frame.f_code.co_name == "_worker"
        and frame.f_globals["__name__"] == "concurrent.futures.thread"
    )


def _briefly(say: Callable[[], None]) -> None:
    """Say it, unless the log itself is what is stuck."""

    def flushed() -> None:
        say()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()

    thread = threading.Thread(target=flushed, name="cauce end, last words", daemon=True)
    thread.start()
    thread.join(_TO_SAY_IT_S)
