"""Log lines that a stranger can cause: the first of a kind at once, then a number once a minute."""

import asyncio
import logging

__all__ = ["FloodLog"]

_EVERY_S = 60.0


class FloodLog:
    """Reports what hostile clients do, so that the log cannot be made to grow as fast as they are.

    For one event loop. The texts must be few: each is a kind.
    """

    def __init__(self, log: logging.Logger, where: str) -> None:
        self._log = log
        self._where = where
        self._more: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def note(self, kind: str) -> None:
        if kind in self._more:
            self._more[kind] += 1
            return
        self._log.warning("%s: %s; the next ones are counted, and reported once a minute", self._where, kind)
        self._begin(kind)

    def close(self) -> None:
        """Report what was counted and not yet reported."""
        for kind in [*self._timers]:
            self._timers.pop(kind).cancel()
            self._say(kind)

    def _begin(self, kind: str) -> None:
        self._more[kind] = 0
        self._timers[kind] = asyncio.get_running_loop().call_later(_EVERY_S, self._report, kind)

    def _report(self, kind: str) -> None:
        del self._timers[kind]
        if self._say(kind):
            self._begin(kind)

    def _say(self, kind: str) -> bool:
        more = self._more.pop(kind)
        if more:
            self._log.warning("%s: %d more like this: %s", self._where, more, kind)
        return more > 0
