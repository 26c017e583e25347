"""Pauses of a loop that polls or reconnects; the delays of a listener's retries are in `listeners/retry.py`.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import asyncio
from collections.abc import Callable
from random import random

__all__ = ["HALF", "PLUS_MINUS_20_PERCENT", "Backoff", "Jitter"]

Jitter = tuple[float, float]
"""The smallest and the largest factor by which a pause is multiplied."""

PLUS_MINUS_20_PERCENT: Jitter = (0.8, 1.2)
HALF: Jitter = (0.5, 1.0)


class Backoff:
    """The pause of one loop, in seconds: `first_s` at first, doubled by `grow` up to `cap_s`, and then scattered.

    Nothing grows by itself: the loop knows whether it was idle, had work or failed, and calls `grow` or `reset`.
    """

    __slots__ = ("_cap_s", "_first_s", "_jitter", "_nominal_s", "_random", "_wake", "pause_s")

    def __init__(
        self,
        first_s: float,
        cap_s: float,
        *,
        jitter: Jitter = PLUS_MINUS_20_PERCENT,
        random: Callable[[], float] = random,
    ) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._jitter = jitter
        self._random = random
        self._wake = asyncio.Event()
        self._set(first_s)

    def reset(self) -> None:
        """Make the next pause the first one again."""
        self._set(self._first_s)

    def grow(self, *, least_s: float = 0.0, cap_s: float | None = None) -> None:
        """Double the next pause, up to the cap. `least_s` and `cap_s`: other bounds, this time."""
        self._set(min(self._cap_s if cap_s is None else cap_s, max(least_s, self._nominal_s * 2)))

    async def pause(self) -> None:
        """Wait for `pause_s`. Returns earlier if `wake` is called meanwhile, or was called since the last pause."""
        try:
            async with asyncio.timeout(self.pause_s):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    def wake(self) -> None:
        """End this pause, or the next one if there is none now."""
        self._wake.set()

    def _set(self, nominal_s: float) -> None:
        self._nominal_s = nominal_s
        least, most = self._jitter
        self.pause_s = nominal_s * (least + (most - least) * self._random())
        """How long the next pause is."""
