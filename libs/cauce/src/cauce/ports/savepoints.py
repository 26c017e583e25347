"""Which of the events published in a transaction survive its savepoints.

A stack: published events go to the innermost open savepoint; one that is kept hands its events to the one around it,
one that is undone takes them with it. Sans-I/O, so that every tree of savepoints can be tried.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Savepoints"]

T = TypeVar("T")


class Savepoints(Generic[T]):
    """Events waiting for the outcome of what they were published in."""

    def __init__(self) -> None:
        self._committed: list[T] = []
        self._outermost: list[T] = []
        self._open: dict[Hashable, list[T]] = {}

    def add(self, item: T) -> None:
        innermost = next(reversed(self._open.values())) if self._open else self._outermost
        innermost.append(item)

    def surviving(self) -> list[T]:
        """What would be committed if everything open were kept, in the order of publishing."""
        return [*self._outermost, *(item for inside in self._open.values() for item in inside)]

    def opened(self, savepoint: Hashable) -> None:
        self._open[savepoint] = []

    def ended(self, savepoint: Hashable, *, kept: bool) -> None:
        """The savepoint was released or rolled back; unknown ones are ignored (begun before we watched)."""
        if savepoint not in self._open:
            return
        inside: list[T] = []
        for other in [*self._open][[*self._open].index(savepoint) :]:
            # A database ends inner savepoints together with the outer one, and not every driver says so.
            inside += self._open.pop(other)
        if kept:
            for item in inside:
                self.add(item)

    def transaction_ended(self, *, committed: bool) -> None:
        """The outermost transaction ended (a session may begin another one after it)."""
        if committed:
            self._committed += self._outermost
            for inside in self._open.values():
                self._committed += inside
        self._outermost = []
        self._open.clear()

    def take(self) -> list[T]:
        """What is known to be committed, in the order of publishing; handed out once."""
        taken, self._committed = self._committed, []
        return taken
