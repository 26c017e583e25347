"""A database whose clock can be set, back and forward, while services work on it."""

import time
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from testsupport.databases import engines_of

__all__ = ["DatabaseClock"]

_ON_POSTGRES = (
    "CREATE SCHEMA clock",
    "CREATE TABLE clock.set_by (seconds double precision NOT NULL)",
    "INSERT INTO clock.set_by VALUES (0)",
    (
        "CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS "
        "'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM clock.set_by))'"
    ),
)


class DatabaseClock:
    """The clock of one database: PostgreSQL finds ours before its own by the search path, SQLite is given another.

    `engines`: all engines of this test on that database. None of them may have connected before.
    """

    def __init__(self, *engines: AsyncEngine) -> None:
        self._engine = engines[0]
        self._on_sqlite = self._engine.dialect.name == "sqlite"
        self._set_by_s = 0.0
        for engine in engines:
            for one in engines_of(engine):
                event.listen(one, "connect", self._prepare)

    def _prepare(self, connection: Any, _record: object) -> None:
        if self._on_sqlite:
            connection.create_function("julianday", 1, self._julian_day)
            return
        cursor = connection.cursor()
        cursor.execute("SET search_path = public, clock, pg_catalog")
        cursor.close()
        connection.commit()

    def _julian_day(self, _now: str) -> float:
        return (time.time() + self._set_by_s) / 86400.0 + 2440587.5

    async def install(self) -> None:
        """Before the first look at it."""
        if not self._on_sqlite:
            async with self._engine.begin() as connection:
                for statement in _ON_POSTGRES:
                    await connection.execute(text(statement))

    async def set(self, seconds: float) -> None:
        """Forward; back if below 0."""
        self._set_by_s += seconds
        if not self._on_sqlite:
            async with self._engine.begin() as connection:
                await connection.execute(text("UPDATE clock.set_by SET seconds = :to"), {"to": self._set_by_s})
