"""The relay asks for what comes after the last position it has sent, as a log reader would."""

from collections.abc import Sequence
from typing import Any

from cauce.ports.outbox import OutboxRow
from cauce.stores.sql.message_store import SqlMessageStore


def plant() -> None:
    pending_set, mark = SqlMessageStore.pending, SqlMessageStore.mark_sent

    async def pending(
        self: SqlMessageStore, lanes: Any, *, limit: int, topics: Any = None, besides: Any = ()
    ) -> Sequence[OutboxRow]:
        rows = await pending_set(self, lanes, limit=limit, topics=topics, besides=besides)
        async with self._reading() as connection:
            found = await self._run(
                connection, "SELECT max(CAST(value AS bigint)) FROM cauce_meta WHERE name = 'cursor'"
            )
            cursor = found.scalar_one() or 0
        return [row for row in rows if row.position > cursor]

    async def mark_sent(self: SqlMessageStore, owned: Any, me: Any, sent: Any) -> bool:
        async with self._writing() as connection:
            await self._run(
                connection,
                "INSERT INTO cauce_meta (name, value) VALUES ('cursor', :cursor) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                cursor=str(max(position for position, _ in sent)),
            )
        return await mark(self, owned, me, sent)

    SqlMessageStore.pending, SqlMessageStore.mark_sent = pending, mark_sent
