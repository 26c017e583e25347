"""Cauce's tables in a service's database, brought up to date from outside."""

from collections.abc import Sequence

from cauce.admin.database import open_engine, read_only_connection
from cauce.admin.targets import Target
from cauce.stores.sql.schema import examine, upgrade

__all__ = ["missing_tables", "upgrade_tables"]


async def missing_tables(target: Target) -> Sequence[str]:
    """What is missing of the tables; nothing is changed."""
    async with read_only_connection(target) as connection:
        return (await connection.run_sync(examine)).missing


async def upgrade_tables(target: Target) -> Sequence[str]:
    """Make what is missing, and return the steps that were taken. A SQLite file is made if it is not there.

    Raises ConfigurationError if the tables are of a later version; nothing is changed then.
    """
    async with open_engine(target, create_file=True) as engine, engine.begin() as connection:
        return await connection.run_sync(upgrade)
