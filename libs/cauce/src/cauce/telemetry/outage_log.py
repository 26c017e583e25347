"""What the log says while the broker is away: little, but enough. Sans-I/O.

One line when it begins, one a minute while it lasts, one when it is over. Where events are kept meanwhile, it says how
many; where they are lost, they are named five times, then counted. A broker that comes and goes every second costs no
more lines than one that stays away.
"""

import logging
from collections import deque
from typing import NamedTuple

__all__ = ["Kept", "Line", "OutageLog"]

_SUMMARY_EVERY_S = 60.0
_NEW_REASON_AFTER_S = 10.0
_BEGINNINGS_A_MINUTE = 3
_NAMED_LOSSES = 5


class Kept(NamedTuple):
    """What waits in the outbox, and since when."""

    waiting: int
    oldest_s: float | None


class Line(NamedTuple):
    level: int
    text: str
    at: int | None = None
    """Where in the text the figures of the outbox are put, if anywhere."""
    over: bool = False
    """It is the line that ends an outage."""

    def with_kept(self, kept: Kept | None, caught_up: int) -> str:
        """The whole line. `kept` is None if the outbox does not answer; `caught_up`: sent since the outage began."""
        if self.at is None:
            return self.text
        figures = _kept_after(kept, caught_up) if self.over else _kept_meanwhile(kept)
        return f"{self.text[: self.at]}{figures}{self.text[self.at :]}"


class OutageLog:
    """Turns reports into log lines. Holds no clock: `now` is seconds on any clock that does not jump.

    A reason may end with a hint after an arrow, `no Redis at 127.0.0.1:6379 (refused) → is it running?`,
    which is put at the end of the line. At most 3 outages a minute are announced; the others are counted and
    reported with the next one, or announced once they last.
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
        self._lost_unreported = 0
        self._last_loss = 0.0

    def down(self, now: float, reason: str, *, retry_in_s: float) -> list[Line]:
        """One failed attempt."""
        if self._since is None:
            self._since, self._announced, self._attempts = now, None, 0
            if not self._lost_unreported and now - self._last_loss > _SUMMARY_EVERY_S:
                self._lost = 0  # reported by name, long ago
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
        return self._outage_lines(now, reason, f" Trying again in {retry_in_s:.1f} s.")

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
        """One event that no listener will receive."""
        self._lost += 1
        self._last_loss = now
        if self._named_in_outage >= _NAMED_LOSSES or _full_within_a_minute(self._named, now):
            self._lost_unreported += 1
            return []
        self._named.append(now)
        self._named_in_outage += 1
        last = self._named_in_outage == _NAMED_LOSSES
        rest = ". Further ones are only counted" if last else ""
        text = f"{self._who}: event {event_id} is lost: the broker did not take it{rest}"
        return [Line(logging.WARNING, text)]

    def due(self, now: float) -> list[Line]:
        """To be asked now and then: losses that no other line has reported."""
        quiet_s = now - max(self._last_line, self._named[-1] if self._named else 0.0)
        if self._since is None and self._lost_unreported and quiet_s >= _SUMMARY_EVERY_S:
            self._named_in_outage = 0
            return [self._line(now, logging.WARNING, self._losses("").lstrip())]
        return []

    def stopped(self, now: float) -> list[Line]:
        """The service stops listening: report how it stood, and start over."""
        since, self._since = self._since, None
        self._named_in_outage = 0
        if since is not None and self._announced is not None:
            text = f"stopped; the broker has been away for {_duration(now - since)}{self._losses(', ')}"
            return [self._line(now, logging.WARNING, text)]
        if self._lost_unreported:
            return [self._line(now, logging.WARNING, self._losses(""))]
        return []

    def _outage_lines(self, now: float, reason: str, retry: str) -> list[Line]:
        self._announced = reason
        what, _, hint = reason.partition(" → ")
        assert self._since is not None  # noqa: S101  # for the type checker
        lasting = ""
        if self._attempts > 1:
            attempts = f"{self._attempts} attempts in {_duration(now - self._since)}"
            lasting = f" {attempts}{self._losses(', ', reported=False)}."
        if self._unannounced:
            lasting += f" {self._unannounced} short outages before."
            self._unannounced = 0
        arrow = f" → {hint}" if hint else ""
        return [self._line(now, logging.WARNING, f"{what}.{lasting}{retry}{arrow}", after=f"{what}.")]

    def _losses(self, separator: str, *, reported: bool = True) -> str:
        """How many were lost since the last `back`, if any; `reported` starts the next count."""
        lost = self._lost
        self._lost_unreported = 0
        if reported:
            self._lost = 0
        return f"{separator}{_events(lost)} lost" if lost else ""

    def _line(self, now: float, level: int, text: str, *, after: str | None = None, over: bool = False) -> Line:
        """`after`: the beginning of the text that is followed by what is kept."""
        self._last_line = now
        who = f"{self._who}: "
        return Line(level, f"{who}{text}", None if after is None else len(who) + len(after), over)


def _kept_meanwhile(kept: Kept | None) -> str:
    if kept is None:
        return " Events are kept in the outbox."
    oldest = f", oldest {_duration(kept.oldest_s)}" if kept.oldest_s is not None else ""
    return f" Events are kept in the outbox: {kept.waiting or 'none'} waiting{oldest}."


def _kept_after(kept: Kept | None, caught_up: int) -> str:
    if kept is not None and kept.waiting:
        return f", {_events(kept.waiting)} still to be sent"
    return f", {_events(caught_up)} caught up" if caught_up else ""


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
