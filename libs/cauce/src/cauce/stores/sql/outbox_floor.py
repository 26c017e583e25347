"""Up to which position the queue is known to be empty, so that a look at it does not pass the dead rows before.

PostgreSQL passes every deleted row, again and again, while a transaction that began earlier may still see it (a dump, a
long report). A look may begin at a later position, if no event of a key can turn up before it: that one would be sent
behind its successor. A transaction that publishes an event of a key has its number (xid) before the event has its
position, because it counts the key first. So when every transaction has ended that began to write before some moment, no
event of a key comes to a position that was given before that moment.

An event without a key may take its position an instant before its transaction has a number. Nothing follows it in order,
so it may be found later: every second a look begins at the beginning, less often when such looks take long.
"""

import time
from collections.abc import Callable, Collection, Hashable, Sequence

__all__ = ["OutboxFloor"]

_FULL_LOOK_EVERY_S = 1.0
_SHARE_OF_FULL_LOOKS = 0.05


class OutboxFloor:
    """Of one relay. Forgets what it knows whenever rows may have come back, or other rows are looked for."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now = monotonic
        self._floor = 0
        self._candidate: tuple[int, int] | None = None
        """A position that was given before the writer of this number began."""
        self._looked_for: Hashable = None
        self._put_back: object = None
        self._full_look_due = 0.0

    def before(self, looked_for: Hashable) -> int:
        """After which position the next look begins. `looked_for`: which rows, as a whole."""
        if looked_for != self._looked_for:
            self._looked_for = looked_for
            self._forget()
        return 0 if self._now() >= self._full_look_due else self._floor

    def took(self, seconds: float, *, floor: int) -> None:
        """A look from there on took so long."""
        if floor == 0:
            self._full_look_due = self._now() + max(_FULL_LOOK_EVERY_S, seconds / _SHARE_OF_FULL_LOOKS)

    def holds(self, put_back: object, *, floor: int) -> bool:
        """Whether a look from there on that found this mark of rows put back has seen all there are. If not, look again."""
        if put_back == self._put_back:
            return True
        self._put_back = put_back
        self._forget()
        return floor == 0

    def looked(self, found: Sequence[int], *, besides: Collection[int], oldest_writer: int) -> None:
        """A look found these positions, and these besides are being marked. `oldest_writer`: the lowest number of a
        transaction that had not ended then."""
        if self._candidate is not None and self._candidate[1] <= oldest_writer:
            empty_below = min((*found, *besides), default=self._candidate[0] + 1) - 1
            self._floor = max(self._floor, min(self._candidate[0], empty_below))
            self._candidate = None

    def moved(self, positions: Sequence[int], writer: int) -> None:
        """Rows that an earlier look had found were moved by the transaction of this number."""
        if self._candidate is None:
            self._candidate = max(positions), writer

    def _forget(self) -> None:
        self._floor, self._candidate, self._full_look_due = 0, None, 0.0
