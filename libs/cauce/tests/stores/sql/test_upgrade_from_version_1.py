"""Tables of version 1, with rows in every state, upgraded: nothing is lost, and everything goes on where it was.

`version_1` holds the statements that made them, as its first and its last build printed them (`cauce db sql`).
"""

import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from cauce.errors import ConfigurationError
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import MemberId, hash_of_key, lane_of_key
from cauce.ports.outbox import KeepSent
from cauce.ports.transport import BrokerId
from cauce.stores.sql.audit import history_of
from cauce.stores.sql.dead_letters import DeadLetterFilter, select
from cauce.stores.sql.schema import SCHEMA, create_tables, examine
from cauce.stores.sql.set_aside import release, select_set_aside
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing.store_contract import ALL_LANES, envelope, unit
from sqlalchemy import text

HERE = Path(__file__).parent / "version_1"
NOW = time.time()
ME = MemberId("new")
SENT = [(1, "a", 30.0), (2, "b", 20.0), (4, "a", 10.0)]
"""Position, key, and how long ago."""
UNSENT = [(3, "late"), (6, "b"), (7, "stuck"), (8, "a")]
ASIDE = [(5, "stuck")]


@pytest.fixture(params=["first", "last"])
def build(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(url: str, build: str) -> AsyncGenerator[SqlAlchemyStore]:
    store = SqlAlchemyStore(create_engine(url))
    async with store.engine.begin() as connection:
        for statement in (HERE / f"{build}-{store.name}.sql").read_text().split(";\n"):
            if statement.strip():
                await connection.exec_driver_sql(statement)
        await _fill(connection)
    yield store
    await store.close()


_MORE = """
    INSERT INTO cauce_meta (name, value) VALUES ('service', 'shop');
    INSERT INTO cauce_key_head (topic, key, seq) VALUES ('shop', 'a', 3);
    INSERT INTO cauce_inbox (consumer, source, event_id, received_at) VALUES ('shop/x', 'up', 'e1', 5);
    INSERT INTO cauce_inbox (consumer, source, event_id, received_at, state) VALUES ('shop/x', 'up', 'e2', 5, 'sending');
    INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation) VALUES ('shop/x', 'up', 'k', 7, 'i');
    INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, attempts, next_at, error, tried, created_at) VALUES ('shop/x', 'up', 'e3', 1, 'k', '', :message, 2, 5, 'ValueError: no', '5.0 ValueError: no\n', 5);
    INSERT INTO cauce_dead_letter (id, consumer, source, event_id, name, lane, key, channel, message, reason, error, attempts, first_at, last_at, worker, tried) VALUES ('abcd1234', 'shop/x', 'up', 'e4', 'n', 1, 'k', '', :message, 'exhausted', 'ValueError: no', 1, 5, 6, 'w', '5.5 ValueError: no\n');
    INSERT INTO cauce_audit (at, who, what, why, detail) VALUES (5, 'ana@host', 'replay', 'because', '{"id"\\:"abcd1234"}');
    INSERT INTO cauce_listener (consumer, first_seen_at, last_seen_at) VALUES ('shop/x', 5, 6);
    INSERT INTO cauce_member (id, lease_until) VALUES ('old', 5);
    UPDATE cauce_lane SET member = 'old', epoch = 3
"""


async def _fill(connection: Any) -> None:
    outbox = (
        "INSERT INTO cauce_outbox (position, event_id, topic, lane, key, key_seq, name, message, created_at, problem, "
        "sent_at, broker_id) VALUES (:position, :id, :topic, :lane, :key, 1, 'shop.counted', :message, :now, :problem, "
        ":sent_at, :broker_id)"
    )

    async def add(position: int, key: str, **more: Any) -> None:
        one = envelope(position, key=key)
        row = {
            "position": position,
            "id": one.id,
            "topic": "shop",
            "lane": int(lane_of_key(key)),
            "key": key,
            "now": NOW,
        }
        row |= {"message": to_json(one), "problem": None, "sent_at": None, "broker_id": None}
        await connection.execute(text(outbox), row | more)

    for position, key, ago in SENT:
        await add(position, key, sent_at=NOW - ago, broker_id=f"{position}-0")
    for position, key in UNSENT:
        await add(position, key)
    for position, key in ASIDE:
        await add(position, key, problem="too large")
    await add(9, "theirs", topic="elsewhere", sent_at=NOW - 1, broker_id="9-0")  # came over a bridge
    for statement in _MORE.split(";\n"):
        values = {"message": b"m"} if ":message" in statement else {}
        await connection.execute(text(statement), values)
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT setval('cauce_outbox_position_seq', 20)"))
    else:
        await connection.execute(text("UPDATE sqlite_sequence SET seq = 20 WHERE name = 'cauce_outbox'"))


async def rows(store: SqlAlchemyStore, statement: str) -> list[Any]:
    async with store.engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def test_every_row_is_where_its_state_belongs(store: SqlAlchemyStore) -> None:
    await store.prepare()

    async with store.engine.connect() as connection:
        found = await connection.run_sync(examine)
        assert (found.version, list(found.missing)) == (SCHEMA, [])
        [letter] = await select(connection, DeadLetterFilter())
        [action] = await history_of(connection, "abcd1234")
    assert await rows(store, "SELECT position, key FROM cauce_outbox ORDER BY position") == sorted(UNSENT)
    assert await rows(store, "SELECT position, key FROM cauce_set_aside") == ASIDE
    sent = await rows(store, "SELECT position, key, broker_id FROM cauce_sent WHERE topic = 'shop' ORDER BY sent_seq")
    assert sent == [(position, key, f"{position}-0") for position, key, _ in SENT]
    for table in ("cauce_outbox", "cauce_set_aside", "cauce_sent"):
        for key, key_hash in await rows(store, f"SELECT key, key_hash FROM {table}"):
            assert key_hash == hash_of_key(key)
    assert [one.error for one in letter.tried] == ["ValueError: no"]
    assert (action.who, action.what, action.why) == ("ana@host", "replay", "because")
    assert await rows(store, "SELECT attempts, attempt_log FROM cauce_waiting") == [(2, "5.0 ValueError: no\n")]
    assert await rows(store, "SELECT event_id, state FROM cauce_inbox ORDER BY event_id") == [
        ("e1", None),
        ("e2", "sending"),
    ]


async def test_sending_goes_on_in_the_order_of_each_key(store: SqlAlchemyStore) -> None:
    await store.prepare()
    message_store = store.message_store()
    beat = (await message_store.beat(ME, lease_s=60)).rows
    mine = await message_store.take(ME, {row.lane: row.epoch for row in beat})

    due = await message_store.pending(ALL_LANES, limit=100)
    assert [row.position for row in due] == [3, 6, 8], "position 7 waits behind the event set aside"
    assert await message_store.mark_sent(mine, ME, [(row.position, BrokerId(f"{row.position}-0")) for row in due])
    async with store.engine.connect() as connection:
        [aside] = await select_set_aside(connection)
    assert aside.behind == 1
    assert await release(store.engine, aside, why="mended")
    assert [row.position for row in await message_store.pending(ALL_LANES, limit=100)] == [5, 7]
    async with unit(store) as tx:
        tx.publish(envelope(50, key="stuck"))
    [*_, newest] = await message_store.pending(ALL_LANES, limit=100)
    assert newest.position == 21, "a position stands for one row permanently"

    lane = lane_of_key("a")
    known = await message_store.newest_sent("shop", lane, limit=10)
    assert [broker_id for _, broker_id in known] == ["1-0", "4-0", "8-0"]
    assert await message_store.mark_unsent("shop", lane, from_seq=known[1][0]) == 2
    assert [row.position for row in await message_store.pending(ALL_LANES, limit=2)] == [4, 5]
    assert not await message_store.adopt(envelope(9, key="theirs"), known_to=[])
    assert (await message_store.prune_sent(KeepSent(seconds=-60, rows=10**9, bytes=10**12))).rows >= 5
    assert await rows(store, "SELECT 1 FROM cauce_sent") == []


async def test_again_nothing_is_left_to_do(store: SqlAlchemyStore) -> None:
    await store.prepare()
    await store.prepare()
    async with store.engine.connect() as connection:
        assert (await connection.run_sync(examine)).current


async def test_beside_a_process_of_version_1_nothing_is_changed(store: SqlAlchemyStore) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(text("UPDATE cauce_member SET lease_until = :until"), {"until": time.time() + 9})

    with pytest.raises(ConfigurationError, match=r"1 process works with them\. Stop every process of the service"):
        await create_tables(store.engine)

    assert await rows(store, "SELECT value FROM cauce_meta WHERE name = 'schema'") == [("1",)]
    assert len(await rows(store, "SELECT lane, sent_at, problem FROM cauce_outbox")) == 9


async def test_a_publisher_that_was_left_running_loses_no_event_unnoticed(store: SqlAlchemyStore) -> None:
    """Its transaction fails as a whole, so whoever called it is told."""
    await store.prepare()
    old = (
        "INSERT INTO cauce_outbox (event_id, topic, lane, key, key_seq, name, message, created_at) "
        "VALUES ('e', 'shop', 1, NULL, NULL, 'n', 'm', 5)"
    )
    with pytest.raises(Exception, match=r"lane"):
        async with store.engine.begin() as connection:
            await connection.exec_driver_sql(old)
