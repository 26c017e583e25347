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

    @property
    def joined(self) -> bool:
        """Whether it is a part of a transaction somebody else will end: then nothing is known to be committed."""
        ...

    def take_part(self) -> None:
        """An event is published in it now, so it has begun: from here on a rollback by the user's code is noticed."""
        ...

    async def commit(self) -> None:
        """Commit, unless the user's code ended the transaction already.

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
