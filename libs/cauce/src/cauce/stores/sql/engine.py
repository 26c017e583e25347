"""Engines with the settings that Cauce's promises need, for PostgreSQL and for SQLite."""

import asyncio
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from cauce.errors import ConfigurationError
from cauce.settings.tls_files import POSTGRESQL, problems_of_files
from cauce.stores.sql.driver_state import is_closed, read_outcome_of_commits
from cauce.stores.sql.error_values import hide_values
from cauce.stores.sql.events_with_commit import forget_between_users
from cauce.stores.sql.poolers import prepare_nothing_behind_poolers, refuse_poolers
from cauce.stores.sql.pragmas import LOCK_LOOKS_EVERY_S, set_pragmas
from cauce.stores.sql.refused import problems_of
from cauce.stores.sql.standard_driver import StandardDriver
from cauce.stores.sql.turns import TURN_LIMIT_S, Turns
from cauce.stores.sql.watching import watch_statements

__all__ = ["READ_ONLY", "create_engine", "is_in_memory", "keep_promises"]

_READ_ONLY = "cauce_read_only"
READ_ONLY = {_READ_ONLY: True}
"""Execution options of a transaction that writes nothing: on SQLite it does not wait for the writers' turn."""
_DRIVERS = {"sqlite": ("aiosqlite",), "postgresql": ("psycopg", "asyncpg")}
_POOL_SIZE = 20
"""A connection beyond these is closed after its use, and making one takes longer than a transaction."""
_RESTS_SINCE = "cauce_rests_since"
_RESTED_S = 1.0
_WRITES = "cauce_writes"
_MAKES_CONNECTIONS = frozenset({"creator", "async_creator", "async_creator_fn", "module", "dbapi"})
"""Options with which connections are made in a way of the user's, that nothing can be put beside."""


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """Make an engine with the settings Cauce's promises need; `options` go to `create_async_engine`.

    SQLite: WAL, synchronous=FULL, foreign keys, a busy timeout, and BEGIN IMMEDIATE for every transaction that is not
    read-only (a deferred one that turns writer fails at once instead of waiting). A SQLite in memory is one connection,
    which transactions have in turn, and is gone when the service stops. PostgreSQL: pooled connections that have rested
    are tested before use, dead peers are noticed, statements are not prepared behind a pooler such as PgBouncer, and
    COMMIT takes the rows of events along, BEGIN on psycopg goes out with the first statement (`async_creator_fn` and, on
    asyncpg, `connection_class` of `connect_args` replace the connections that do so). On both, parameters never appear
    in errors or logs, and a COMMIT that the database answers otherwise raises TransactionAbortedError.

    Raises ConfigurationError for a URL that is not one of the two, for AUTOCOMMIT, and for each file of a certificate or
    a key (`sslrootcert=…`) that is not there or is none: libpq would connect without it. Connects to nothing.
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
    return (_sqlite if backend == "sqlite" else _postgresql)(parsed, options)


def _sqlite(url: URL, options: dict[str, Any]) -> AsyncEngine:
    if is_in_memory(url):  # it lives in one connection, which transactions then have one after the other
        alone = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0}
        options = {**alone, "pool_timeout": TURN_LIMIT_S, **options}
    arguments: dict[str, Any] = options.pop("connect_args", {})
    made_by_us = not _MAKES_CONNECTIONS & {*options, *arguments}
    one_trip = {"async_creator_fn": import_module("cauce.stores.sql.one_trip").connect} if made_by_us else {}
    engine = _checked(create_async_engine(url, hide_parameters=True, connect_args={**arguments, **one_trip}, **options))
    turns = Turns()
    _prepare_sqlite(engine, turns)
    if made_by_us and not is_in_memory(url):
        StandardDriver(url, turns, **arguments).stand_beside(engine)
    return engine


def _postgresql(url: URL, options: dict[str, Any]) -> AsyncEngine:
    arguments: dict[str, Any] = options.pop("connect_args", {})
    if problems := [*problems_of_files({**url.query, **arguments}, POSTGRESQL)]:
        raise ConfigurationError(problems, where="the options of the database URL")
    if url.get_driver_name() == "psycopg":
        connection = import_module("cauce.stores.sql.psycopg_connection")  # only where there is psycopg
        ours = {"async_creator_fn": connection.PsycopgConnection.connect} if connection.is_supported() else {}
        arguments = {**ours, "connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10, **arguments}
    else:
        connection = import_module("cauce.stores.sql.asyncpg_connection")  # only where there is asyncpg
        arguments = {"connection_class": connection.AsyncpgConnection, **arguments}
    # The one that was used last: it has not rested, and needs no test.
    pool = {"pool_size": _POOL_SIZE, "pool_use_lifo": True} if "poolclass" not in options else {}
    engine = _checked(create_async_engine(url, hide_parameters=True, connect_args=arguments, **{**pool, **options}))
    forget_between_users(engine.sync_engine)
    if url.get_driver_name() == "asyncpg" and arguments.get("statement_cache_size") != 0:
        refuse_poolers(engine.sync_engine)
    if not options.get("pool_pre_ping", False):
        _test_after_a_pause(engine)
    return engine


def keep_promises(engine: AsyncEngine) -> None:
    """Do what is needed of every engine, also of one that SQLAlchemy made alone; doing it again changes nothing."""
    watch_statements(engine.sync_engine)
    read_outcome_of_commits(engine.dialect)
    hide_values(engine.sync_engine)
    prepare_nothing_behind_poolers(engine.sync_engine)


def _checked(engine: AsyncEngine) -> AsyncEngine:
    """The engine, unless its options would make a transaction none."""
    if problems := [*problems_of(engine, None)]:
        raise ConfigurationError(problems, where="the options of the engine")
    keep_promises(engine)
    return engine


def _test_after_a_pause(engine: AsyncEngine) -> None:
    """Test a connection that has rested before it is used, or that was closed by us. One that was used just now is not
    tested: that would cost every transaction a round trip, and find no more than its own first statement finds."""
    dialect = engine.sync_engine.dialect

    def returned(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_RESTS_SINCE] = time.monotonic()

    def taken(connection: Any, record: ConnectionPoolEntry, _pooled: object) -> None:
        if is_closed(connection) or time.monotonic() - record.info.get(_RESTS_SINCE, float("inf")) > _RESTED_S:
            try:
                dialect.do_ping(connection)
            except dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error

    event.listen(engine.sync_engine, "checkin", returned)
    event.listen(engine.sync_engine, "checkout", taken)


def _check_driver(url: URL) -> None:
    """Raise ConfigurationError unless the driver is a supported one, and installed."""
    backend = url.get_backend_name()
    drivers = _DRIVERS[backend]
    _, _, driver = url.drivername.partition("+")
    if driver not in drivers:
        driver_or_default = (
            f"the driver {driver!r} of the database URL"
            if driver
            else "the database URL names no driver, and the default"
        )
        raise ConfigurationError([f"{driver_or_default} is not asynchronous; write {backend}+{drivers[0]}://…"])
    try:
        import_module(driver)
    except ImportError:
        fix = f"'cauce[{'sqlite' if backend == 'sqlite' else 'postgres'}]'" if driver == drivers[0] else driver
        raise ConfigurationError([f"the driver {driver} is not installed: pip install {fix}"]) from None


def is_in_memory(url: URL) -> bool:
    return url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"


def _prepare_sqlite(engine: AsyncEngine, turns: Turns) -> None:
    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get(_READ_ONLY, False):
            connection.exec_driver_sql("PRAGMA query_only = 1")
            connection.exec_driver_sql("BEGIN")
        else:
            _wait_for_turn(connection, turns)
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def invalidated(connection: Any, _record: object, _error: object) -> None:
        # A closed connection of SQLite keeps its locks as long as a cursor of it is referenced, and the traceback of
        # cancelled code references one. So its transaction is ended first.
        if connection is not None:
            # A second cancellation is suppressed: the first is being raised already, and the connection must be closed.
            with suppress(SQLAlchemyError, engine.dialect.loaded_dbapi.Error, ValueError, asyncio.CancelledError):
                connection.run_async(_roll_back)

    event.listen(engine.sync_engine, "connect", _connected)
    event.listen(engine.sync_engine, "invalidate", invalidated)
    event.listen(engine.sync_engine, "begin", begun)
    event.listen(engine.sync_engine, "checkin", _end_turn)


def _connected(connection: Any, _record: object) -> None:
    set_pragmas(connection, lambda: connection.run_async(_pause))


def _end_turn(connection: Any, record: ConnectionPoolEntry) -> None:
    """Let the next writer begin, and leave the connection as it is expected in the pool: no transaction, writable."""
    turn: asyncio.Lock | None = (record.record_info or {}).pop(_WRITES, None)
    if turn is not None:
        turn.release()
    if connection is not None:
        cursor = connection.cursor()
        if connection.driver_connection.in_transaction:  # a refused COMMIT leaves it open
            cursor.execute("ROLLBACK")
        cursor.execute("PRAGMA query_only = 0")
        cursor.close()


async def _pause(_driver: object) -> None:
    await asyncio.sleep(LOCK_LOOKS_EVERY_S)


async def _roll_back(driver: Any) -> None:
    await asyncio.shield(driver.rollback())


def _wait_for_turn(connection: Connection, turns: Turns) -> None:
    """The turn ends when the connection goes back to the pool."""
    pooled: Any = connection.connection
    if _WRITES in pooled.record_info:
        return

    async def wait(_driver: object) -> None:
        if (turn := await turns.wait()) is not None:
            pooled.record_info[_WRITES] = turn

    pooled.dbapi_connection.run_async(wait)
