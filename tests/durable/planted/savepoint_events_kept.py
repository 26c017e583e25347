"""A savepoint that is rolled back leaves its events with the transaction."""

from collections.abc import Hashable

from cauce.ports.savepoints import Levels


def plant() -> None:
    ended = Levels.ended

    def kept(self: Levels[object], savepoint: Hashable, *, kept: bool) -> None:
        ended(self, savepoint, kept=True)

    Levels.ended = kept
