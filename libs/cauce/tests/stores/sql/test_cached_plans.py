"""What PostgreSQL plans once: a plan for each transaction made publishing a fifth more expensive."""

from cauce.dev.servers import ScratchDatabases
from cauce.stores.sql.schema import upgrade
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing.store_contract import envelope, unit
from sqlalchemy import text

TRIED = 5
"""So many plans PostgreSQL makes for the values at hand before it compares them with one for all values."""


async def test_publishing_is_planned_once_for_all_values(postgres: ScratchDatabases) -> None:
    store = SqlAlchemyStore(create_engine(postgres.database()))
    async with store.engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.execute(
            text(
                "INSERT INTO cauce_key_head (topic, key, seq) SELECT 'shop', 'k' || n, 9 FROM generate_series(1, 5000) n"
            )
        )
        await connection.execute(text("ANALYZE"))

    for number in range(30):
        async with unit(store) as tx:
            tx.publish(envelope(number, key=f"k{number}"))

    async with store.engine.connect() as connection:  # the one that all of them had
        asked = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%INTO cauce_key_head%' ORDER BY generic_plans DESC LIMIT 1"
        (plans,) = await connection.execute(text(asked))
    await store.close()
    assert plans.custom_plans == TRIED
    assert plans.generic_plans > TRIED
