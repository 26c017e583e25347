"""What durable delivery rests on is the same in memory, on SQLite and on PostgreSQL."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from cauce.dev.servers import PostgresServer, ScratchDatabases
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.stores.tables import metadata

pytest.register_assert_rewrite("cauce.testing.store_contract")

from cauce.testing.store_contract import JournaledStore, StoreContract  # noqa: E402  # after the line above


class TestMemory(StoreContract):
    @pytest.fixture
    async def store(self) -> JournaledStore:
        return MemoryStore()


class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[JournaledStore]:
        store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/store.sqlite"))
        await store.prepare()
        yield store
        await store.close()


class TestPostgres(StoreContract):
    @pytest.fixture(scope="class")
    def url(self, session_postgres: PostgresServer) -> Generator[str]:
        """One database for all, which is emptied before each: making one costs half a second."""
        session_postgres.start()
        databases = ScratchDatabases(session_postgres, prefix="contract")
        yield databases.database()
        databases.drop()

    @pytest.fixture
    async def store(self, url: str) -> AsyncGenerator[JournaledStore]:
        store = SqlAlchemyStore(create_engine(url))
        async with store.engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
        await store.prepare()
        yield store
        await store.close()
