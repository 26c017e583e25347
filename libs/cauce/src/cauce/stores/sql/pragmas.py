"""What every connection to a SQLite file is set to, whichever driver made it."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from cauce.errors import ConfigurationError

__all__ = ["BUSY_TIMEOUT_S", "LOCK_LOOKS_EVERY_S", "PRAGMAS", "set_pragmas"]

BUSY_TIMEOUT_S = 5
LOCK_LOOKS_EVERY_S = 0.01
PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "busy_timeout": BUSY_TIMEOUT_S * 1000,
    "foreign_keys": 1,
}
"""Committed means on the disk (2 = FULL), and writers wait for each other instead of failing."""


def set_pragmas(connection: Any, pause: Callable[[], None]) -> None:
    """Raises ConfigurationError if SQLite refuses one. `pause` waits LOCK_LOOKS_EVERY_S, as the driver can."""
    connection.isolation_level = None  # the driver's own BEGIN comes too late and is always deferred
    cursor = connection.cursor()
    for pragma, wanted in PRAGMAS.items():
        _set(cursor, f"PRAGMA {pragma} = {wanted}", pause)
        cursor.execute(f"PRAGMA {pragma}")
        if (found := cursor.fetchone()[0]) != wanted and not (pragma == "journal_mode" and found == "memory"):
            raise ConfigurationError([f"SQLite refuses PRAGMA {pragma} = {wanted} (it is {found})"])
    cursor.close()


def _set(cursor: Any, statement: str, pause: Callable[[], None]) -> None:
    """Execute it, waiting while the database is locked. The first process that opens a new file turns it to WAL, and
    SQLite does not wait for that: others that open it at the same moment get "database is locked" at once, whatever the
    busy timeout."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return cursor.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        pause()
