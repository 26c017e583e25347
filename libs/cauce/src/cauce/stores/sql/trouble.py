"""Trouble with our own database, told apart from an error of the code that uses it.

Two questions, because the place decides first. An error of a statement of ours, before a listener is called or at the
commit, is judged by the database's code. An error that comes out of a listener is the listener's, whatever its code
says: its statements, its limits, its other databases. Only a lost or refused connection, a deadlock and a serialization
failure are not, and only of the store's own engine, which marks its errors for that.
"""

import sqlite3
from collections.abc import Iterator
from typing import Any, cast

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from cauce.errors import CommitUnknownError

__all__ = [
    "is_refused_as_read_only",
    "mark_errors_of",
    "spoils_a_listener",
    "spoils_our_statement",
]

_CLASSES = ("08", "40", "53", "57", "58")
"""SQLSTATE: connection, rollback (deadlock, serialization), resources, operator, system."""
_READ_ONLY = "25006"
_IDLE_TOO_LONG = ("25P03", "25P04")
_STATES = (_READ_ONLY, *_IDLE_TOO_LONG, "55P03")
"""The server serves no writers (any more), it has ended an idle or overlong transaction, a lock was not to be had."""
_CONFLICTS = ("40001", "40P01")
_SQLITE_CODES = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
)
_SQLITE_LOST = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_SQLITE_CONFLICTS = (sqlite3.SQLITE_BUSY_SNAPSHOT,)
_CANNOT_RECONNECT = "8s2b"
_MARK = "cauce_of"
"""On an error: the dialect, of which every engine has its own, and whether the connection was lost or refused."""


def mark_errors_of(engine: Engine) -> None:
    """From now on the errors of this engine are known as such, and a connection that cannot write any more is closed.

    After a failover the connections of a demoted server answer, and refuse every change; waiting does not help them.
    """
    if not event.contains(engine, "handle_error", _mark):
        event.listen(engine, "handle_error", _mark)


def spoils_our_statement(error: BaseException) -> bool:
    """Whether an error of a statement of ours, a commit included, is the database's trouble."""
    if isinstance(error, (CommitUnknownError, PoolTimeoutError)):
        return True
    if isinstance(error, OSError):  # asyncpg connects without wrapping it
        return True
    if isinstance(error, PendingRollbackError):  # with this code: the connection was lost before this statement
        return error.code == _CANNOT_RECONNECT
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if (code := _sqlite_code(error)) is not None:
        return code & 0xFF in _SQLITE_CODES
    state = _state(error)
    if state is not None:
        return state[:2] in _CLASSES or state in _STATES
    return isinstance(error, OperationalError)  # without a code of the server: it was not reached


def spoils_a_listener(error: BaseException, engine: Engine) -> bool:
    """Whether what came out of a listener is trouble of this engine's database, and not the listener's own."""
    return any(_is_trouble_of(engine, one) for one in _origins(error))


def is_refused_as_read_only(error: BaseException) -> bool:
    """Whether a change was refused because the server, or the transaction, takes none; nothing is in doubt then."""
    return _state(error) == _READ_ONLY


def _is_trouble_of(engine: Engine, error: BaseException) -> bool:
    dialect, lost = getattr(error, _MARK, (None, False))
    if dialect is not engine.dialect or _state(error) in _IDLE_TOO_LONG:
        return False
    code = _sqlite_code(error)
    if code is not None:
        return code & 0xFF in _SQLITE_LOST or code in _SQLITE_CONFLICTS
    return lost or _state(error) in _CONFLICTS


def _origins(error: BaseException) -> Iterator[BaseException]:
    """The error, those of a group, and those that each was raised from."""
    found, seen = [error], set[int]()
    while found:
        one = found.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            found += cast("tuple[BaseException, ...]", one.exceptions)
        if one.__cause__ is not None:
            found.append(one.__cause__)


def _mark(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception or context.original_exception
    if not isinstance(error, Exception):
        return  # cancelled in the middle of a statement, by a listener's limit for example
    error.__dict__[_MARK] = (context.dialect, context.is_disconnect or context.connection is None)
    if is_refused_as_read_only(error) and not _meant_read_only(context):
        context.is_disconnect = True  # SQLAlchemy closes it, and those that the pool has


def _meant_read_only(context: ExceptionContext) -> bool:
    return context.connection is not None and bool(
        context.connection.get_execution_options().get("postgresql_readonly", False)
    )


def _state(error: BaseException) -> str | None:
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return None if state is None else str(state)


def _sqlite_code(error: BaseException) -> int | None:
    cause: Any = getattr(error, "orig", None)
    if not isinstance(cause, sqlite3.Error):
        return None
    return getattr(cause, "sqlite_errorcode", None)
