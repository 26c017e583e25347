"""Our own transactions on a SQLite file: on the standard library's driver, each as a whole in one thread.

What the driver costs most on asyncio is the way to its thread and back, once for every statement and every fetch. A
transaction of ours needs no event loop between its statements, so all of it goes there at once. Sessions of the user's
stay on the engine, where a listener's own waiting belongs between the statements; both take turns as writers.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from itertools import chain, repeat
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, CursorResult, Engine, Executable, create_engine, event
from sqlalchemy import Dialect as SqlAlchemyDialect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from cauce.concurrency.cancellation import to_the_end
from cauce.errors import TransactionAbortedError
from cauce.stores.sql.error_values import hide_values
from cauce.stores.sql.pragmas import BUSY_TIMEOUT_S, LOCK_LOOKS_EVERY_S, set_pragmas
from cauce.stores.sql.turns import Turns

__all__ = ["StandardDriver", "standard_driver_of"]

T = TypeVar("T")

_BUSY_AGAIN_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.025, 0.025, 0.05, 0.05)
"""As SQLite itself waits, then a tenth of a second each."""
_KEEPS_ITS_CONNECTION = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT)

_beside: WeakKeyDictionary[SqlAlchemyDialect, "StandardDriver"] = WeakKeyDictionary()
"""By the dialect, of which every engine has its own, and which stays when options are added or the pool is disposed of."""


def standard_driver_of(engine: AsyncEngine) -> "StandardDriver | None":
    """What `create_engine` made beside this engine; None on PostgreSQL, in memory, and for engines of somebody else's."""
    return _beside.get(engine.dialect)


class StandardDriver:
    """One connection in one thread, which begins with the first transaction and ends with `close`."""

    def __init__(self, url: URL, turns: Turns, **arguments: Any) -> None:
        self.engine = _engine(url, arguments)
        """For events of SQLAlchemy's; its connection is used in the thread only."""
        self._turns = turns
        self._threads: ThreadPoolExecutor | None = None
        self._connection: Connection | None = None

    def stand_beside(self, engine: AsyncEngine) -> None:
        _beside[engine.dialect] = self

    async def run(self, work: Callable[["InThread"], Coroutine[Any, Any, T]], *, writes: bool) -> T:
        """Run all of `work` in one transaction; it awaits nothing but its statements.

        Waits up to BUSY_TIMEOUT_S while another process writes, and that is here: the thread serves others meanwhile, so
        `work` may be called again. A caller that is cancelled leaves no transaction open; if it is cancelled in the
        middle, what it began is committed or rolled back before the cancellation is raised. Raises SQLAlchemy's errors.
        """
        async with self._turns.taken() if writes else nullcontext():
            deadline = time.monotonic() + BUSY_TIMEOUT_S
            for pause_s in chain(_BUSY_AGAIN_S, repeat(0.1)):
                try:
                    return await self._there(lambda: self._transaction(work, writes=writes))
                except DBAPIError as error:
                    if _code(error) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                await asyncio.sleep(pause_s)
        raise AssertionError  # the pauses have no end

    async def close(self) -> None:
        """End what runs, then the connection, then the thread. Another `run` begins anew."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await to_the_end(asyncio.wrap_future(threads.submit(self._disconnect)))
            threads.shutdown()  # idle, and so at once

    async def _there(self, work: Callable[[], T]) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="cauce-sqlite")
        return await to_the_end(asyncio.wrap_future(self._threads.submit(work)))

    # --- in the thread ----------------------------------------------------------------------------------------

    def _transaction(self, work: Callable[["InThread"], Coroutine[Any, Any, T]], *, writes: bool) -> T:
        if self._connection is None:
            self._connection = self.engine.connect()
        connection = self._connection
        try:
            connection.exec_driver_sql(f"PRAGMA query_only = {0 if writes else 1}")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
            done = _run_to_its_end(work(InThread(connection)))
            if not _is_open(connection):  # SQLite ended it by itself, and what followed was committed piece by piece
                raise TransactionAbortedError
            connection.commit()
            return done
        except sqlite3.Error as error:  # while rows were fetched from the driver itself
            self._leave_nothing_open(connection, error)
            raise _as_of_sqlalchemy(error, connection) from None
        except BaseException as error:
            self._leave_nothing_open(connection, error)
            raise

    def _leave_nothing_open(self, connection: Connection, error: BaseException) -> None:
        try:
            connection.rollback()
            if _is_open(connection) or not _keeps_its_connection(error):
                self._disconnect()
        except SQLAlchemyError:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.invalidate()
            with suppress(SQLAlchemyError):
                connection.close()


class InThread:
    """A connection in the thread where it lives. Nothing is waited for there: what is awaited has returned already."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> SqlAlchemyDialect:
        return self._connection.dialect

    async def execute(self, statement: Executable, parameters: Any = None, /) -> CursorResult[Any]:
        return self._connection.execute(statement, parameters)


def _run_to_its_end(work: Coroutine[Any, Any, T]) -> T:
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("a transaction of Cauce's own waited for something other than its statements")


def _engine(url: URL, arguments: dict[str, Any]) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"), hide_parameters=True, poolclass=NullPool, connect_args=arguments
    )
    hide_values(engine)

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        set_pragmas(connection, lambda: time.sleep(LOCK_LOOKS_EVERY_S))
        connection.execute("PRAGMA busy_timeout = 0")  # `run` waits, not the thread

    event.listen(engine, "connect", connected)
    return engine


def _is_open(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    return bool(driver.in_transaction)


def _keeps_its_connection(error: BaseException) -> bool:
    return not isinstance(error, (DBAPIError, sqlite3.Error)) or _code(error) & 0xFF in _KEEPS_ITS_CONNECTION


def _code(error: BaseException) -> int:
    """SQLite's own, extended; 0 if it has none."""
    return int(getattr(getattr(error, "orig", error), "sqlite_errorcode", None) or 0)


def _as_of_sqlalchemy(error: sqlite3.Error, connection: Connection) -> BaseException:
    return DBAPIError.instance(None, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect)
