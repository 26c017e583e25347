"""Transactions in memory, and on request everything that durable delivery writes.

Transactions of listeners take turns, as writers of SQLite do.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, cast
from weakref import WeakKeyDictionary

from cauce.errors import CauceError
from cauce.ports.registration import Joined
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound, UnitOfWork
from cauce.stores.memory.inbox import MemoryInbox
from cauce.stores.memory.message_store import MemoryMessageStore
from cauce.stores.memory.tables import Tables
from cauce.stores.memory.writing import write_outgoing

__all__ = ["MemoryStore"]

_TURN_LIMIT_S = 30.0
_STARTED = time.time() - time.monotonic()


def _steady() -> float:
    """Seconds since the epoch by the clock of the start, which is never set: leases and delays depend on it."""
    return _STARTED + time.monotonic()


class _TurnNotHadError(CauceError):
    """Another transaction in memory did not end in time."""

    def __init__(self) -> None:
        super().__init__(f"another listener's transaction in memory did not end within {_TURN_LIMIT_S:g} s")


class MemoryStore:
    """For services without state, and for tests. A transaction has no session; its events commit or roll back with it.

    Everything durable delivery keeps is gone with the process. So it has to be requested, by `store=MemoryStore()`, and
    is refused with a broker that outlives the process. Transactions of listeners take turns. For one event loop at a
    time.
    """

    name = "memory"
    durable = False
    session_type = None

    def __init__(self, *, clock: Callable[[], float] = _steady) -> None:
        self._clock = clock
        self._rows = Tables()
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def begin(
        self,
        savepoints: Savepoints[Any],
        *,
        read_only: bool,
        outgoing: Outbound | None = None,
        guarded: bool = False,
    ) -> "_Work":
        turn = self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        written = None if read_only or outgoing is None else _Written(self._rows.over(), turn, outgoing, self._clock)
        return _Work(savepoints, written)

    async def prepare(self) -> None:
        return None

    async def prepared(self) -> bool:
        return True

    def message_store(self) -> MemoryMessageStore:
        return MemoryMessageStore(self._rows, self._clock)

    def inbox(self, work: UnitOfWork, joined: Mapping[str, Joined] | None = None) -> MemoryInbox:
        return MemoryInbox(cast("_Work", work).in_turn, self._clock, joined or {})

    def is_infrastructure(self, error: BaseException, *, from_listener: bool = False) -> bool:
        return not from_listener and isinstance(error, _TurnNotHadError)

    async def problem(self) -> None:
        return None

    async def close(self) -> None:
        return None


class _Written:
    """The rows that a transaction writes, and its turn."""

    def __init__(self, rows: Tables, turn: asyncio.Lock, outgoing: Outbound, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._turn = turn
        self._has_turn = False
        self._outgoing = outgoing
        self._clock = clock

    async def in_turn(self) -> Tables:
        """Wait for the listeners' transactions before this one; then return the rows as this one sees them."""
        if not self._has_turn:
            try:
                async with asyncio.timeout(_TURN_LIMIT_S):
                    self._has_turn = await self._turn.acquire()
            except TimeoutError:
                raise _TurnNotHadError from None
        return self._rows

    def commit(self, published: Sequence[Any]) -> None:
        write_outgoing(self._rows, self._outgoing(published), self._clock())
        self._rows.merge()

    def end(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turn.release()

    @contextmanager
    def savepoint(self) -> Generator[None]:
        outside = self._rows
        self._rows = outside.over()
        try:
            yield
            self._rows.merge()
        finally:
            self._rows = outside


class _Work:
    def __init__(self, savepoints: Savepoints[Any], written: _Written | None) -> None:
        self._savepoints = savepoints
        self._written = written

    @property
    def session(self) -> object:
        raise CauceError("This service has no database, so there is no session. Give it one: store=SqlAlchemyStore(…)")

    @property
    def joined(self) -> bool:
        return False

    def take_part(self) -> None:
        return None

    def check(self) -> None:
        return None

    async def in_turn(self) -> Tables:
        if self._written is None:
            raise CauceError("this transaction was begun without a message store; nothing can be written down in it")
        return await self._written.in_turn()

    async def commit(self) -> None:
        if self._written is not None:
            self._written.commit(self._savepoints.surviving())
        self._end(committed=True)

    async def rollback(self) -> None:
        self._end(committed=False)

    def _end(self, *, committed: bool) -> None:
        if self._written is not None:
            self._written.end()
        self._savepoints.transaction_ended(committed=committed)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        return self._savepoint()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncGenerator[None]:
        mark = object()
        self._savepoints.opened(mark)
        kept = False
        try:
            with self._written.savepoint() if self._written is not None else nullcontext():
                yield
            kept = True
        finally:
            self._savepoints.ended(mark, kept=kept)
