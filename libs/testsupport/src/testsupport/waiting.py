"""Waiting for what other processes and tasks do: up to a limit that is no promise, but the end of patience."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["eventually", "until"]

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], *, within_s: float = 60.0, what: str = "") -> T:
    """The first true answer; fails with the last one after `within_s`, which is no promise but the end of patience: a
    busy machine takes its time."""
    deadline = time.monotonic() + within_s
    pause_s = 0.01
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or condition}; last answer {answer!r}"
        time.sleep(pause_s)
        pause_s = min(0.1, pause_s * 1.3)  # to ask may cost more than what is waited for


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str = "", *, within_s: float = 60.0) -> None:
    """Wait, in an event loop, until the condition is true; fail after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or condition}"
        await asyncio.sleep(0.005)
