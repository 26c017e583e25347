"""A savepoint that is rolled back leaves its events with the transaction."""

from collections.abc import Hashable

from cauce.ports.savepoints import Savepoints


def plant() -> None:
    ended = Savepoints.ended

    def kept(self: Savepoints[object], savepoint: Hashable, *, kept: bool) -> None:
        ended(self, savepoint, kept=True)

    Savepoints.ended = kept
