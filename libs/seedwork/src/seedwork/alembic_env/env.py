"""Alembic's environment, one for all services: connection and transaction are `database.migrate`'s."""

from alembic import context
from seedwork.database import is_the_services_own
from sqlalchemy import Connection

connection = context.config.attributes["connection"]
assert isinstance(connection, Connection)  # noqa: S101
context.configure(
    connection=connection,
    render_as_batch=connection.dialect.name == "sqlite",
    include_name=is_the_services_own,
)
context.run_migrations()
