"""Cauce's tables in a service's database, brought up to date from outside."""

from collections.abc import Sequence

from cauce.admin.database import open_engine, read_only_connection
from cauce.admin.targets import Target
from cauce.stores.sql.schema import SCHEMA, examine, upgrade

__all__ = ["steps_of_upgrade", "upgrade_tables"]


async def steps_of_upgrade(target: Target) -> Sequence[str]:
    """What is to be done to the tables; nothing is changed."""
    async with read_only_connection(target) as connection:
        found = await connection.run_sync(examine)
    if found.version is None or found.version >= SCHEMA:
        return [f"{one} is missing" for one in found.missing]
    return [
        f"the tables are of version {found.version}: columns are renamed and rows moved, while no process of the service runs",
        *(f"{one} is missing" for one in found.missing if "." not in one),
    ]


async def upgrade_tables(target: Target) -> Sequence[str]:
    """Bring the tables up to date, and return the steps that were taken. A SQLite file is made if it is not there.

    Raises ConfigurationError if the tables are of a later version, or of an earlier one that a running process works with;
    nothing is changed then.
    """
    async with open_engine(target, create_file=True) as engine, engine.begin() as connection:
        return await connection.run_sync(upgrade)
