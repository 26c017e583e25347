"""A durable store of each kind, its tables made."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cauce.dev.servers import ScratchDatabases
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine

if TYPE_CHECKING:  # where the contract's own tests are run, it has to be rewritten before it is imported
    from cauce.testing.store_contract import StoreUnderTest


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> "AsyncGenerator[StoreUnderTest]":
    if request.param == "memory":
        yield MemoryStore()
        return
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/durable.sqlite"
    else:
        postgres: ScratchDatabases = request.getfixturevalue("postgres")
        url = postgres.database()
    made = SqlAlchemyStore(create_engine(url))
    await made.prepare()
    yield made
    await made.close()
