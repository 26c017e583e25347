"""A broker's good and bad times, told in few lines: the first failure, one summary a minute, the return.

An outage of an hour is about sixty lines, whatever the number of tries and lost events. Every lost event is counted;
the first few are named.
"""

import asyncio
import logging
import time
from collections.abc import Callable

__all__ = ["Outage"]

_SUMMARY_EVERY_S = 60.0
_NAMED = 5
"""How many lost events one outage names before it only counts them."""


class Outage:
    """A transport's Status for one service: what readiness answers and what the log says.

    The decisions are plain method calls with an injected clock (`monotonic`, seconds); `run` only adds the ticking.
    """

    def __init__(self, service: str, log: logging.Logger, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._log = log
        self._now = monotonic
        self._since: float | None = None
        self._said_at = 0.0
        self._lost = 0
        self._lost_unsaid = 0
        self._reported = asyncio.Event()
        self.reason: str | None = "not connected yet"
        """Why the broker cannot be used now; None while it can."""

    def up(self) -> None:
        """Connected, and every subscription acknowledged."""
        if self._since is not None:
            lost = f", {self._lost} events lost meanwhile" if self._lost else ""
            self._log.warning("%s: the broker is back after %.0f s%s", self._service, self._now() - self._since, lost)
        self._since = self.reason = None
        self._lost = self._lost_unsaid = 0
        self._reported.set()

    def down(self, reason: str, *, retry_in_s: float) -> None:
        """Not usable: `reason` says what was tried and what came of it. Repeats are summarised once a minute."""
        self.reason = reason
        if self._since is None:
            self._since = self._said_at = self._now()
            self._log.warning("%s: %s Trying again in %.1f s.", self._service, _sentence(reason), retry_in_s)
        self.tick()
        self._reported.set()

    def lost(self, event_id: str) -> None:
        """An event the broker did not take."""
        self._lost += 1
        if self._lost <= _NAMED:
            self._log.error("%s: event %s is lost: the broker did not take it", self._service, event_id)
        else:
            self._lost_unsaid += 1

    def tick(self) -> None:
        """Say the summary if one is due."""
        now = self._now()
        if self._since is not None and now - self._said_at >= _SUMMARY_EVERY_S:
            self._said_at = now
            self._log.warning(
                "%s: %s Down for %.0f s, still trying; %d events lost so far.",
                self._service, _sentence(self.reason or ""), now - self._since, self._lost,
            )  # fmt: skip
            self._lost_unsaid = 0

    def stopped(self) -> None:
        """The service stops: no more waiting for a first report."""
        self._reported.set()

    async def first_report(self, *, limit_s: float) -> None:
        """Wait for the first `up` or `down`, at most `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                await self._reported.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(1)
            self.tick()


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
