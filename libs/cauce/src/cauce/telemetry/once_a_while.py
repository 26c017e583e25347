"""Something that may be reported again and again, in few lines of the log however often it happens. Sans-I/O."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["OnceAWhile"]


@dataclass(slots=True)
class _Reported:
    what: str
    at: float
    unreported: int = 0


class OnceAWhile:
    """For every subject: what is new is reported at most once in `every_s`; what came meanwhile is counted.

    Remembers the last report of the `most` subjects that were heard of last, so a stranger cannot make it grow.
    """

    def __init__(self, *, every_s: float = 60.0, most: int = 1_000) -> None:
        self._every_s = every_s
        self._most = most
        self._reports: OrderedDict[Hashable, _Reported] = OrderedDict()

    def due(self, subject: Hashable, what: str, *, now: float) -> int | None:
        """How many changes went unreported since the last report, if this one is to be reported now; else None.

        `what` is what the last report said: the same again is no news. `now`: on a clock that does not jump.
        """
        last = self._reports.get(subject)
        if last is None:
            self._reports[subject] = _Reported(what, now)
            if len(self._reports) > self._most:
                self._reports.popitem(last=False)
            return 0
        self._reports.move_to_end(subject)
        if what == last.what:
            return None
        if now - last.at < self._every_s:
            last.unreported += 1
            return None
        self._reports[subject] = _Reported(what, now)
        return last.unreported

    def __len__(self) -> int:
        """How many subjects are remembered."""
        return len(self._reports)
