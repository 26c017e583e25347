"""Connections of our own: given back however their user ends, and in a transaction for milliseconds only.

No table is named here. A group of tables (`outbox`, `lanes`, `waiting_room`, `registry`) runs its statements on these,
never on a session of the user's.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Dialect as SqlAlchemyDialect
from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.concurrency.cancellation import to_the_end
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.engine import READ_ONLY
from cauce.stores.sql.standard_driver import standard_driver_of

__all__ = ["OwnConnection", "TableGroup", "ask", "change", "connected", "reading", "writing"]

G = TypeVar("G", bound="TableGroup")
P = ParamSpec("P")
T = TypeVar("T")

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


class OwnConnection(Protocol):
    """What statements of our own are executed on: SQLAlchemy's AsyncConnection, or one in the thread of SQLite."""

    @property
    def dialect(self) -> SqlAlchemyDialect: ...

    async def execute(self, statement: Executable, parameters: Any = None, /) -> Any: ...


class TableGroup:
    """The statements of one group of Cauce's tables. Every public method is one short transaction, `reading` or
    `writing`; on SQLite its body runs as a whole in a thread (`standard_driver`), and may await nothing but statements.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._dialect = Dialect(engine.dialect.name)
        self._beside = standard_driver_of(engine)

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

    async def in_transaction(self, body: Callable[[OwnConnection], Coroutine[Any, Any, T]], *, writes: bool) -> T:
        if self._beside is not None:
            return await self._beside.run(body, writes=writes)
        async with self._writing() if writes else self._reading() as connection:
            return await body(connection)

    async def _run(self, connection: OwnConnection, statement: str, **values: Any) -> Any:
        return await connection.execute(self._dialect.sql(statement), values)


def reading(
    method: Callable[Concatenate[G, OwnConnection, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[G, P], "CoroutineType[Any, Any, T]"]:
    """Make a method of a TableGroup a transaction that reads; its callers do not see the connection. On PostgreSQL each of
    its statements is one of its own, so it has one."""
    return _in_transaction(method, writes=False)


def writing(
    method: Callable[Concatenate[G, OwnConnection, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[G, P], "CoroutineType[Any, Any, T]"]:
    """Make a method of a TableGroup a transaction that may write, and is rolled back if it raises."""
    return _in_transaction(method, writes=True)


def _in_transaction(
    method: Callable[Concatenate[G, OwnConnection, P], Coroutine[Any, Any, T]], *, writes: bool
) -> Callable[Concatenate[G, P], "CoroutineType[Any, Any, T]"]:
    @wraps(method)
    async def in_transaction(group: G, *args: P.args, **values: P.kwargs) -> T:
        return await group.in_transaction(lambda connection: method(group, connection, *args, **values), writes=writes)

    return in_transaction


async def ask(connection: OwnConnection, statement: str, **values: Any) -> list[Any]:
    """The rows of one statement, on a connection of the caller's."""
    return list(await connection.execute(Dialect(connection.dialect.name).sql(statement), values))


async def change(connection: OwnConnection, statement: str, **values: Any) -> int:
    """How many rows one statement has changed, in the caller's transaction."""
    done = await connection.execute(Dialect(connection.dialect.name).sql(statement), values)
    return int(done.rowcount)
