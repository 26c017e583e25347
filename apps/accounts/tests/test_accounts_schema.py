"""The migrations make exactly the tables the code describes; and two replicas may start at once."""

import subprocess
import sys

from accounts.infrastructure import metadata
from accounts.main import MIGRATIONS
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from seedwork import database
from sqlalchemy import create_engine


def test_the_migrations_make_the_tables_that_the_code_describes(database_url: str) -> None:
    database.migrate(database_url, MIGRATIONS)

    engine = create_engine(database_url.replace("+aiosqlite", ""))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
    engine.dispose()

    assert differences == []


def test_replicas_that_start_at_once_migrate_once(database_url: str) -> None:
    code = f"from seedwork.database import migrate; migrate({database_url!r}, {MIGRATIONS!r})"
    replicas = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    ended = [(replica.communicate(timeout=60)[1], replica.returncode) for replica in replicas]

    assert ended == [(b"", 0)] * 4
