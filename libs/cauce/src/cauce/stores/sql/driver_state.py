"""What the driver says of its connection's transaction, and what the database answers to a COMMIT.

A COMMIT of an aborted transaction is answered ROLLBACK by PostgreSQL, and no driver raises for it. SQLite ends a
transaction by itself (a full disk, `INSERT OR ROLLBACK`, a trigger), and executes what follows each on its own.
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from sqlalchemy import Dialect

from cauce.errors import TransactionAbortedError
from cauce.stores.sql.events_with_commit import TakesAlong, taking_along

__all__ = ["IN_FAILED_TRANSACTION", "State", "is_closed", "read_outcome_of_commits", "state_of", "state_of_driver"]


class State(Enum):
    """Of a connection's transaction, in the words of PostgreSQL's protocol."""

    NONE = auto()
    OPEN = auto()
    ABORTED = auto()
    """Nothing of it can be committed; on asyncpg this looks like OPEN, and the answer to COMMIT tells."""
    UNKNOWN = auto()
    """A driver that does not say, or a connection that broke."""


_OF_LIBPQ = {0: State.NONE, 1: State.OPEN, 2: State.OPEN, 3: State.ABORTED}
"""By the number of PQtransactionStatus; psycopg and psycopg2 have the same."""

IN_FAILED_TRANSACTION = "25P02"


def state_of(pooled: Any) -> State:
    """The state of a DBAPI connection from SQLAlchemy's pool. Costs no round trip."""
    return state_of_driver(pooled.driver_connection)


def state_of_driver(driver: Any) -> State:
    if (libpq := getattr(driver, "pgconn", None)) is not None:
        return _OF_LIBPQ.get(int(libpq.transaction_status), State.UNKNOWN)
    if (status := getattr(driver, "get_transaction_status", None)) is not None:
        return _OF_LIBPQ.get(int(status()), State.UNKNOWN)
    if (is_open := getattr(driver, "is_in_transaction", None)) is not None:
        return State.OPEN if is_open() else State.NONE
    try:
        is_open = getattr(driver, "in_transaction", None)
    except ValueError:  # aiosqlite: its connection is closed
        return State.UNKNOWN
    if is_open is None:
        return State.UNKNOWN
    return State.OPEN if is_open else State.NONE


def is_closed(pooled: Any) -> bool:
    """Whether the driver knows that its connection is gone. Costs no round trip."""
    driver = pooled.driver_connection
    if (ask := getattr(driver, "is_closed", None)) is not None:
        return bool(ask())
    return bool(getattr(driver, "closed", False))


def read_outcome_of_commits(dialect: Dialect) -> None:
    """Let a COMMIT of this engine's dialect raise TransactionAbortedError unless the database answers COMMIT."""
    plain: Any = dialect.do_commit
    if not isinstance(plain, _ReadCommit):
        dialect.do_commit = _ReadCommit(dialect.driver, plain)  # type: ignore[method-assign]  # for this engine alone


_Ask = Callable[[Any], Awaitable[str]]


class _ReadCommit:
    def __init__(self, driver: str, plain: Callable[[Any], None]) -> None:
        self._plain = plain
        self._ask = {"psycopg": _commit_by_psycopg, "asyncpg": _fails_if_aborted}.get(driver)

    def __call__(self, pooled: Any) -> None:
        state = state_of(pooled)
        ask = None if state is State.ABORTED else self._way(pooled, state)
        answer = "ROLLBACK" if state is State.ABORTED else "COMMIT"
        if ask is not None:
            answer = pooled.dbapi_connection.run_async(ask)
        if answer != "COMMIT":
            pooled.rollback()  # after a commit that failed SQLAlchemy takes the transaction for over
            raise TransactionAbortedError
        if ask not in _COMMITS:
            self._plain(pooled)

    def _way(self, pooled: Any, state: State) -> _Ask | None:
        driver = taking_along(pooled)
        if driver is not None and driver.carries:
            return _commit_with_carried
        return self._ask if state is State.OPEN and hasattr(pooled.dbapi_connection, "run_async") else None


async def _commit_with_carried(driver: TakesAlong) -> str:
    return await driver.commit_with_carried()


async def _commit_by_psycopg(driver: Any) -> str:
    """The driver's own `commit` throws the answer away."""
    cursor = await driver.execute("COMMIT", prepare=False)
    return cursor.statusmessage


_COMMITS: tuple[_Ask | None, ...] = (_commit_with_carried, _commit_by_psycopg)


async def _fails_if_aborted(driver: Any) -> str:
    """For an engine that `create_engine` did not make: a round trip more, which fails in an aborted transaction."""
    if not getattr(driver, "reads_outcome_of_commits", False):
        try:
            await driver.execute("SELECT 1")
        except Exception as error:
            if getattr(error, "sqlstate", None) != IN_FAILED_TRANSACTION:
                raise
            return "ROLLBACK"
    return "COMMIT"
