"""A service's database opened from outside: read-only, so that nothing can change, or to change a few rows."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from cauce.admin.targets import Target
from cauce.dev.private_folder import make_file
from cauce.errors import CauceError, ConfigurationError
from cauce.ports.figures import NoTablesError
from cauce.stores.sql.figures import SNAPSHOT_ON_POSTGRESQL, is_about_tables
from cauce.stores.sql.schema import examine
from cauce.stores.sqlalchemy import create_engine

__all__ = ["DatabaseUnavailableError", "ask_each", "open_engine", "read_only_connection"]

T = TypeVar("T")


class DatabaseUnavailableError(CauceError):
    """The database does not answer, or will not do it; nothing was changed. The message holds no password."""


@asynccontextmanager
async def open_engine(target: Target, *, create_file: bool = False) -> AsyncGenerator[AsyncEngine]:
    """An engine that may write. Raises DatabaseUnavailableError, NoTablesError. `create_file`: a SQLite file too."""
    if not create_file:
        _require_file(target)
    elif target.database.get_backend_name() == "sqlite":
        make_file(Path(str(target.database.database)))
    engine = _writing_engine(target)
    try:
        async with _translated(target):
            yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def read_only_connection(target: Target) -> AsyncGenerator[AsyncConnection]:
    """A connection that reads one snapshot and can write nothing. Raises as `open_engine` does."""
    _require_file(target)
    engine = _reading_engine(target)
    try:
        async with _translated(target), engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                await connection.execution_options(**SNAPSHOT_ON_POSTGRESQL)
            yield connection
    finally:
        await engine.dispose()


async def ask_each(
    targets: Sequence[Target], ask: Callable[[Target], Awaitable[T]]
) -> tuple[dict[str, T], dict[str, str]]:
    """What `ask` found, by service; and for the databases that cannot be reached, why."""
    found: dict[str, T] = {}
    unreachable: dict[str, str] = {}
    for target in targets:
        try:
            found[target.name] = await ask(target)
        except (DatabaseUnavailableError, NoTablesError) as error:
            unreachable[target.name] = str(error)
    return found, unreachable


def _writing_engine(target: Target) -> AsyncEngine:
    try:
        return create_engine(target.database.render_as_string(hide_password=False))
    except ConfigurationError as error:  # of this service alone: the others are asked all the same
        why = "; ".join(error.problems)
        raise DatabaseUnavailableError(f"{target.name}: {target.database_label} ({target.origin}): {why}") from None


def _reading_engine(target: Target) -> AsyncEngine:
    url = target.database
    if url.get_backend_name() != "sqlite":
        return _writing_engine(target)
    file = URL.create(
        "sqlite+aiosqlite", database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"}
    )
    one_trip = import_module("cauce.stores.sql.one_trip")  # aiosqlite may be absent where there is PostgreSQL only
    engine = create_async_engine(file, hide_parameters=True, connect_args={"async_creator_fn": one_trip.connect})

    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is sent below: the driver would not send it for a SELECT

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begun)
    return engine


def _require_file(target: Target) -> None:
    if target.database.get_backend_name() == "sqlite" and not Path(str(target.database.database)).is_file():
        raise DatabaseUnavailableError(
            f"{target.name}: no SQLite file at {target.database_label} ({target.origin}). Has the service been started?"
        )


@asynccontextmanager
async def _translated(target: Target) -> AsyncGenerator[None]:
    """The driver's errors as ours."""
    try:
        yield
    except NoTablesError:
        raise NoTablesError(await _no_tables(target)) from None
    except SQLAlchemyError as error:
        if is_about_tables(error):
            raise NoTablesError(await _no_tables(target)) from None
        if isinstance(error, DBAPIError) and not isinstance(error, (OperationalError, InterfaceError)):
            refused = f"{target.name}: {target.database_label} refuses: {_why(target, error)}"
            raise DatabaseUnavailableError(refused) from None
        raise DatabaseUnavailableError(_unavailable(target, error)) from None
    except OSError as error:
        raise DatabaseUnavailableError(_unavailable(target, error)) from None


async def _no_tables(target: Target) -> str:
    engine = _reading_engine(target)
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(examine)
    finally:
        await engine.dispose()
    if not found.present:
        return (
            f"{target.name}: none of Cauce's tables are in {target.database_label}: it has not run with durable delivery. "
            f"Over Pub/Sub nothing is written down, and lost events leave no trace. → cauce doctor {target.typed}"
        )
    return (
        f"{target.name}: Cauce's tables are not in {target.database_label}, or of another version. "
        f"→ cauce db upgrade {target.typed}"
    )


def _unavailable(target: Target, error: Exception) -> str:
    kind = "PostgreSQL" if target.database.get_backend_name() == "postgresql" else "usable SQLite file"
    return f"{target.name}: no {kind} at {target.database_label} ({target.origin}): {_why(target, error)}"


def _why(target: Target, error: Exception) -> str:
    """The driver's message, in one line and without a password."""
    said = " ".join(str(getattr(error, "orig", None) or error).split())
    why = re.sub(r"^.*?(FATAL: +|failed: (?!.*failed: ))", "", said)
    why = re.sub(r" *(Is the server running|Multiple connection attempts|- host:).*$", "", why).rstrip(".")
    if target.database.password:
        why = why.replace(str(target.database.password), "••••")
    return why or type(error).__name__
