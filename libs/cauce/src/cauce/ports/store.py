"""The port to a service's own database: one unit of work at a time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cauce.ports.inbox import Inbox
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import Outgoing
from cauce.ports.registration import Joined
from cauce.ports.savepoints import Savepoints

if TYPE_CHECKING:
    from cauce.ports.figures import Figures

__all__ = ["DurableStore", "Outbound", "Store", "SupportsFigures", "UnitOfWork"]


class UnitOfWork(Protocol):
    """One database transaction, begun by its first statement.

    Whoever ends it sees to it that `commit` and `rollback` are not cancelled halfway.
    """

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

    def check(self) -> None:
        """Raise TransactionAbortedError or TransactionEndedError if it can no longer be committed whole. Asks nobody."""
        ...

    async def commit(self) -> None:
        """Commit, unless the user's code ended the transaction already.

        Raises CommitUnknownError if the connection broke meanwhile, the database's own error if it refused, and what
        `check` raises; then nothing is committed. What the database answers decides.
        """
        ...

    async def rollback(self) -> None:
        """Undo and give the connection back. Safe in any state. The session serves nobody after this or a commit."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A part that can be undone alone: an exception leaving it undoes it, and the events published in it."""
        ...


Outbound = Callable[[Sequence[Any]], Sequence[Outgoing]]
"""From what was published in a transaction to the rows that have to be written in it."""


@runtime_checkable
class DurableStore(Protocol):
    """A store that can keep what durable delivery needs, beside the service's own tables."""

    async def prepare(self) -> None:
        """Make sure Cauce's tables are there. Raises ConfigurationError if they are of another version."""
        ...

    async def prepared(self) -> bool:
        """Whether Cauce's tables are there already. Bounded in time; False if the database does not tell."""
        ...

    @property
    def durable(self) -> bool:
        """Whether what is committed outlives the process."""
        ...

    def message_store(self) -> MessageStore: ...
    def inbox(self, work: UnitOfWork, joined: Mapping[str, Joined] | None = None) -> Inbox:
        """The inbox inside a unit of work that this store has begun.

        `joined`: consumers that are new to the service. To them an event is known that another one had handled before.
        """
        ...

    def is_infrastructure(self, error: BaseException, *, from_listener: bool = False) -> bool:
        """Whether an error of a statement of ours, a commit included, is the database's trouble.

        `from_listener`: it came out of a listener instead. Then it is the listener's own, whatever its code says, unless
        this store's own database was lost or not to be reached, or chose the transaction to end a deadlock or a conflict.
        """
        ...


@runtime_checkable
class SupportsFigures(Protocol):
    """A store that can tell what a service has done, what waits and what is dead, over all restarts and processes."""

    async def figures(self) -> "Figures":
        """The numbers of now. Raises NoTablesError where there is nothing to count, and the database's own errors."""
        ...


class Store(Protocol):
    """Where a service keeps its state."""

    @property
    def name(self) -> str: ...

    @property
    def session_type(self) -> type | None:
        """The type under which listeners may ask for the session."""
        ...

    def begin(
        self,
        savepoints: Savepoints[Any],
        *,
        read_only: bool,
        outgoing: Outbound | None = None,
        guarded: bool = False,
    ) -> UnitOfWork:
        """A fresh unit of work. It tells `savepoints` whenever a savepoint begins or ends, so that events follow it.

        Just before every commit, what `outgoing` says of the surviving events is written with the change. `guarded`: if
        the user's code commits or rolls back by itself, nothing is committed and TransactionEndedError is raised.
        """
        ...

    async def problem(self) -> str | None:
        """Why the database cannot be used now, or None. Bounded in time."""
        ...

    async def close(self) -> None: ...
