"""Units of work: begun, committed or rolled back, and what was published in them handed on."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from cauce.concurrency.cancellation import to_the_end
from cauce.errors import CauceError
from cauce.listeners.dependencies import Dependencies
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound, Store, UnitOfWork
from cauce.publishing.pending import AfterCommit, Pending, ToSend
from cauce.publishing.rules import PublishingRules
from cauce.publishing.transaction import Outlet, Transaction, end, end_undone, leave
from cauce.telemetry.happenings import Happenings

__all__ = ["OpenTransaction", "UnitsOfWork"]


class UnitsOfWork:
    """Opens a service's transactions. Each ends committed or undone, and only what is known to be committed goes on.

    `outgoing` says which rows a transaction has to write for its events, if any are written at all. `outlet` is asked
    whenever something is published or committed: a transaction may outlast the run of the service it began in.
    """

    def __init__(
        self,
        store: Store,
        rules: PublishingRules,
        dependencies: Dependencies[Transaction],
        happenings: Happenings,
        *,
        outgoing: Outbound | None,
        outlet: Callable[[], Outlet],
    ) -> None:
        self.store = store
        self.rules = rules
        self.dependencies = dependencies
        self.happenings = happenings
        self.outgoing = outgoing
        self.outlet = outlet

    def transaction(self, *, read_only: bool = False, guarded: bool = False) -> "OpenTransaction":
        """One unit of work; begins when its block is entered. `guarded`: only its block may end it."""
        return OpenTransaction(self, read_only=read_only, guarded=guarded)


class OpenTransaction(AbstractAsyncContextManager[Transaction, None]):
    """One unit of work, from its beginning to its end: `async with` gives the Transaction."""

    work: UnitOfWork
    """The store's unit of work, inside the block."""

    def __init__(self, units: UnitsOfWork, *, read_only: bool, guarded: bool) -> None:
        self._units = units
        self._read_only = read_only
        self._guarded = guarded
        self._entered = False

    async def __aenter__(self) -> Transaction:
        units, read_only = self._units, self._read_only
        if self._entered:
            raise CauceError("the block of a transaction is entered once; call service.transaction() for another one")
        self._entered = True
        self._savepoints: Savepoints[Pending] = Savepoints()
        self.work = units.store.begin(
            self._savepoints, read_only=read_only, outgoing=units.outgoing, guarded=self._guarded
        )
        self._tx = Transaction(
            units.rules, units.dependencies, units.outlet, self.work, self._savepoints, read_only=read_only
        )
        return self._tx

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            await leave(self._tx, error)
        except BaseException:
            await to_the_end(self._roll_back())
            raise
        await to_the_end(self._commit() if error is None else self._roll_back())

    async def _commit(self) -> None:
        try:
            end(self._tx)
            await self.work.commit()
        except BaseException:
            await self._roll_back()
            raise
        self._hand_on()

    async def _roll_back(self) -> None:
        end_undone(self._tx)
        try:
            await self.work.rollback()
        finally:  # what the block had committed by itself
            self._hand_on()

    def _hand_on(self) -> None:
        """Tell what was published for good. It goes on only if the commit is known: somebody else may end it."""
        pending = self._savepoints.take()
        happenings = self._units.happenings
        for item in pending:
            happenings.count("published")
            happenings.tell("published", item.envelope if isinstance(item, ToSend) else item.emission)
            if isinstance(item, AfterCommit):
                for listener in item.heard_by:
                    happenings.tell("handled", item.emission, listener.name)
        if not self.work.joined:
            self._units.outlet().committed(pending)
