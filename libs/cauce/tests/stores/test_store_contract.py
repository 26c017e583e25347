"""What durable delivery rests on is the same in memory, on SQLite and on PostgreSQL."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from cauce.dev.servers import PostgresServer, ScratchDatabases
from cauce.stores.memory import MemoryStore
from cauce.stores.sql.schema import fill_tables
from cauce.stores.sql.tables import metadata
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing.store_contract import StoreContract, StoreUnderTest
from sqlalchemy import text


@pytest.fixture(scope="module")
def postgres_url(session_postgres: PostgresServer) -> Generator[str]:
    """One database for all tests of this file, which empty it: making one costs half a second."""
    session_postgres.start()
    databases = ScratchDatabases(session_postgres, prefix="contract")
    yield databases.database()
    databases.drop()


class TestMemory(StoreContract):
    @pytest.fixture
    async def store(self) -> StoreUnderTest:
        return MemoryStore()


class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[StoreUnderTest]:
        store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/store.sqlite"))
        await store.prepare()
        yield store
        await store.close()


class TestPostgres(StoreContract):
    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncGenerator[StoreUnderTest]:
        store = SqlAlchemyStore(create_engine(postgres_url))
        await store.prepare()
        async with store.engine.begin() as connection:
            await connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY"))
            await connection.run_sync(fill_tables)
        yield store
        await store.close()
