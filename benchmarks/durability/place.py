"""Where a service of the benchmark keeps its rows, and which broker it talks to."""

from dataclasses import dataclass
from typing import Any

import asyncpg
from cauce.stores.sql.schema import create_tables
from cauce.stores.sqlalchemy import create_engine
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from durability.peers import missing, outbox_table
from durability.tables import Base, Effect, by_hand

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A database of its own, and a broker that is shared."""

    database: str
    broker: str

    @property
    def plain(self) -> str:
        return self.database.replace("+psycopg", "")

    def engine(self, driver: str = "psycopg") -> AsyncEngine:
        return create_engine(self.database.replace("psycopg", driver))

    def plain_engine(self, driver: str) -> AsyncEngine:
        """SQLAlchemy's own, with as many connections."""
        return create_async_engine(self.database.replace("psycopg", driver), pool_size=20)

    async def prepare(self) -> None:
        """All tables, empty."""
        engine = self.engine()
        await create_tables(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.run_sync(by_hand.create_all)
            if not (missing() or self.database.startswith("sqlite")):
                await connection.run_sync(outbox_table().metadata.create_all)
        await engine.dispose()

    async def connect(self) -> Any:
        return await asyncpg.connect(self.plain)

    async def effects(self) -> int:
        """How many effects are committed here."""
        engine = self.engine()
        async with engine.connect() as connection:
            found = await connection.execute(select(func.count()).select_from(Effect))
        await engine.dispose()
        return int(found.scalar_one())
