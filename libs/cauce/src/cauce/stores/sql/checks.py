"""Queries of `cauce doctor` about the database server: its settings, its clock, the oldest transaction."""

from collections.abc import Mapping

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.stores.sql.dialect import Dialect

__all__ = ["ServerSettings", "clock_of", "oldest_transaction_s", "server_settings"]


class ServerSettings(Struct, frozen=True, kw_only=True):
    """`version` as people say it; `values`: the settings that decide whether a commit outlives a crash."""

    version: str
    postgres: bool
    values: Mapping[str, str]


async def server_settings(connection: AsyncConnection) -> ServerSettings:
    """Of the database server, or of the SQLite file."""
    if Dialect(connection.dialect.name).postgres:
        values = {
            name: str((await connection.exec_driver_sql(f"SHOW {name}")).scalar_one())
            for name in ("server_version", "fsync", "full_page_writes", "synchronous_commit")
        }
        return ServerSettings(version=f"PostgreSQL {values['server_version'].split()[0]}", postgres=True, values=values)
    version = f"SQLite {(await connection.exec_driver_sql('SELECT sqlite_version()')).scalar_one()}"
    values = {"journal_mode": str((await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one())}
    return ServerSettings(version=version, postgres=False, values=values)


async def clock_of(connection: AsyncConnection) -> float:
    """The database's clock, in seconds since the epoch."""
    (row,) = await connection.execute(Dialect(connection.dialect.name).sql("SELECT :NOW AS now"))
    return float(row.now)


async def oldest_transaction_s(connection: AsyncConnection) -> float | None:
    """For how long the oldest transaction of others has been open; None without one, and for SQLite."""
    if not Dialect(connection.dialect.name).postgres:
        return None
    (oldest,) = await connection.exec_driver_sql(
        "SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) AS age FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return None if oldest.age is None else float(oldest.age)
