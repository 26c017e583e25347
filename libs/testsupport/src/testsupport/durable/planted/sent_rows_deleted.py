"""A row of the outbox is deleted as soon as the broker has confirmed it."""

from typing import Any

from cauce.ports.outbox import KeepSent
from cauce.stores.sql.message_store import SqlMessageStore


def plant() -> None:
    mark = SqlMessageStore.mark_sent

    async def mark_and_delete(self: SqlMessageStore, owned: Any, me: Any, sent: Any) -> bool:
        marked = await mark(self, owned, me, sent)
        await self.prune_sent(KeepSent(seconds=-1.0, rows=0, bytes=0))
        return marked

    SqlMessageStore.mark_sent = mark_and_delete
