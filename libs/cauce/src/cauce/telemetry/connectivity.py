"""What the log says while the broker is away: little, but enough.

One line when it begins, one a minute while it lasts, one when it is over. Where events are kept meanwhile, it says how
many; where they are lost, they are named five times, then counted. A broker that comes and goes every second costs no more lines than one that stays away.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

__all__ = ["DatabaseTrouble", "Kept", "Line", "Outage", "OutageLog", "OutagePart"]

_SUMMARY_EVERY_S = 60.0
_NEW_REASON_AFTER_S = 10.0
_BEGINNINGS_A_MINUTE = 3
_NAMED_LOSSES = 5
_NOT_YET = "not subscribed yet"
_KEPT_LIMIT_S = 1.0


class Kept(NamedTuple):
    """What waits in the outbox, and since when."""

    waiting: int
    oldest_s: float | None


class Line(NamedTuple):
    level: int
    text: str
    at: int | None = None
    """Where in the text it is said what the outbox keeps, if anywhere."""
    over: bool = False
    """It is the line that ends an outage."""

    def with_kept(self, kept: Kept | None, caught_up: int) -> str:
        """The whole line. `kept` is None if the outbox does not tell; `caught_up`: sent since the outage began."""
        if self.at is None:
            return self.text
        said = _after(kept, caught_up) if self.over else _meanwhile(kept)
        return f"{self.text[: self.at]}{said}{self.text[self.at :]}"


class OutageLog:
    """Turns reports into log lines. Holds no clock: `now` is seconds on any clock that does not jump.

    A reason may end with a hint after an arrow, `no Redis at 127.0.0.1:6379 (refused) → is it running?`,
    which is put at the end of the line. At most 3 outages a minute are announced; the others are counted and
    told with the next one, or announced once they last.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._since: float | None = None
        self._announced: str | None = None  # the reason the log gave last
        self._last_line = 0.0
        self._attempts = 0
        self._unannounced = 0
        self._beginnings: deque[float] = deque(maxlen=_BEGINNINGS_A_MINUTE)
        self._named: deque[float] = deque(maxlen=_NAMED_LOSSES)
        self._named_in_outage = 0
        self._lost = 0
        self._lost_untold = 0
        self._last_loss = 0.0

    def down(self, now: float, reason: str, *, retry_in_s: float) -> list[Line]:
        """One failed attempt."""
        if self._since is None:
            self._since, self._announced, self._attempts = now, None, 0
            if not self._lost_untold and now - self._last_loss > _SUMMARY_EVERY_S:
                self._lost = 0  # told by name, long ago
        self._attempts += 1
        if self._announced is None:
            if _full_within_a_minute(self._beginnings, now):
                return []
            self._beginnings.append(now)
        else:
            quiet_s = now - self._last_line
            changed = reason != self._announced and quiet_s >= _NEW_REASON_AFTER_S
            if not changed and quiet_s < _SUMMARY_EVERY_S:
                return []
        return self._tell_outage(now, reason, f" Trying again in {retry_in_s:.1f} s.")

    def up(self, now: float) -> list[Line]:
        """Connected and subscribed. Silent if that is no news."""
        if self._since is None:
            return []
        since, self._since = self._since, None
        self._named_in_outage = 0
        if self._announced is None:
            self._unannounced += 1
            return []
        text = f"back after {_duration(now - since)}"
        return [self._line(now, logging.INFO, f"{text}{self._losses(', ')}", after=text, over=True)]

    def lost(self, now: float, event_id: str) -> list[Line]:
        """One event nobody will hear."""
        self._lost += 1
        self._last_loss = now
        if self._named_in_outage >= _NAMED_LOSSES or _full_within_a_minute(self._named, now):
            self._lost_untold += 1
            return []
        self._named.append(now)
        self._named_in_outage += 1
        last = self._named_in_outage == _NAMED_LOSSES
        rest = ". Further ones are only counted" if last else ""
        text = f"{self._who}: event {event_id} is lost: the broker did not take it{rest}"
        return [Line(logging.WARNING, text)]

    def due(self, now: float) -> list[Line]:
        """To be asked now and then: losses that no other line has told."""
        quiet_s = now - max(self._last_line, self._named[-1] if self._named else 0.0)
        if self._since is None and self._lost_untold and quiet_s >= _SUMMARY_EVERY_S:
            self._named_in_outage = 0
            return [self._line(now, logging.WARNING, self._losses("").lstrip())]
        return []

    def stopped(self, now: float) -> list[Line]:
        """The service stops listening: say how it stood, and begin anew."""
        since, self._since = self._since, None
        self._named_in_outage = 0
        if since is not None and self._announced is not None:
            text = f"stopped; the broker has been away for {_duration(now - since)}{self._losses(', ')}"
            return [self._line(now, logging.WARNING, text)]
        if self._lost_untold:
            return [self._line(now, logging.WARNING, self._losses(""))]
        return []

    def _tell_outage(self, now: float, reason: str, retry: str) -> list[Line]:
        self._announced = reason
        what, _, hint = reason.partition(" → ")
        assert self._since is not None  # noqa: S101  # for the type checker
        lasting = ""
        if self._attempts > 1:
            attempts = f"{self._attempts} attempts in {_duration(now - self._since)}"
            lasting = f" {attempts}{self._losses(', ', told=False)}."
        if self._unannounced:
            lasting += f" {self._unannounced} short outages before."
            self._unannounced = 0
        arrow = f" → {hint}" if hint else ""
        return [self._line(now, logging.WARNING, f"{what}.{lasting}{retry}{arrow}", after=f"{what}.")]

    def _losses(self, separator: str, *, told: bool = True) -> str:
        """How many were lost since the last `back`, if any; `told` starts the next count."""
        lost = self._lost
        self._lost_untold = 0
        if told:
            self._lost = 0
        return f"{separator}{_events(lost)} lost" if lost else ""

    def _line(self, now: float, level: int, text: str, *, after: str | None = None, over: bool = False) -> Line:
        """`after`: the beginning of the text that is followed by what is kept."""
        self._last_line = now
        who = f"{self._who}: "
        return Line(level, f"{who}{text}", None if after is None else len(who) + len(after), over)


