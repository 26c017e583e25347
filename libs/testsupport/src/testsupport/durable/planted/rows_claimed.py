"""Relays own no lanes: each claims the next free rows for itself, FOR UPDATE SKIP LOCKED. A correlation of 0 is a claim."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cauce.delivery.lanes.lane_keeper import LaneKeeper
from cauce.ports.lanes import LANES, Epoch, Lane
from cauce.ports.outbox import OutboxRow
from cauce.stores.sql.message_store import SqlMessageStore
from cauce.stores.sql.outbox import EVENT


def plant() -> None:
    def owned(self: LaneKeeper, now: float) -> Mapping[Lane, Epoch]:
        return {Lane(lane): Epoch(1) for lane in range(LANES)}

    async def claimed(
        self: SqlMessageStore, lanes: Any, *, limit: int, topics: Any = None, besides: Any = ()
    ) -> Sequence[OutboxRow]:
        # A commit wakes the relay of its own process first. Slower than the writer, it leaves the others something to claim.
        await asyncio.sleep(0.05)
        async with self._writing() as connection:
            rows = await self._run(
                connection,
                "UPDATE cauce_outbox SET correlation_hash = 0 WHERE position IN (SELECT position FROM cauce_outbox "
                "WHERE correlation_hash <> 0 ORDER BY position LIMIT 5 FOR UPDATE SKIP LOCKED) "
                "RETURNING position, event_id, topic, key_hash, key, message",
            )
            found = [
                OutboxRow(position, event_id, topic, Lane(key_hash & (LANES - 1)), key, bytes(message))
                for position, event_id, topic, key_hash, key, message in rows
            ]
        return sorted(found, key=lambda row: row.position)

    async def mark_sent(self: SqlMessageStore, owned: Any, me: Any, sent: Any) -> bool:
        async with self._writing() as connection:
            for position, broker_id in sent:
                await self._run(
                    connection,
                    f"INSERT INTO cauce_sent (sent_seq, position, {EVENT}, lane, sent_at, broker_id) SELECT "
                    f"nextval('cauce_sent_order'), position, {EVENT}, key_hash & {LANES - 1}, :NOW, :broker_id FROM cauce_outbox "
                    "WHERE position = :position",
                    position=position,
                    broker_id=broker_id,
                )
                await self._run(connection, "DELETE FROM cauce_outbox WHERE position = :position", position=position)
        return True

    LaneKeeper.owned = owned
    SqlMessageStore.pending, SqlMessageStore.mark_sent = claimed, mark_sent
