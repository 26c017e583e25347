"""Which service this database belongs to, its description, its listeners, and where it begins in a topic.

Tables: cauce_meta (incarnation, service, description, `since:TOPIC`) and cauce_listener, both by their primary keys.
"""

import json
from collections.abc import Mapping, Sequence

from cauce.ports.description import Description, read_description
from cauce.ports.message_store import belongs_to_another
from cauce.ports.registration import Identity, ListenerInCode
from cauce.stores.identities import Past, Registered, identities, refuse_lost_pasts, resolve
from cauce.stores.sql.connections import OwnConnection, TableGroup, reading, writing
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.lanes import LEASE_HOLDS

__all__ = ["SqlRegistry", "description_of"]


class SqlRegistry(TableGroup):
    """The Registry of the ports."""

    @reading
    async def incarnation(self, connection: OwnConnection) -> str:
        return str(
            (await self._run(connection, "SELECT value FROM cauce_meta WHERE name = 'incarnation'")).scalar_one()
        )

    @writing
    async def register(
        self,
        connection: OwnConnection,
        service: str,
        listeners: Sequence[ListenerInCode],
        *,
        retired: Sequence[str] = (),
    ) -> Mapping[str, Identity]:
        await self._only(connection, service)
        registered = await self._registered(connection, service)
        resolution = resolve(listeners, registered, retired)
        pasts = {one: await self._past(connection, one) for one in sorted(resolution.suspects)}
        refuse_lost_pasts(service, resolution, pasts)
        now = float((await self._run(connection, "SELECT :NOW")).scalar_one())
        found = identities(service, listeners, resolution, registered, now)
        for listener in sorted(listeners, key=lambda one: found[one.name].consumer):
            await self._run(
                connection,
                "INSERT INTO cauce_listener (consumer, first_seen_at, last_seen_at, name, events) "
                "VALUES (:consumer, :now, :now, :name, :events) ON CONFLICT (consumer) DO UPDATE "
                "SET last_seen_at = :now, name = :name, events = :events, retired_at = NULL",
                consumer=found[listener.name].consumer,
                now=now,
                name=listener.name,
                events=json.dumps(sorted(listener.events)),
            )
        for one in registered:
            if not one.retired and not one.names.isdisjoint(retired):
                await self._run(
                    connection,
                    "UPDATE cauce_listener SET retired_at = :now WHERE consumer = :consumer",
                    now=now,
                    consumer=one.consumer,
                )
        return found

    async def _only(self, connection: OwnConnection, service: str) -> None:
        """Raise if another service runs here. Then no other process registers before this one has."""
        other = await self._run(
            connection,
            "SELECT value FROM cauce_meta WHERE name = 'service' AND value <> :service "
            f"AND EXISTS (SELECT 1 FROM cauce_member m WHERE {LEASE_HOLDS})",
            service=service,
        )
        if (running := other.scalar_one_or_none()) is not None:
            raise belongs_to_another(running, service)
        await self._run(connection, "SELECT value FROM cauce_meta WHERE name = 'incarnation' FOR UPDATE")

    async def _registered(self, connection: OwnConnection, service: str) -> list[Registered]:
        described = await description_of(connection)
        events = {one.consumer: one.events for one in described.listeners} if described is not None else {}
        rows = await self._run(
            connection, "SELECT consumer, name, events, first_seen_at, retired_at FROM cauce_listener"
        )
        return [
            Registered(
                consumer=str(row.consumer),
                name=row.name,
                # Written by a version that did not record it: then only the last start says it.
                events=events.get(str(row.consumer)) if row.events is None else json.loads(str(row.events)),
                first_seen_at=float(row.first_seen_at),
                retired=row.retired_at is not None,
            )
            for row in rows
            if str(row.consumer).startswith(f"{service}/")
        ]

    async def _past(self, connection: OwnConnection, consumer: str) -> Past:
        (row,) = await self._run(
            connection,
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM cauce_inbox WHERE consumer = :consumer) OR EXISTS "
            "(SELECT 1 FROM cauce_position WHERE consumer = :consumer) THEN 1 ELSE 0 END AS handled, "
            "(SELECT count(*) FROM cauce_waiting WHERE consumer = :consumer) AS waiting, "
            "(SELECT count(*) FROM cauce_dead_letter WHERE consumer = :consumer) AS dead",
            consumer=consumer,
        )
        return Past(handled=bool(row.handled), waiting=int(row.waiting), dead=int(row.dead))

    @writing
    async def describe(self, connection: OwnConnection, service: str, description: str) -> None:
        await self._only(connection, service)
        await self._run(
            connection,
            "DELETE FROM cauce_meta WHERE name LIKE 'since:%' AND EXISTS "
            "(SELECT 1 FROM cauce_meta m WHERE m.name = 'service' AND m.value <> :service)",
            service=service,
        )
        for name, value in (("service", service), ("description", description)):
            await self._run(
                connection,
                "INSERT INTO cauce_meta (name, value) VALUES (:name, :value) "
                "ON CONFLICT (name) DO UPDATE SET value = :value",
                name=name,
                value=value,
            )

    @writing
    async def since(self, connection: OwnConnection, topic: str, start: str) -> str:
        name = f"since:{topic}"
        await self._run(
            connection,
            "INSERT INTO cauce_meta (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING",
            name=name,
            value=start,
        )
        found = await self._run(connection, "SELECT value FROM cauce_meta WHERE name = :name", name=name)
        return str(found.scalar_one())


async def description_of(connection: OwnConnection) -> Description | None:
    """Read the description that the service left at its last start; None if there is none that can be read."""
    statement = "SELECT value FROM cauce_meta WHERE name = 'description'"
    written = (await connection.execute(Dialect(connection.dialect.name).sql(statement))).scalar_one_or_none()
    return None if written is None else read_description(str(written))
