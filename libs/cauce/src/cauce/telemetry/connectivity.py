"""Whether the broker and the database can be used: up, down, and why. Kept for readiness, reported to the log."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from cauce.telemetry.outage_log import Kept, Line, OutageLog

__all__ = ["BrokerStatus", "DatabaseStatus", "LoopStatus", "no_answer"]

_NOT_YET = "not subscribed yet"
_KEPT_LIMIT_S = 1.0


def no_answer(error: BaseException) -> str:
    """Why the database cannot be used, for readiness."""
    return f"the database does not answer ({type(error).__name__})"


class BrokerStatus:
    """The Status a service gives its transport: keeps the reason for readiness, and writes the log.

    Several loops over one broker each report to a `part` of their own; all must be up. `kept` asks what waits in
    the outbox, if there is one; `sent` says how many events the broker has taken so far.
    """

    def __init__(
        self,
        who: str,
        log: logging.Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
        kept: Callable[[], Awaitable[Kept]] | None = None,
        sent: Callable[[], int] = lambda: 0,
    ) -> None:
        self._lines = OutageLog(who)
        self._log = log
        self._clock = clock
        self._kept = kept
        self._sent = sent
        self._sent_before = 0
        self._unlogged: list[Line] = []
        """Lines that wait for the figures of the outbox."""
        self._unlogged_added = asyncio.Event()
        self._reason: str | None = _NOT_YET
        self._reported = asyncio.Event()
        self._parts: dict[str, str | None] = {}

    def part(self, name: str) -> "LoopStatus":
        """The status of one loop; until it has reported, the service is not ready."""
        self._parts[name] = _NOT_YET
        return LoopStatus(self, name)

    def report(self, name: str, reason: str | None, *, retry_in_s: float = 0.0) -> None:
        """Take the report of a part: up (None), or down for a reason."""
        self._parts[name] = reason
        if reason is not None:
            self.down(reason, retry_in_s=retry_in_s)
        elif not any(self._parts.values()):
            self.up()
        elif self._reported.is_set():
            self._reason = next(one for one in self._parts.values() if one is not None).partition(" → ")[0]

    @property
    def reason(self) -> str | None:
        """Why the service is not subscribed, in a few words; None while it is."""
        return self._reason

    def up(self) -> None:
        self._reason = None
        self._write(self._lines.up(self._clock()))
        self._mark_reported()

    def down(self, reason: str, *, retry_in_s: float) -> None:
        if self._reason in (None, _NOT_YET):
            self._sent_before = self._sent()
        self._reason = reason.partition(" → ")[0]
        self._write(self._lines.down(self._clock(), reason, retry_in_s=retry_in_s))
        self._mark_reported()

    def lost(self, event_id: str) -> None:
        """Also while the broker seems to be there: it may refuse a publisher and serve a subscriber."""
        self._write(self._lines.lost(self._clock(), event_id))

    async def first_report(self, *, limit_s: float) -> None:
        """Return at the first report, good or bad, or after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                await self._reported.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(5.0):
                        await self._unlogged_added.wait()
                except TimeoutError:
                    self._write(self._lines.due(self._clock()))
                self._unlogged_added.clear()
                if self._unlogged:
                    self._log_lines(await self._ask_outbox())
        finally:
            self.stopped()

    def stopped(self) -> None:
        """The transport no longer runs. A second call does nothing more."""
        self._reason = _NOT_YET
        self._reported = asyncio.Event()
        self._parts = dict.fromkeys(self._parts, _NOT_YET)
        self._log_lines(None)
        for line in self._lines.stopped(self._clock()):
            self._log.log(line.level, "%s", line.text)

    def _write(self, lines: Iterable[Line]) -> None:
        """At once, or in their order as soon as the outbox has been asked."""
        self._unlogged += lines
        if self._kept is None:
            self._log_lines(None)
        elif self._unlogged:
            self._unlogged_added.set()

    def _log_lines(self, kept: Kept | None) -> None:
        unlogged, self._unlogged = self._unlogged, []
        for line in unlogged:
            text = line.text if self._kept is None else line.with_kept(kept, self._sent() - self._sent_before)
            self._log.log(line.level, "%s", text)
        self._mark_reported()

    def _mark_reported(self) -> None:
        if not self._unlogged and self._reason != _NOT_YET:
            self._reported.set()

    async def _ask_outbox(self) -> Kept | None:
        assert self._kept is not None  # noqa: S101  # otherwise nothing waits for its answer
        try:
            async with asyncio.timeout(_KEPT_LIMIT_S):
                return await self._kept()
        except Exception:  # the database does not answer either, which DatabaseStatus reports
            return None


class LoopStatus:
    """The Status of one of several loops."""

    def __init__(self, whole: BrokerStatus, name: str) -> None:
        self._whole = whole
        self._name = name

    def up(self) -> None:
        self._whole.report(self._name, None)

    def down(self, reason: str, *, retry_in_s: float) -> None:
        self._whole.report(self._name, reason, retry_in_s=retry_in_s)


class DatabaseStatus:
    """One status for all loops of a service that need its database: they fail together, and it is logged once."""

    def __init__(self, who: str, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = OutageLog(f"{who}: database")
        self._log = log
        self._clock = clock

    def down(self, error: BaseException, *, retry_in_s: float) -> None:
        """A loop could not do its work, and tries again. Costs no attempt and loses nothing."""
        reason = f"it does not serve us ({type(error).__name__}); nothing is lost → cauce doctor"
        self._write(self._lines.down(self._clock(), reason, retry_in_s=retry_in_s))

    def up(self) -> None:
        """It answers."""
        self._write(self._lines.up(self._clock()))

    def _write(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._log.log(line.level, "%s", line.text)
