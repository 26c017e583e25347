"""A statement given to PostgreSQL's driver itself: for those that carry hundreds of rows, where SQLAlchemy would take most
of the time.

Its errors are those that SQLAlchemy would raise, and a connection that broke leaves the pool, as after any other.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.error_values import without_values

__all__ = ["DriverStatement", "array", "many"]

_NAME = re.compile(r"(?<!:):([a-z_]+)")


class DriverStatement:
    """SQL with `:name` for each value, and `:NOW` as everywhere here."""

    def __init__(self, statement: str) -> None:
        spelled = statement.replace(":NOW", Dialect("postgresql").now)
        self._names = list(dict.fromkeys(_NAME.findall(spelled)))
        self._statement = spelled
        self.for_psycopg = _NAME.sub(r"%(\1)s", spelled.replace("%", "%%"))
        self.for_asyncpg = _NAME.sub(lambda found: f"${self._names.index(found[1]) + 1}", spelled)

    async def rows(self, connection: AsyncConnection, **values: Any) -> Sequence[Any]:
        """Execute it on this connection, outside of SQLAlchemy's transactions: it is its own. Raises DBAPIError."""
        dialect: Any = connection.dialect
        pooled: Any = await connection.get_raw_connection()
        driver = pooled.driver_connection
        try:
            if dialect.driver == "psycopg":
                cursor = await driver.execute(
                    self.for_psycopg, values, prepare=driver.prepare_threshold is not None or None, binary=True
                )
                return await cursor.fetchall()
            return await driver.fetch(self.for_asyncpg, *(values[name] for name in self._names))
        except Exception as error:
            if driver.closed if dialect.driver == "psycopg" else driver.is_closed():
                await connection.invalidate(error)
            if getattr(error, "sqlstate", None) is None and not isinstance(error, dialect.loaded_dbapi.Error):
                raise
            raise _as_of_sqlalchemy(error, self._statement, dialect) from None


def array(column: str, type_: str) -> str:
    """Spell a parameter that `many` made as an array. Both drivers are quickest with a text; in a query of its own the
    server reads it once, and not for every row."""
    return f"CAST((SELECT CAST(CAST(:{column} AS text) AS {type_}[])) AS {type_}[])"


def many(values: Iterable[object]) -> str:
    """Make the text of an array, for `array`."""
    return "{" + ",".join(str(one) if isinstance(one, int) else _quoted(str(one)) for one in values) + "}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _as_of_sqlalchemy(error: Exception, statement: str, dialect: Any) -> BaseException:
    text = without_values(error)
    error.args = (text, *error.args[1:])
    base = dialect.loaded_dbapi.Error if isinstance(error, dialect.loaded_dbapi.Error) else type(error)
    return DBAPIError.instance(statement, None, error, base, hide_parameters=True, dialect=dialect)
