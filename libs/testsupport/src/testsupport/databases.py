"""What is in a database under test, asked from outside."""

import atexit
import sqlite3
from typing import Any

import psycopg
from cauce.stores.sql.standard_driver import standard_driver_of
from sqlalchemy import Engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["engines_of", "leave", "query"]

_KEPT = 4
_connections: dict[str, "psycopg.Connection[tuple[Any, ...]]"] = {}
"""By URL, the newest last. A connection costs both sides more than any question that is asked over it."""


def query(url: str, sql: str, *, write: bool = False) -> list[tuple[Any, ...]]:
    """Rows of a PostgreSQL or SQLite database; with `write`, the statement is committed and nothing is returned."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(parsed.database), timeout=10)
        try:
            rows = connection.execute(sql).fetchall()
            connection.commit()
            return rows
        finally:
            connection.close()
    plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    kept = _connections.pop(plain, None)
    if kept is not None:
        try:
            return _ask(plain, kept, sql, write=write)
        except psycopg.OperationalError:
            kept.close()  # the server was restarted since, or has ended it
    return _ask(plain, psycopg.connect(plain, connect_timeout=5, autocommit=True), sql, write=write)


def engines_of(engine: AsyncEngine) -> list[Engine]:
    """For events of SQLAlchemy's: the engine of the user's sessions, and the one beside it that Cauce's own statements
    have on a SQLite file."""
    own = standard_driver_of(engine)
    return [engine.sync_engine] if own is None else [engine.sync_engine, own.engine]


def leave() -> None:
    """Be connected to none of them: PostgreSQL copies no database that somebody looks at."""
    while _connections:
        _connections.popitem()[1].close()


atexit.register(leave)  # a connection that is left open is a warning at the end of the process


def _ask(
    url: str, connection: "psycopg.Connection[tuple[Any, ...]]", sql: str, *, write: bool
) -> list[tuple[Any, ...]]:
    _connections[url] = connection
    while len(_connections) > _KEPT:
        _connections.pop(next(iter(_connections))).close()
    cursor = connection.execute(sql.encode())
    return [] if write or cursor.description is None else cursor.fetchall()
