"""For tests of PostgreSQL alone."""

from collections.abc import AsyncGenerator

import pytest
from cauce.dev.servers import ScratchDatabases
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine


@pytest.fixture
async def store(postgres: ScratchDatabases) -> AsyncGenerator[SqlAlchemyStore]:
    store = SqlAlchemyStore(create_engine(postgres.database()))
    await store.prepare()
    yield store
    await store.close()
