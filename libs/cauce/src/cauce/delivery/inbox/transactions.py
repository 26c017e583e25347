"""Transactions of the consumer: each with its inbox."""

from contextlib import AbstractAsyncContextManager

from cauce.errors import CommitUnknownError, TransportUnavailableError
from cauce.ports.inbox import Inbox
from cauce.ports.store import DurableStore
from cauce.publishing.transaction import Transaction, work_of
from cauce.publishing.units_of_work import UnitsOfWork

__all__ = ["InboxTransactions"]


class InboxTransactions:
    def __init__(self, service: str, units_of_work: UnitsOfWork, store: DurableStore) -> None:
        self.name = service
        self._units_of_work = units_of_work
        self._store = store

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._units_of_work.transaction()

    def inbox(self, tx: Transaction) -> Inbox:
        return self._store.inbox(work_of(tx))

    def is_infrastructure(self, error: BaseException) -> bool:
        if isinstance(error, (CommitUnknownError, TransportUnavailableError)):
            return True
        return self._store.is_infrastructure(error)
