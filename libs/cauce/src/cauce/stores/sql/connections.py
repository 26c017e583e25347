"""Connections of our own: given back however their user ends, and in a transaction for milliseconds only.

No table is named here. A group of tables (`outbox`, `lanes`, `waiting_room`, `registry`) runs its statements on these,
never on a session of the user's.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.concurrency.cancellation import to_the_end
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.engine import READ_ONLY

__all__ = ["TableGroup", "ask", "change", "connected"]

_LIMITS = (
    "SELECT set_config('lock_timeout', '3s', true), set_config('idle_in_transaction_session_timeout', '3s', true), "
    "set_config('statement_timeout', '60s', true)"
)
"""A process frozen in the middle of a transaction must not keep lanes locked from the process that takes them over."""


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Connect as `engine.connect()` does, but give the connection back also when its user is cancelled meanwhile."""
    connection = engine.connect()
    try:
        await to_the_end(connection.start())
        yield connection
    finally:
        if connection.sync_connection is not None:
            await to_the_end(connection.close())


class TableGroup:
    """The statements of one group of Cauce's tables. Every public method is one short transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._dialect = Dialect(engine.dialect.name)

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[AsyncConnection]:
        async with connected(self._engine) as connection, connection.begin():
            if self._dialect.postgres:
                await connection.execute(self._dialect.sql(_LIMITS))
            yield connection

    def _reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._alone() if self._dialect.postgres else connected(self._engine.execution_options(**READ_ONLY))

    def _alone(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """For a single statement that is its own transaction: PostgreSQL is spared BEGIN and COMMIT."""
        return connected(self._engine.execution_options(isolation_level="AUTOCOMMIT"))

    async def _run(self, connection: AsyncConnection, statement: str, **values: Any) -> Any:
        return await connection.execute(self._dialect.sql(statement), values)


async def ask(connection: AsyncConnection, statement: str, **values: Any) -> list[Any]:
    """The rows of one statement, on a connection of the caller's."""
    return list(await connection.execute(Dialect(connection.dialect.name).sql(statement), values))


async def change(connection: AsyncConnection, statement: str, **values: Any) -> int:
    """How many rows one statement has changed, in the caller's transaction."""
    done = await connection.execute(Dialect(connection.dialect.name).sql(statement), values)
    return int(done.rowcount)
