"""On PostgreSQL sent events are kept in partitions that are written to in turn, and the oldest is emptied as a whole."""

import pytest
from cauce.ports.lanes import Epoch, Lane, MemberId
from cauce.ports.outbox import KeepSent, Pruned
from cauce.ports.transport import BrokerId
from cauce.stores.sql.tables import SENT_PARTS
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.testing.store_contract import ALL_LANES, envelope, unit
from sqlalchemy import text

ME = MemberId("me")
AN_HOUR = KeepSent(seconds=3600, rows=10**9, bytes=10**12)


class Sender:
    """Sends numbered events, and ages what was sent so far by so many seconds."""

    def __init__(self, store: SqlAlchemyStore) -> None:
        self._store = store
        self.message_store = store.message_store()
        self._lanes: dict[Lane, Epoch] = {}
        self._number = 0

    async def send(self, count: int) -> None:
        if not self._lanes:
            rows = (await self.message_store.beat(ME, lease_s=600)).rows
            self._lanes = dict(await self.message_store.take(ME, {row.lane: row.epoch for row in rows}))
        async with unit(self._store) as tx:
            tx.publish(*(envelope(self._number + number, key="a") for number in range(1, count + 1)))
        self._number += count
        while found := await self.message_store.pending(ALL_LANES, limit=500):
            marks = [(row.position, BrokerId(f"{row.position}-0")) for row in found]
            assert await self.message_store.mark_sent(self._lanes, ME, marks)

    async def age(self, seconds: float) -> None:
        await self.run(f"UPDATE cauce_sent SET sent_at = sent_at - {seconds}")
        await self.run(f"UPDATE cauce_sent_part SET opened_at = opened_at - {seconds}")

    async def run(self, statement: str) -> list[tuple[object, ...]]:
        async with self._store.engine.begin() as connection:
            done = await connection.execute(text(statement))
            return [tuple(row) for row in done] if done.returns_rows else []

    async def kept(self) -> dict[int, int]:
        rows = await self.run("SELECT part, count(*) FROM cauce_sent GROUP BY part ORDER BY min(sent_seq)")
        return {int(str(part)): int(str(count)) for part, count in rows}


@pytest.fixture
def sender(store: SqlAlchemyStore) -> Sender:
    return Sender(store)


async def test_partitions_are_written_to_in_turn_and_the_oldest_is_emptied(sender: Sender) -> None:
    for _ in range(12):
        await sender.send(3)
        await sender.message_store.prune_sent(AN_HOUR)
        await sender.age(700)
    kept = await sender.kept()
    assert 6 <= len(kept) <= SENT_PARTS
    assert set(kept.values()) == {3}
    [(oldest,)] = await sender.run("SELECT extract(epoch FROM now()) - min(sent_at) FROM cauce_sent")
    assert 3600 <= float(str(oldest)) <= 3600 * 1.4


async def test_a_partition_that_somebody_reads_is_emptied_another_time_and_nobody_waits(
    sender: Sender, store: SqlAlchemyStore
) -> None:
    await sender.send(3)
    await sender.age(4000)
    async with store.engine.connect() as dump:
        await dump.execute(text("SELECT count(*) FROM cauce_sent"))
        assert await sender.message_store.prune_sent(AN_HOUR) == Pruned()
        await sender.send(2)  # into the next one
        assert sum((await sender.kept()).values()) == 5
    assert await sender.message_store.prune_sent(AN_HOUR) == Pruned(rows=3, more=True)
    assert sum((await sender.kept()).values()) == 2


async def test_without_the_right_to_empty_a_table_rows_are_deleted(sender: Sender) -> None:
    await sender.send(3)
    await sender.age(4000)
    for part in range(SENT_PARTS):
        await sender.run(f"REVOKE TRUNCATE ON cauce_sent_{part} FROM CURRENT_USER")
    pruned = [await sender.message_store.prune_sent(AN_HOUR) for _ in range(2)]
    assert pruned == [Pruned(rows=3, more=True), Pruned()]


async def test_a_partition_that_is_not_empty_is_never_written_to_again(sender: Sender) -> None:
    """However long nobody could empty it."""
    for _ in range(SENT_PARTS + 4):
        await sender.send(1)
        await sender.run("UPDATE cauce_sent_part SET opened_at = opened_at - 700")
        await sender.message_store.prune_sent(AN_HOUR)
    kept = await sender.kept()
    assert len(kept) == SENT_PARTS
    assert sum(kept.values()) == SENT_PARTS + 4
    order = await sender.run("SELECT part, sent_seq FROM cauce_sent ORDER BY sent_seq")
    parts = [part for part, _ in order]
    assert parts == sorted(parts, key=lambda part: list(kept).index(int(str(part)))), (
        "each holds a stretch of the order"
    )


async def test_with_a_clock_that_was_set_back_what_is_kept_goes_in_time(sender: Sender) -> None:
    await sender.send(3)
    await sender.age(-100_000)  # written before the clock was set back by so much
    assert (await sender.message_store.prune_sent(AN_HOUR)).rows == 0
    await sender.send(2)
    assert len(await sender.kept()) == 2, "what is sent now does not stand behind what looks younger"
