"""Events of an outbox that the broker rejects permanently: found, released for another attempt, discarded.

Dead letters of the publisher. The row keeps its position, so that the order of its key is kept too: later events of the
key wait in the queue until the row has been sent or is gone.

Tables: cauce_set_aside, cauce_outbox and cauce_audit.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.events.names import matches
from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.outbox import EVENT, PUT_BACK_NOW

__all__ = ["SetAside", "discard", "release", "select_set_aside"]


class SetAside(Struct, frozen=True, kw_only=True):
    """An event that was committed here and cannot be sent. `problem`: the reason, in the transport's words."""

    position: int
    event_id: str
    topic: str
    name: str
    key: str | None
    bytes: int
    problem: str
    age_s: float
    behind: int
    """Later events of its key, which wait."""


async def select_set_aside(connection: AsyncConnection, *, name: str | None = None) -> Sequence[SetAside]:
    """Read the events set aside whose name matches (`name` may be a pattern), in the order of publishing."""
    rows = await connection.execute(
        Dialect(connection.dialect.name).sql(
            "SELECT position, event_id, topic, name, key, length(message) AS size, problem, :NOW - created_at AS age, "
            "(SELECT count(*) FROM cauce_outbox b WHERE b.topic = o.topic AND b.key = o.key AND b.position > o.position) "
            "AS behind FROM cauce_set_aside o ORDER BY position"
        )
    )
    return [_set_aside(row) for row in rows if name is None or matches(name, str(row.name))]


async def release(engine: AsyncEngine, one: SetAside, *, why: str | None) -> bool:
    """Let the relay try it again, before the later events of its key. False if it is not set aside any more."""
    back = f"INSERT INTO cauce_outbox (position, {EVENT}) SELECT position, {EVENT} FROM cauce_set_aside"
    return await _done(engine, one, "release outgoing", [f"{back} WHERE position = :position FOR UPDATE"], why)


async def discard(engine: AsyncEngine, one: SetAside, *, why: str) -> bool:
    """Delete it: no listener receives it, and the next event of its key is due. False if it is not there any more."""
    return await _done(engine, one, "discard outgoing", [], why)


async def _done(engine: AsyncEngine, one: SetAside, what: str, before: Sequence[str], why: str | None) -> bool:
    sql = Dialect(engine.dialect.name).sql
    async with engine.begin() as connection:
        for statement in before:
            await connection.execute(sql(statement), {"position": one.position})
        gone = await connection.execute(
            sql("DELETE FROM cauce_set_aside WHERE position = :position"), {"position": one.position}
        )
        if gone.rowcount:
            await connection.execute(sql(PUT_BACK_NOW))
            detail = {"name": one.name, "key": one.key, "problem": one.problem}
            await write_audit(connection, what, why=why, source=one.topic, event_id=one.event_id, detail=detail)
        return bool(gone.rowcount)


def _set_aside(row: Any) -> SetAside:
    return SetAside(
        position=int(row.position),
        event_id=str(row.event_id),
        topic=str(row.topic),
        name=str(row.name),
        key=row.key,
        bytes=int(row.size),
        problem=str(row.problem),
        age_s=round(max(0.0, float(row.age)), 3),
        behind=int(row.behind),
    )
