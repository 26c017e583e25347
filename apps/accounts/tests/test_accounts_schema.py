"""The migrations make exactly the tables the code describes; and two replicas may start at once."""

import subprocess
import sys
from typing import Any

from accounts.infrastructure.tables import metadata
from accounts.main import MIGRATIONS
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cauce.stores.sqlalchemy import SqlAlchemyStore
from seedwork import database
from sqlalchemy import create_engine, text


def differences(url: str) -> list[Any]:
    """What Alembic's autogenerate would write into the next revision."""
    engine = create_engine(url.replace("+aiosqlite", ""))
    with engine.connect() as connection:
        options = {"compare_type": True, "include_name": database.is_the_services_own}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()
    return found


def test_the_migrations_make_the_tables_that_the_code_describes(database_url: str) -> None:
    database.migrate(database_url, MIGRATIONS)

    assert differences(database_url) == []


async def test_the_tables_that_cauce_makes_for_itself_disturb_no_migration(database_url: str) -> None:
    database.migrate(database_url, MIGRATIONS)
    store = SqlAlchemyStore(database.engine(database_url))
    await store.prepare()
    async with store.engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM cauce_lane"))).scalar_one() == 16
    await store.close()

    assert differences(database_url) == []
    database.migrate(database_url, MIGRATIONS)  # the next start


def test_replicas_that_start_at_once_migrate_once(database_url: str) -> None:
    code = f"from seedwork.database import migrate; migrate({database_url!r}, {MIGRATIONS!r})"
    replicas = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    ended = [(replica.communicate(timeout=60)[1], replica.returncode) for replica in replicas]

    assert ended == [(b"", 0)] * 4
