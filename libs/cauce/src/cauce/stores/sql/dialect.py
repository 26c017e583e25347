"""The differences in spelling between PostgreSQL and SQLite."""

import json
from collections.abc import Iterable
from functools import lru_cache

from sqlalchemy import TextClause, text

__all__ = ["BY_CLOCK", "Dialect"]

BY_CLOCK = "COALESCE(CAST(:clock AS double precision), :NOW)"
"""The caller's `:clock` if it is not None, else the database's own."""


class Dialect:
    """One of the two, by SQLAlchemy's name for it. In a statement `:NOW` is the database's own clock, in seconds.

    PostgreSQL compares a column with a clock that runs row by row, and with `(SELECT :NOW)` by an index.
    """

    def __init__(self, name: str) -> None:
        self.postgres = name == "postgresql"
        self.now = (
            "extract(epoch FROM clock_timestamp())" if self.postgres else "((julianday('now') - 2440587.5) * 86400.0)"
        )
        self.lock = " FOR UPDATE" if self.postgres else ""

    def sql(self, statement: str) -> TextClause:
        return _made_once(statement, self.now, self.lock)

    def among(self, column: str, parameter: str, *, type_: str = "text") -> str:
        """Spell "the column's value is one of these", given as `many` makes them: one statement for any number."""
        if self.postgres:
            return f"{column} = ANY(CAST(:{parameter} AS {type_}[]))"
        return f"{column} IN (SELECT value FROM json_each(:{parameter}))"

    def many(self, values: Iterable[str] | Iterable[int]) -> object:
        """Make the parameter for `among`."""
        return list(values) if self.postgres else json.dumps(list(values))


@lru_cache(maxsize=512)
def _made_once(statement: str, now: str, lock: str) -> TextClause:
    return text(statement.replace(":NOW", now).replace(" FOR UPDATE", lock))
