"""`cauce erase` reads whole tables and waits for rows, and nobody who publishes waits for that."""

import asyncio

from cauce.dev.servers import ScratchDatabases
from cauce.stores.sql.erasing import ErasedRows, erase_rows
from cauce.stores.sql.schema import upgrade
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing.store_contract import envelope, unit
from sqlalchemy import text
from testsupport.waiting import until

WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE cauce_audit%'"


async def test_publishing_goes_on_while_the_rows_of_a_key_are_erased(postgres: ScratchDatabases) -> None:
    store = SqlAlchemyStore(create_engine(postgres.database()))
    async with store.engine.begin() as connection:
        await connection.run_sync(upgrade)
        entry = "INSERT INTO cauce_audit (created_at, actor, action, detail) VALUES (0, 'ops', 'discard', '{\"key\":\"k1\"}')"
        await connection.execute(text(entry))
    async with unit(store) as tx:
        tx.publish(envelope(1, key="k1"))

    async with store.engine.connect() as other, store.engine.connect() as looking, asyncio.TaskGroup() as tasks:
        await other.execute(
            text("UPDATE cauce_audit SET actor = actor")
        )  # what it changes last, before it locks the numbers

        async def waits() -> bool:
            await looking.rollback()  # a transaction sees the activities of one moment
            return (await looking.execute(text(WAITS))).first() is not None

        erasing = tasks.create_task(erase_rows(store.engine, "k1", why=None, force=True))
        await until(waits)
        async with unit(store) as tx:
            tx.publish(envelope(2, key="k2"))
        assert not erasing.done()
        await other.rollback()

    assert isinstance(erasing.result(), ErasedRows)
    await store.close()
