"""A transaction with its inbox, and which errors are the infrastructure's."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from cauce.errors import CommitUnknownError, TransactionAbortedError, TransportUnavailableError
from cauce.events.envelope import Emission
from cauce.listeners.effects import EffectNotDoneError
from cauce.listeners.identities import Identities
from cauce.listeners.listener import Listener
from cauce.listeners.retry import Reject, RetryAfter
from cauce.listeners.threads import ThreadStillRunsError
from cauce.ports.inbox import Inbox
from cauce.ports.store import DurableStore
from cauce.publishing.transaction import Transaction
from cauce.publishing.units_of_work import UnitsOfWork
from cauce.telemetry.causes import leaves

__all__ = [
    "IDLE_BEYOND_S",
    "CallListener",
    "InboxTransactions",
    "ListenerCall",
    "OutOfListenerError",
    "OutlastedError",
    "idle_limit_s",
    "origin_of",
]

IDLE_BEYOND_S = 5.0
"""How much longer than a listener's own limit its transaction may be idle before the database ends it."""
_OUTLASTED_BY_S = 1.0

CallListener = Callable[[Listener, Emission, Transaction | None, int, bool, str], Awaitable[None]]
"""listener, emission, transaction (None for an effect outside the database), attempt, replayed, channel"""


class OutOfListenerError(Exception):
    """What a listener raised (`error`), on its way out of the transaction: it is judged by its place first."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class OutlastedError(Exception):
    """A listener blocked its process beyond its limit, and whether its transaction was committed is unknown (`error`)."""

    def __init__(self, error: Exception, took_s: float) -> None:
        super().__init__(f"it blocked its process for {took_s:.0f} s")
        self.error = error
        self.took_s = took_s


def origin_of(error: Exception) -> Exception:
    """What was raised, without the mark of its place."""
    return error.error if isinstance(error, (OutOfListenerError, OutlastedError)) else error


class ListenerCall:
    """Around the call of one listener: what it raises leaves as OutOfListenerError, and how long it took is known."""

    def __init__(self, listener: Listener) -> None:
        self._limit_s = listener.registration.limit_s
        self._began = 0.0
        self._took_s = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._took_s = time.monotonic() - self._began
        if isinstance(error, Exception):
            raise OutOfListenerError(error) from error

    def judge(self, error: Exception) -> None:
        """Raise OutlastedError if the call itself brought about the trouble with the database that ended the transaction.

        A listener that waits is stopped at its limit. So one that took longer did not let anything else run meanwhile;
        the database did not hear of the transaction, and ended it.
        """
        if isinstance(error, CommitUnknownError) and self._took_s > self._limit_s + _OUTLASTED_BY_S:
            raise OutlastedError(error, self._took_s) from error


class InboxTransactions:
    """Opens transactions of one service, each together with its inbox."""

    def __init__(self, identities: Identities, units_of_work: UnitsOfWork, store: DurableStore) -> None:
        """`units_of_work` are those of `store`."""
        self._identities = identities
        self._units_of_work = units_of_work
        self._store = store

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[tuple[Transaction, Inbox]]:
        """One transaction and the inbox in it: what is written through either commits or rolls back together."""
        opened = self._units_of_work.transaction(guarded=True)
        async with opened as tx:
            yield tx, self._store.inbox(opened.work, self._identities.joined)

    def is_infrastructure(self, error: BaseException) -> bool:
        """Whether the database or the broker failed rather than the listener: that costs no attempt.

        Out of a listener that is rarely so. What the listener has decided itself stays decided, whatever made it do so.
        """
        if isinstance(error, OutOfListenerError):
            if isinstance(error.error, ThreadStillRunsError):
                return True  # no attempt was made: that would have been beside the one before
            decided = any(isinstance(one, (EffectNotDoneError, Reject, RetryAfter)) for one in leaves(error.error))
            return not decided and self._store.is_infrastructure(error.error, from_listener=True)
        if isinstance(error, TransactionAbortedError):  # the listener caught its cause; asyncpg tells at the COMMIT
            return self._store.is_infrastructure(error, from_listener=True)
        if isinstance(error, (CommitUnknownError, TransportUnavailableError)):
            return True
        return self._store.is_infrastructure(error)

    def consumer_name(self, listener: Listener) -> str:
        """The name under which the inbox knows a listener of this service."""
        return self._identities.consumer(listener)


def idle_limit_s(listener: Listener) -> float:
    """How long the database lets a transaction of this listener be idle."""
    return listener.registration.limit_s + IDLE_BEYOND_S
