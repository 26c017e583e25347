"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

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
