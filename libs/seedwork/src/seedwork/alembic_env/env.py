"""Alembic's environment, one for all services: connection and transaction are `database.migrate`'s."""

from alembic import context
from sqlalchemy import Connection

connection = context.config.attributes["connection"]
assert isinstance(connection, Connection)  # noqa: S101
context.configure(connection=connection, render_as_batch=connection.dialect.name == "sqlite")
context.run_migrations()
