"""Listeners that an operator has paused: their events wait, in order, until they are resumed.

Nothing is remembered in a process: whoever is about to give a listener an event asks this table in the same
transaction. So every process obeys from the commit of the pause on, and a restart changes nothing.

Table: cauce_listener (a row for each listener, by its primary key).
"""

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.ports.figures import listener_of
from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.connections import ask, change
from cauce.stores.storable import storable_line

__all__ = ["PauseResult", "pause", "resume"]


class PauseResult(Struct, frozen=True, kw_only=True):
    """`changed`: False if the listener was paused, or not paused, already. `waiting`: deliveries that wait for it."""

    changed: bool
    waiting: int


async def pause(engine: AsyncEngine, consumer: str, *, why: str) -> PauseResult:
    """Give the listener no further event. What it is handling is finished. A second pause keeps the first reason."""
    statement = (
        "UPDATE cauce_listener SET paused_at = :NOW, paused_because = :because "
        "WHERE consumer = :consumer AND paused_at IS NULL"
    )
    async with engine.begin() as connection:
        changed = await change(connection, statement, consumer=consumer, because=storable_line(why))
        return await _recorded(connection, "pause", consumer, changed=bool(changed), why=why)


async def resume(engine: AsyncEngine, consumer: str, *, why: str | None) -> PauseResult:
    """Let the listener have its events again: what waits is due at once, the events of a key in their order."""
    statement = (
        "UPDATE cauce_listener SET paused_at = NULL, paused_because = NULL "
        "WHERE consumer = :consumer AND paused_at IS NOT NULL"
    )
    async with engine.begin() as connection:
        changed = await change(connection, statement, consumer=consumer)
        return await _recorded(connection, "resume", consumer, changed=bool(changed), why=why)


async def _recorded(
    connection: AsyncConnection, what: str, consumer: str, *, changed: bool, why: str | None
) -> PauseResult:
    if changed:
        await write_audit(connection, what, why=why, consumer=consumer, detail={"listener": listener_of(consumer)})
    (row,) = await ask(
        connection, "SELECT count(*) AS n FROM cauce_waiting WHERE consumer = :consumer", consumer=consumer
    )
    return PauseResult(changed=changed, waiting=int(row.n))
