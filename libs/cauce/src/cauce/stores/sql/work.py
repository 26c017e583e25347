"""Whether anything waits in some lanes: one statement that reads a row of each table at most.

Tables: cauce_outbox (read to the first row of one of the lanes), cauce_waiting by cauce_waiting_next (lane and time).
"""

from collections.abc import Sequence

from cauce.ports.lanes import LANES, Lane
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
    ours = f"IN ({', '.join(str(int(lane)) for lane in sorted(lanes))})"
    unsent = "SELECT 1 FROM cauce_outbox" + (f" WHERE (key_hash & {LANES - 1}) {ours}" if len(lanes) < LANES else "")
    due = (
        f"SELECT 1 FROM cauce_waiting WHERE next_at <= (SELECT :NOW) AND lane {ours} "
        "AND consumer NOT IN (SELECT consumer FROM cauce_listener WHERE paused_at IS NOT NULL)"
    )
    return f"SELECT EXISTS ({unsent}) AS to_send, EXISTS ({due}) AS due"
