"""Times as people say and read them: `10m`, `2026-11-24 08:05`; `12 s`, `3 h`."""

import re
from datetime import UTC, datetime

from cauce.errors import ConfigurationError

__all__ = ["age", "ago", "clock", "duration", "iso", "moment", "short", "stamp"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_FIRST = datetime(1, 1, 2, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 30, tzinfo=UTC).timestamp()
"""A day from the ends of the calendar: no time zone leads over them."""


def duration(text: str, *, option: str) -> float:
    """`90s`, `10m`, `2h`, `7d` or plain seconds, as seconds. ConfigurationError for anything else, naming `option`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]*)", text.strip().lower())
    if not found or (found[2] or "s") not in _UNITS:
        raise ConfigurationError([f"{option} {text}: no length of time. Expected 90s, 10m, 2h or 7d."])
    return float(found[1]) * _UNITS[found[2] or "s"]


def moment(text: str, *, option: str) -> datetime:
    """`2026-11-24T08:05` (this machine's time), the same with Z for UTC, or how long ago: `2h`. Aware.

    ConfigurationError for anything else, naming `option`.
    """
    if re.fullmatch(r"\d+(?:\.\d+)? *[a-zA-Z]*", text.strip()):
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() - duration(text, option=option), UTC)
    try:
        said = datetime.fromisoformat(text.strip())
    except ValueError:
        expected = "Expected 2026-11-24T08:05 (with Z for UTC), or how long ago: 10m, 2h, 7d."
        raise ConfigurationError([f"{option} {text}: no time. {expected}"]) from None
    return said.astimezone(UTC)  # without a zone it is this machine's


def age(text: str, *, option: str) -> float:
    """How many seconds ago that moment was; 0 for the future."""
    return max(0.0, datetime.now(UTC).timestamp() - moment(text, option=option).timestamp())


def short(seconds: float | None) -> str:
    """A length of time in at most six characters; an en dash for none."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds:.1f} s"
    for unit, size, limit in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < limit * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:,.0f} d"


def ago(seconds: float) -> str:
    return f"{short(seconds)} ago"


def _at(seconds: float) -> datetime:
    """That moment; the nearest that there is for one before the year 1 or after 9999: it may come from an event."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC)


def stamp(at: float) -> str:
    """Seconds since the epoch as this machine's date and time."""
    return _at(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(at: float) -> str:
    """The same for programs, in UTC."""
    return _at(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """The time of day, to the millisecond."""
    return _at(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