class Outage:
    """The Status a service hands its transport: keeps the reason for readiness, and writes the log.

    Several loops over one broker each report to a `part` of their own: all must be up. `kept` tells what waits in the
    outbox, if there is one, and `sent` how many events the broker has taken so far.
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
        self._unsaid: list[Line] = []
        """Lines that wait for what the outbox says."""
        self._news = asyncio.Event()
        self._reason: str | None = _NOT_YET
        self._reported = asyncio.Event()
        self._parts: dict[str, str | None] = {}

    def part(self, name: str) -> "OutagePart":
        """The status of one loop; until it has reported, the service is not ready."""
        self._parts[name] = _NOT_YET
        return OutagePart(self, name)

    def report(self, name: str, reason: str | None, *, retry_in_s: float = 0.0) -> None:
        """What a part has found: up (None), or down for a reason."""
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
        self._said()

    def down(self, reason: str, *, retry_in_s: float) -> None:
        if self._reason in (None, _NOT_YET):
            self._sent_before = self._sent()
        self._reason = reason.partition(" → ")[0]
        self._write(self._lines.down(self._clock(), reason, retry_in_s=retry_in_s))
        self._said()

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
                        await self._news.wait()
                except TimeoutError:
                    self._write(self._lines.due(self._clock()))
                self._news.clear()
                if self._unsaid:
                    self._say(await self._ask())
        finally:
            self.stopped()

    def stopped(self) -> None:
        """The transport no longer runs. A second call does nothing more."""
        self._reason = _NOT_YET
        self._reported = asyncio.Event()
        self._parts = dict.fromkeys(self._parts, _NOT_YET)
        self._say(None)
        for line in self._lines.stopped(self._clock()):
            self._log.log(line.level, "%s", line.text)

    def _write(self, lines: Iterable[Line]) -> None:
        """At once, or in their order as soon as the outbox has been asked."""
        self._unsaid += lines
        if self._kept is None:
            self._say(None)
        elif self._unsaid:
            self._news.set()

    def _say(self, kept: Kept | None) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for line in unsaid:
            text = line.text if self._kept is None else line.with_kept(kept, self._sent() - self._sent_before)
            self._log.log(line.level, "%s", text)
        self._said()

    def _said(self) -> None:
        if not self._unsaid and self._reason != _NOT_YET:
            self._reported.set()

    async def _ask(self) -> Kept | None:
        assert self._kept is not None  # noqa: S101  # otherwise nothing waits for its answer
        try:
            async with asyncio.timeout(_KEPT_LIMIT_S):
                return await self._kept()
        except Exception:  # the database does not answer either, which others say
            return None


class OutagePart:
    """The Status of one of several loops."""

    def __init__(self, whole: Outage, name: str) -> None:
        self._whole = whole
        self._name = name

    def up(self) -> None:
        self._whole.report(self._name, None)

    def down(self, reason: str, *, retry_in_s: float) -> None:
        self._whole.report(self._name, reason, retry_in_s=retry_in_s)


def _meanwhile(kept: Kept | None) -> str:
    if kept is None:
        return " Events are kept in the outbox."
    oldest = f", oldest {_duration(kept.oldest_s)}" if kept.oldest_s is not None else ""
    return f" Events are kept in the outbox: {kept.waiting or 'none'} waiting{oldest}."


def _after(kept: Kept | None, caught_up: int) -> str:
    if kept is not None and kept.waiting:
        return f", {_events(kept.waiting)} still to be sent"
    return f", {_events(caught_up)} caught up" if caught_up else ""


class DatabaseTrouble:
    """One voice for all loops of a service that need its database: they all fail at once, and it is said once."""

    def __init__(self, who: str, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = OutageLog(f"{who}: database")
        self._log = log
        self._clock = clock

    def seen(self, error: BaseException, *, retry_in_s: float) -> None:
        """A loop could not do its part, and tries again. Costs no attempt and loses nothing."""
        reason = f"it does not serve us ({type(error).__name__}); nothing is lost → cauce doctor"
        self._write(self._lines.down(self._clock(), reason, retry_in_s=retry_in_s))

    def over(self) -> None:
        """It answers."""
        self._write(self._lines.up(self._clock()))

    def _write(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._log.log(line.level, "%s", line.text)


def _full_within_a_minute(moments: deque[float], now: float) -> bool:
    return len(moments) == moments.maxlen and now - moments[0] < _SUMMARY_EVERY_S


def _duration(seconds: float) -> str:
    if seconds < 3:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
