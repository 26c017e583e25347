"""A service's own database through the user's SQLAlchemy session: PostgreSQL or SQLite."""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from cauce.errors import CommitUnknownError, ConfigurationError
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound, UnitOfWork
from cauce.stores.sql.connections import connected
from cauce.stores.sql.outbox import SqlInbox, SqlMessageStore
from cauce.stores.sql.schema import create_tables
from cauce.stores.sql.sessions import FollowedSession, follow, joins_an_outer_transaction

if TYPE_CHECKING:
    from cauce.ports.figures import Figures

__all__ = ["SqlAlchemyStore", "create_engine"]

_DRIVERS = {"sqlite": ("aiosqlite",), "postgresql": ("psycopg", "asyncpg")}
_READ_ONLY = "cauce_read_only"
_INFRASTRUCTURE_CLASSES = ("08", "25", "40", "53", "57", "58")
"""SQLSTATE: connection, transaction state, rollback (deadlock, serialization), resources, operator, system."""
_INFRASTRUCTURE_STATES = ("55P03",)  # a lock was not to be had in time
_CANNOT_RECONNECT = "8s2b"
_POOL_SIZE = 20
"""A connection beyond these is closed after its use, and making one takes longer than a transaction."""
_RESTS_SINCE = "cauce_rests_since"
_RESTED_S = 1.0
_WRITES = "cauce_writes"
_TURN_LIMIT_S = 30.0
_BUSY_TIMEOUT_S = 5
_SQLITE_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "busy_timeout": _BUSY_TIMEOUT_S * 1000,
    "foreign_keys": 1,
}
"""Committed means on the disk (2 = FULL), and writers wait for each other instead of failing."""


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine with the settings Cauce's promises need; `options` go to `create_async_engine`.

    SQLite: WAL, synchronous=FULL, foreign keys, a busy timeout, and BEGIN IMMEDIATE for every transaction that is not
    read-only (a deferred one that turns writer fails at once instead of waiting). A SQLite in memory is one connection,
    which transactions have in turn, and is gone when the service stops. PostgreSQL: pooled connections that have rested
    are tested before use, and dead peers are noticed. On both, parameters never appear in errors or logs.

    Raises ConfigurationError for a URL that is not one of the two; connects to nothing.
    """
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise ConfigurationError(
            [
                "the database URL cannot be read; expected sqlite+aiosqlite:///FILE or postgresql+psycopg://USER:PASS@HOST/DB"
            ]
        ) from None
    backend = parsed.get_backend_name()
    if backend not in _DRIVERS:
        raise ConfigurationError([f"database {backend!r} is not supported: use sqlite+aiosqlite or postgresql+psycopg"])
    _check_driver(parsed)
    if backend == "sqlite":
        if _is_in_memory(parsed):  # it lives in one connection, which transactions then have one after the other
            alone = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0}
            options = {**alone, "pool_timeout": _TURN_LIMIT_S, **options}
        engine = create_async_engine(parsed, hide_parameters=True, **options)
        _prepare_sqlite(engine)
        return engine
    arguments: dict[str, Any] = options.pop("connect_args", {})
    if parsed.get_driver_name() == "psycopg":
        arguments = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10, **arguments}
    pool = {"pool_size": _POOL_SIZE} if "poolclass" not in options else {}
    engine = create_async_engine(parsed, hide_parameters=True, connect_args=arguments, **{**pool, **options})
    if not options.get("pool_pre_ping", False):
        _test_after_a_pause(engine)
    return engine


def _test_after_a_pause(engine: AsyncEngine) -> None:
    """A connection that has rested is tested before it is used. One that was used just now is not: that would cost
    every transaction a round trip, and see no more than its own first statement sees."""
    dialect = engine.sync_engine.dialect

    def returned(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_RESTS_SINCE] = time.monotonic()

    def taken(connection: Any, record: ConnectionPoolEntry, _pooled: object) -> None:
        if time.monotonic() - record.info.get(_RESTS_SINCE, float("inf")) > _RESTED_S:
            try:
                dialect.do_ping(connection)
            except dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error

    event.listen(engine.sync_engine, "checkin", returned)
    event.listen(engine.sync_engine, "checkout", taken)


def _check_driver(url: URL) -> None:
    """ConfigurationError unless it is one of ours, and installed."""
    backend = url.get_backend_name()
    drivers = _DRIVERS[backend]
    _, _, driver = url.drivername.partition("+")
    if driver not in drivers:
        said = (
            f"the driver {driver!r} of the database URL"
            if driver
            else "the database URL names no driver, and the default"
        )
        raise ConfigurationError([f"{said} is not asynchronous; write {backend}+{drivers[0]}://…"])
    try:
        import_module(driver)
    except ImportError:
        fix = f"'cauce[{'sqlite' if backend == 'sqlite' else 'postgres'}]'" if driver == drivers[0] else driver
        raise ConfigurationError([f"the driver {driver} is not installed: pip install {fix}"]) from None


def _is_in_memory(url: URL) -> bool:
    return url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"


def _prepare_sqlite(engine: AsyncEngine) -> None:
    turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late and is always deferred
        cursor = connection.cursor()
        for pragma, wanted in _SQLITE_PRAGMAS.items():
            _set(connection, cursor, f"PRAGMA {pragma} = {wanted}")
            cursor.execute(f"PRAGMA {pragma}")
            if (found := cursor.fetchone()[0]) != wanted and not (pragma == "journal_mode" and found == "memory"):
                raise ConfigurationError([f"SQLite refuses PRAGMA {pragma} = {wanted} (it is {found})"])
        cursor.close()

    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get(_READ_ONLY, False):
            connection.exec_driver_sql("PRAGMA query_only = 1")
            connection.exec_driver_sql("BEGIN")
        else:
            _wait_for_turn(connection, turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()))
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def returned(connection: Any, record: ConnectionPoolEntry) -> None:
        turn: asyncio.Lock | None = (record.record_info or {}).pop(_WRITES, None)
        if turn is not None:
            turn.release()
        if connection is not None:
            cursor = connection.cursor()
            if connection.driver_connection.in_transaction:  # a refused COMMIT leaves it open, and nobody else ends it
                cursor.execute("ROLLBACK")
            cursor.execute("PRAGMA query_only = 0")
            cursor.close()

    def invalidated(connection: Any, _record: object, _error: object) -> None:
        # Closed, SQLite's connection lives on with its locks as long as anybody refers to a cursor of it, and code that
        # was cancelled is referred to by its traceback. So its transaction is ended first.
        if connection is not None:
            # One more cancellation has nothing to cancel here: the first is on its way, and it must be closed all the same.
            with suppress(SQLAlchemyError, engine.dialect.loaded_dbapi.Error, ValueError, asyncio.CancelledError):
                connection.run_async(_roll_back)

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "invalidate", invalidated)
    event.listen(engine.sync_engine, "begin", begun)
    event.listen(engine.sync_engine, "checkin", returned)


def _set(connection: Any, cursor: Any, statement: str) -> None:
    """A new file is turned to WAL by the first who opens it, and SQLite does not wait for it: the others, who start at
    the same moment, get "database is locked" at once, whatever the busy timeout. So the waiting is done here."""
    patience = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            return cursor.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
        connection.run_async(_a_moment)


async def _a_moment(_driver: object) -> None:
    await asyncio.sleep(0.01)


async def _roll_back(driver: Any) -> None:
    await asyncio.shield(driver.rollback())


def _wait_for_turn(connection: Connection, turn: asyncio.Lock) -> None:
    """Writers of one process wait in a queue; SQLite's own waiting is a lottery, which somebody loses under load.

    The turn ends when the connection goes back to the pool. Who waits too long goes on and gets SQLite's own error.
    """
    pooled: Any = connection.connection
    if _WRITES in pooled.record_info:
        return

    async def wait(_driver: object) -> None:
        async with asyncio.timeout(_TURN_LIMIT_S):
            await turn.acquire()

    with suppress(TimeoutError):
        pooled.dbapi_connection.run_async(wait)
        pooled.record_info[_WRITES] = turn


class SqlAlchemyStore:
    """Units of work over AsyncSessions of one engine, or of a session factory of your own.

    A factory whose sessions join an outer transaction (the usual rolled-back test fixture) is served too: nothing is
    known to be committed then, so nothing that waits for a commit happens.
    """

    session_type: type[AsyncSession] = AsyncSession

    def __init__(
        self,
        engine: AsyncEngine,
        sessions: async_sessionmaker[AsyncSession] | None = None,
        *,
        commit_limit_s: float = 15.0,
    ) -> None:
        """`commit_limit_s`: how long a COMMIT may go unanswered before its outcome counts as unknown; psycopg takes up
        to 5 s more to let go of the connection."""
        self.engine = engine
        self._sessions = sessions or async_sessionmaker(
            engine, expire_on_commit=False, sync_session_class=FollowedSession
        )
        self._commit_limit_s = commit_limit_s

    @classmethod
    def from_environment(cls, variable: str = "DATABASE_URL") -> "SqlAlchemyStore":
        """For programs that read no settings of their own. ConfigurationError if the variable is not set."""
        url = os.environ.get(variable)
        if not url:
            raise ConfigurationError(
                [f"{variable} is not set; expected sqlite+aiosqlite:///FILE or postgresql+psycopg://USER:PASS@HOST/DB"]
            )
        return cls(create_engine(url))

    @property
    def name(self) -> str:
        return self.engine.dialect.name

    @property
    def durable(self) -> bool:
        return self.name != "sqlite" or not _is_in_memory(self.engine.url)

    def begin(self, levels: Savepoints[Any], *, read_only: bool, outgoing: Outbound | None = None) -> "_Work":
        session = self._sessions()
        if read_only and isinstance(session.bind, AsyncEngine):
            session.bind = session.bind.execution_options(**{_READ_ONLY: True}, postgresql_readonly=True)
            session.sync_session.bind = session.bind.sync_engine
        follow(session.sync_session, levels, None if read_only else outgoing)
        return _Work(session, commit_limit_s=self._commit_limit_s)

    async def prepare(self) -> None:
        await create_tables(self.engine)

    async def prepared(self) -> bool:
        try:
            async with asyncio.timeout(2), connected(self.engine) as connection:
                await connection.execution_options(**{_READ_ONLY: True})
                await connection.execute(text("SELECT 1 FROM cauce_listener LIMIT 1"))
        except (SQLAlchemyError, OSError, TimeoutError):
            return False
        return True

    def message_store(self) -> SqlMessageStore:
        return SqlMessageStore(self.engine)

    def inbox(self, work: UnitOfWork) -> SqlInbox:
        return SqlInbox(cast("AsyncSession", work.session))

    def is_infrastructure(self, error: BaseException) -> bool:
        if isinstance(error, (CommitUnknownError, PoolTimeoutError, InterfaceError)):
            return True
        if isinstance(error, PendingRollbackError):  # with this code: the connection was lost before this statement
            return error.code == _CANNOT_RECONNECT
        if not isinstance(error, DBAPIError):
            return False
        if error.connection_invalidated:
            return True
        state = getattr(error.orig, "sqlstate", None)
        if state is not None:
            return str(state)[:2] in _INFRASTRUCTURE_CLASSES or str(state) in _INFRASTRUCTURE_STATES
        return isinstance(error, OperationalError)

    async def figures(self) -> "Figures":
        from cauce.stores.sql.figures import figures_of

        return await figures_of(self.engine)

    async def problem(self) -> str | None:
        try:
            async with asyncio.timeout(2), connected(self.engine) as connection:
                await connection.execution_options(**{_READ_ONLY: True})
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            return f"the database does not answer ({type(error).__name__})"
        return None

    async def close(self) -> None:
        """Close the engine's connections; not those of an engine whose connection somebody lent to the sessions."""
        if not isinstance(self._sessions.kw.get("bind"), AsyncConnection):
            await self.engine.dispose()


