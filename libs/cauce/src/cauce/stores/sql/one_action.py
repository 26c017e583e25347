"""One action of an operator in one transaction, beside a service that runs.

No table is named here. A deadlock with the service is tried again; a row that is being handled is not waited for longer
than seconds.
"""

from collections.abc import Awaitable, Callable
from sqlite3 import SQLITE_BUSY

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.stores.sql.dialect import Dialect

__all__ = ["in_one_action"]

_DEADLOCK_ATTEMPTS = 4
_DEADLOCK, _LOCK_NOT_AVAILABLE = "40P01", "55P03"
_BEING_HANDLED = "it is being handled at this moment: once more when that has ended"


async def in_one_action(engine: AsyncEngine, act: Callable[[AsyncConnection], Awaitable[bool | str]]) -> bool | str:
    """Commit what `act` did, or roll it back if it returns something other than True; return what it returned.

    Returns why not if a transaction of the service holds a row for longer than three seconds.
    """
    for attempts_left in reversed(range(_DEADLOCK_ATTEMPTS)):
        try:
            async with engine.begin() as connection:
                if Dialect(engine.dialect.name).postgres:
                    await connection.execute(text("SELECT set_config('lock_timeout', '3s', true)"))
                done = await act(connection)
                if done is not True:
                    await connection.rollback()
                return done
        except DBAPIError as error:
            # The running service was handling this very delivery, and the database ended one of the two.
            state = getattr(error.orig, "sqlstate", None)
            if state == _LOCK_NOT_AVAILABLE or getattr(error.orig, "sqlite_errorcode", None) == SQLITE_BUSY:
                return _BEING_HANDLED
            if state != _DEADLOCK or not attempts_left:
                raise
    return _BEING_HANDLED
