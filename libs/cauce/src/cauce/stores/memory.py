"""No database: transactions that only group what is published."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from cauce.errors import CauceError
from cauce.levels import Levels
from cauce.store import Outbound

__all__ = ["MemoryStore"]


class MemoryStore:
    """For services without state, and for tests. A transaction has no session; its events still follow its fate."""

    name = "memory"
    session_type = None

    def begin(self, levels: Levels[Any], *, read_only: bool, outgoing: Outbound | None = None) -> "_Work":
        return _Work(levels)

    async def problem(self) -> None:
        return None

    async def close(self) -> None:
        return None


class _Work:
    def __init__(self, levels: Levels[Any]) -> None:
        self._levels = levels

    @property
    def session(self) -> object:
        raise CauceError("This service has no database, so there is no session. Give it one: store=SqlAlchemyStore(…)")

    @property
    def joined(self) -> bool:
        return False

    def take_part(self) -> None:
        return None

    async def commit(self) -> None:
        self._levels.transaction_ended(committed=True)

    async def rollback(self) -> None:
        self._levels.transaction_ended(committed=False)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        return self._savepoint()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncGenerator[None]:
        mark = object()
        self._levels.opened(mark)
        kept = False
        try:
            yield
            kept = True
        finally:
            self._levels.ended(mark, kept=kept)
