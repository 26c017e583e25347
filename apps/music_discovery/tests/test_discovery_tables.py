"""The migrations make what the code expects, once and again."""

import asyncio
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from music_discovery.main import MIGRATIONS
from music_discovery.playlist_catalog import infrastructure as playlist_catalog
from music_discovery.user_catalog import infrastructure as user_catalog
from seedwork import database
from sqlalchemy import Connection


async def test_the_tables_are_those_of_the_code(discovery: Any) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": is_described})
        return compare_metadata(context, [user_catalog.metadata, playlist_catalog.metadata])  # pyright: ignore[reportArgumentType]  # a sequence is served, too

    def is_described(_thing: object, name: str | None, kind: str, _reflected: bool, _compared_to: object) -> bool:
        """All but Alembic's own table and the full-text index, which only the database knows."""
        return kind != "table" or not str(name).startswith(("alembic_version", "public_playlists_terms"))

    async with discovery.service.store.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_replicas_that_start_together_migrate_once(database_url: str) -> None:
    async with asyncio.TaskGroup() as replicas:
        for _ in range(3):
            replicas.create_task(asyncio.to_thread(database.migrate, database_url, MIGRATIONS))