class _Work:
    def __init__(self, session: AsyncSession, *, commit_limit_s: float) -> None:
        self._session = session
        self._commit_limit_s = commit_limit_s
        # Asked now: once its own transaction runs, a session of a connection looks the same either way.
        self._joined = joins_an_outer_transaction(session.sync_session)

    @property
    def session(self) -> AsyncSession:
        return self._session

    @property
    def joined(self) -> bool:
        return self._joined

    def take_part(self) -> None:
        if not self._session.in_transaction():
            self._session.sync_session.begin()  # no connection is taken before the first statement

    async def commit(self) -> None:
        try:
            await self._commit()
        finally:
            await self._session.close()

    async def _commit(self) -> None:
        session = self._session
        if not session.in_transaction():
            return
        if session.new or session.dirty or session.deleted:
            try:
                await session.flush()
            except BaseException:
                await session.rollback()
                raise
        try:
            async with asyncio.timeout(self._commit_limit_s):
                await session.commit()
        except TimeoutError:
            await session.invalidate()
            raise CommitUnknownError from None
        except DBAPIError as error:
            if error.connection_invalidated:
                raise CommitUnknownError from error
            raise

    async def rollback(self) -> None:
        # Closing rolls back; a connection that broke is dropped by the pool.
        await self._session.close()

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        return self._savepoint()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncGenerator[None]:
        async with self._session.begin_nested():
            yield
