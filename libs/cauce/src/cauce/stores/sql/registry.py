"""Which service this database belongs to, its description, its listeners, and where it begins in a topic.

Tables: cauce_meta (incarnation, service, description, `since:TOPIC`) and cauce_listener, both by their primary keys.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.ports.description import Description, read_description
from cauce.ports.message_store import belongs_to_another
from cauce.stores.sql.connections import TableGroup
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.lanes import LEASE_HOLDS

__all__ = ["SqlRegistry", "description_of"]


class SqlRegistry(TableGroup):
    """The Registry of the ports."""

    async def incarnation(self) -> str:
        async with self._reading() as connection:
            return str(
                (await self._run(connection, "SELECT value FROM cauce_meta WHERE name = 'incarnation'")).scalar_one()
            )

    async def introduce(self, service: str, description: str, consumers: Sequence[str]) -> None:
        async with self._writing() as connection:
            other = await self._run(
                connection,
                "SELECT value FROM cauce_meta WHERE name = 'service' AND value <> :service "
                f"AND EXISTS (SELECT 1 FROM cauce_member m WHERE {LEASE_HOLDS})",
                service=service,
            )
            if (running := other.scalar_one_or_none()) is not None:
                raise belongs_to_another(running, service)
            for name, value in (("service", service), ("description", description)):
                await self._run(
                    connection,
                    "INSERT INTO cauce_meta (name, value) VALUES (:name, :value) "
                    "ON CONFLICT (name) DO UPDATE SET value = :value",
                    name=name,
                    value=value,
                )
            for consumer in sorted(consumers):
                await self._run(
                    connection,
                    "INSERT INTO cauce_listener (consumer, first_seen_at, last_seen_at) VALUES (:consumer, :NOW, :NOW) "
                    "ON CONFLICT (consumer) DO UPDATE SET last_seen_at = :NOW",
                    consumer=consumer,
                )

    async def since(self, topic: str, start: str) -> str:
        async with self._writing() as connection:
            name = f"since:{topic}"
            await self._run(
                connection,
                "INSERT INTO cauce_meta (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING",
                name=name,
                value=start,
            )
            found = await self._run(connection, "SELECT value FROM cauce_meta WHERE name = :name", name=name)
            return str(found.scalar_one())


async def description_of(connection: AsyncConnection) -> Description | None:
    """Read the description that the service left at its last start; None if there is none that can be read."""
    statement = "SELECT value FROM cauce_meta WHERE name = 'description'"
    written = (await connection.execute(Dialect(connection.dialect.name).sql(statement))).scalar_one_or_none()
    return None if written is None else read_description(str(written))
