"""A service's own database: the engine, and its tables brought up to date at start."""

import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import alembic.command
import alembic.config
from cauce.dev.private_folder import make_file
from cauce.errors import CauceError
from cauce.stores import sqlalchemy as store
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

__all__ = ["DatabaseUnavailableError", "engine", "is_the_services_own", "migrate"]

CONNECT_LIMIT_S: Final = 10
MIGRATION_LIMIT_S: Final = 120
"""How long a start waits for another replica's migration."""

_alembic = threading.Lock()  # its environment is global to the process


class DatabaseUnavailableError(CauceError):
    """The service cannot start without its database; nothing was changed. The message holds no password."""


def engine(url: str) -> AsyncEngine:
    """The engine of a service, with the settings Cauce's promises need. Connects to nothing yet.

    The folder of a SQLite file is created.
    """
    _make_folder(make_url(url))
    return store.create_engine(url)


def migrate(url: str, migrations_package: str) -> None:
    """Bring the tables to the newest revision in `migrations_package`, all of it in one transaction.

    Blocking: call it at start, before the event loop. Safe when several replicas start at once (one
    migrates, the others wait, at most MIGRATION_LIMIT_S seconds) and when there is nothing to do. Raises
    DatabaseUnavailableError when the database cannot be reached or opened; an error of a migration itself
    comes out as it is, rolled back.
    """
    parsed = make_url(url)
    _make_folder(parsed)
    config = alembic.config.Config()
    config.set_main_option("script_location", _escaped(Path(__file__).parent / "alembic_env"))
    config.set_main_option("version_locations", _escaped(_folder_of(migrations_package)))
    config.set_main_option("path_separator", "newline")
    migrating = _blocking_engine(parsed)
    try:
        with _alembic, _exclusively(migrating, parsed, migrations_package) as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    finally:
        migrating.dispose()


def is_the_services_own(name: str | None, type_: str, _parents: object) -> bool:
    """Alembic's `include_name`: Cauce's tables stand in the same database and look after themselves."""
    return not (type_ == "table" and name is not None and name.startswith("cauce_"))


def _folder_of(package: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"{package!r} is not a package; expected the one that holds the Alembic revisions")
    return Path(found.submodule_search_locations[0])


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _make_folder(url: URL) -> None:
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return
    file = Path(str(url.database))
    try:
        make_file(file)
    except OSError as error:
        raise DatabaseUnavailableError(f"the folder {file.parent} cannot be created: {error.strerror}") from None


def _blocking_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        blocking = create_engine(
            url.set(drivername="sqlite"),
            hide_parameters=True,
            poolclass=NullPool,
            connect_args={"timeout": MIGRATION_LIMIT_S},
        )
        event.listen(blocking, "connect", _prepare_sqlite)
        event.listen(blocking, "begin", _begin_immediate)
        return blocking
    return create_engine(
        url, hide_parameters=True, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_LIMIT_S}
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we begin ourselves: the driver would leave DDL outside the transaction
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _exclusively(migrating: Engine, url: URL, package: str) -> Generator[Connection]:
    """A transaction that only one process at a time can be in."""
    try:
        connection = migrating.connect()
        transaction = connection.begin()
        if url.get_backend_name() == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_LIMIT_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": crc32(package.encode())})
    except DBAPIError as error:
        raise DatabaseUnavailableError(_unavailable(url, error)) from None
    with connection, transaction:
        yield connection


def _unavailable(url: URL, error: DBAPIError) -> str:
    """One line: which database, what happened, what to do."""
    if url.get_backend_name() == "sqlite":
        return f"the SQLite file {url.database} cannot be used: {error.orig}. Check who may write there."
    where = f"{url.host or 'localhost'}:{url.port or 5432}/{url.database}"
    said = " ".join(str(error.orig).split())
    why = re.sub(r"^.*?(FATAL: +|failed: (?!.*failed: ))", "", said)
    why = re.sub(r" *(Is the server running|Multiple connection attempts|- host:).*$", "", why)
    if url.password:
        why = why.replace(str(url.password), "••••")
    return f"no PostgreSQL at {where}: {why.rstrip('.')}. Start it (make infra) or correct the database URL."
