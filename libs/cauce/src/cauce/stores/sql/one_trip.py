"""aiosqlite in one trip to its thread for a statement, where its cursor takes four: made, executed, fetched, closed."""

import sqlite3
from collections.abc import Callable, Generator, Iterable
from functools import partial
from threading import Thread
from typing import Any, Self

import aiosqlite

__all__ = ["connect"]

_AT_ONCE = 1000
"""Rows that come with the execution; what has more is fetched as usual, so that a stream stays one."""


def connect(database: Any, **arguments: Any) -> aiosqlite.Connection:
    """For `connect_args={"async_creator_fn": connect}` of an engine: awaited, it is a connection of aiosqlite's."""
    connection = _Connection(partial(sqlite3.connect, database, **arguments), 64)
    thread: Any = connection if isinstance(connection, Thread) else getattr(connection, "_thread", None)
    if thread is not None:
        thread.daemon = True  # as SQLAlchemy does with those that it makes
    return connection


class _Connection(aiosqlite.Connection):
    def cursor(self) -> Any:
        return _Cursor(self)


class _Cursor(aiosqlite.Cursor):
    """One that has returned all its rows needs no closing: SQLite's statement has ended with the last of them."""

    _cursor: Any
    _conn: Any

    def __init__(self, connection: aiosqlite.Connection) -> None:
        super().__init__(connection, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # made with the first execution
        self._here: list[Any] = []
        self._more = False
        self._arraysize = 1

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Self:
        await self._there(self._execute_there, "execute", sql, [] if parameters is None else parameters)
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        await self._there(self._execute_there, "executemany", sql, parameters)
        return self

    async def executescript(self, sql_script: str) -> Self:
        await self._there(self._execute_there, "executescript", sql_script)
        return self

    async def _there(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._conn._execute(function, *arguments)

    def _execute_there(self, how: str, *arguments: Any) -> None:
        self._here, self._more = [], False
        if self._cursor is None:
            self._cursor = self._conn._conn.cursor()
            self._cursor.arraysize = self._arraysize
        getattr(self._cursor, how)(*arguments)
        if self._cursor.description is not None:
            self._here = self._cursor.fetchmany(_AT_ONCE)
            self._more = len(self._here) == _AT_ONCE

    async def fetchone(self) -> Any:
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        wanted = self.arraysize if size is None else size
        rows, self._here = self._here[:wanted], self._here[wanted:]
        if len(rows) < wanted and self._more:
            further = await self._there(self._cursor.fetchmany, wanted - len(rows))
            self._more = len(further) == wanted - len(rows)
            rows += further
        return rows

    async def fetchall(self) -> list[Any]:
        rows, self._here = self._here, []
        if self._more:
            self._more = False
            rows += await self._there(self._cursor.fetchall)
        return rows

    async def close(self) -> None:
        self._here = []
        if self._more:
            self._more = False
            await self._there(self._cursor.close)

    @property
    def rowcount(self) -> int:
        return -1 if self._cursor is None else self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        return None if self._cursor is None else self._cursor.lastrowid

    @property
    def description(self) -> Any:
        return None if self._cursor is None else self._cursor.description

    @property
    def arraysize(self) -> int:
        return self._arraysize

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._arraysize = value
        if self._cursor is not None:
            self._cursor.arraysize = value
