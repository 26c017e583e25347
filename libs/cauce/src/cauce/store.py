"""The port to a service's own database: one unit of work at a time."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from cauce.levels import Levels

__all__ = ["Store", "UnitOfWork"]


class UnitOfWork(Protocol):
    """One database transaction, begun by its first statement."""

    @property
    def session(self) -> object:
        """What the user's code writes through (an AsyncSession for SQLAlchemy); raises CauceError if there is none."""
        ...

    async def commit(self) -> bool:
        """Commit. True: it is known to be durable. False: it joined a transaction somebody else will end.

        Raises CommitUnknownError if the connection broke meanwhile, and the database's own error if it refused;
        then nothing is committed.
        """
        ...

    async def rollback(self) -> None:
        """Undo and give the connection back. Safe in any state."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A part that can be undone alone: an exception leaving it undoes it, and the events published in it."""
        ...


class Store(Protocol):
    """Where a service keeps its state."""

    @property
    def name(self) -> str: ...

    @property
    def session_type(self) -> type | None:
        """The type under which listeners may ask for the session."""
        ...

    def begin(self, levels: Levels[Any], *, read_only: bool) -> UnitOfWork:
        """A fresh unit of work. It tells `levels` whenever a savepoint begins or ends, so that events follow it."""
        ...

    async def problem(self) -> str | None:
        """Why the database cannot be used now, or None. Bounded in time."""
        ...

    async def close(self) -> None: ...
