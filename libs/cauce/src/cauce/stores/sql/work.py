"""Whether anything waits in some lanes: one statement that reads a row of each table at most.

Tables: cauce_outbox by cauce_outbox_unsent (lane, position), cauce_waiting by cauce_waiting_next (lane and time).
"""

from collections.abc import Sequence

from cauce.ports.lanes import Lane
from cauce.ports.message_store import Work
from cauce.stores.sql.connections import OwnConnection, TableGroup, reading

__all__ = ["SqlWork"]


class SqlWork(TableGroup):
    """The question of the Lookout."""

    @reading
    async def work(self, connection: OwnConnection, lanes: Sequence[Lane]) -> Work:
        found = (await self._run(connection, _statement(lanes))).one()
        return Work(bool(found.to_send), bool(found.due))


def _statement(lanes: Sequence[Lane]) -> str:
    if not lanes:
        return "SELECT 0 AS to_send, 0 AS due"
    ours = f"lane IN ({', '.join(str(int(lane)) for lane in sorted(lanes))})"
    unsent = f"SELECT 1 FROM cauce_outbox WHERE sent_at IS NULL AND problem IS NULL AND {ours}"
    due = (
        f"SELECT 1 FROM cauce_waiting WHERE next_at <= (SELECT :NOW) AND {ours} "
        "AND consumer NOT IN (SELECT consumer FROM cauce_listener WHERE paused_at IS NOT NULL)"
    )
    return f"SELECT EXISTS ({unsent}) AS to_send, EXISTS ({due}) AS due"
