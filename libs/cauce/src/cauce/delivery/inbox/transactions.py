"""A transaction with its inbox, and which errors are the infrastructure's."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from cauce.errors import CommitUnknownError, TransportUnavailableError
from cauce.events.envelope import Emission
from cauce.listeners.listener import Listener, consumer_name
from cauce.ports.inbox import Inbox
from cauce.ports.store import DurableStore
from cauce.publishing.transaction import Transaction
from cauce.publishing.units_of_work import UnitsOfWork

__all__ = ["IDLE_BEYOND_S", "CallListener", "InboxTransactions", "idle_limit_s"]

IDLE_BEYOND_S = 5.0
"""How much longer than a listener's own limit its transaction may be idle before the database ends it."""

CallListener = Callable[[Listener, Emission, Transaction | None, int, bool, str], Awaitable[None]]
"""listener, emission, transaction (None for an effect outside the database), attempt, replayed, channel"""


class InboxTransactions:
    """Opens transactions of one service, each together with its inbox."""

    def __init__(self, service: str, units_of_work: UnitsOfWork, store: DurableStore) -> None:
        """`units_of_work` are those of `store`."""
        self._service = service
        self._units_of_work = units_of_work
        self._store = store

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[tuple[Transaction, Inbox]]:
        """One transaction and the inbox in it: what is written through either commits or rolls back together."""
        opened = self._units_of_work.transaction()
        async with opened as tx:
            yield tx, self._store.inbox(opened.work)

    def is_infrastructure(self, error: BaseException) -> bool:
        """Whether the database or the broker failed rather than the listener: that costs no attempt."""
        if isinstance(error, (CommitUnknownError, TransportUnavailableError)):
            return True
        return self._store.is_infrastructure(error)

    def consumer_name(self, listener: Listener) -> str:
        """The name under which the inbox knows a listener of this service."""
        return consumer_name(self._service, listener)


def idle_limit_s(listener: Listener) -> float:
    """How long the database lets a transaction of this listener be idle."""
    return listener.registration.limit_s + IDLE_BEYOND_S
