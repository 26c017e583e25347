"""Kept events marked unsent from a moment on, so that the relay sends them again.

Tables: cauce_outbox (sent rows by cauce_outbox_sent_at) and cauce_audit.
"""

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.dialect import Dialect

__all__ = ["Published", "rewind_published"]


class Published(Struct, frozen=True, kw_only=True):
    """`events` are to be sent again; `kept_for_s` is how far back the kept rows go, None if all of them are there."""

    events: int
    lanes: int
    kept_for_s: float | None


async def rewind_published(connection: AsyncConnection, since_s: float, *, why: str | None, dry_run: bool) -> Published:
    """Mark kept rows of that age and younger unsent: they go before anything new. In the caller's transaction."""
    sql = Dialect(connection.dialect.name).sql
    (kept,) = await connection.execute(
        sql("SELECT :NOW - min(sent_at) AS age, min(position) AS lowest FROM cauce_outbox WHERE sent_at IS NOT NULL")
    )
    firsts = list(
        await connection.execute(
            sql("SELECT lane, min(position) AS first FROM cauce_outbox WHERE sent_at >= :NOW - :since GROUP BY lane"),
            {"since": since_s},
        )
    )
    events = 0
    for row in firsts:
        lane = {"lane": row.lane, "first": row.first}
        # As when the relay finds the loss itself: everything of the lane from there on, so the order is kept.
        if dry_run:
            statement = (
                "SELECT count(*) FROM cauce_outbox WHERE lane = :lane AND position >= :first AND sent_at IS NOT NULL"
            )
            events += int((await connection.execute(sql(statement), lane)).scalar_one())
        else:
            done = await connection.execute(
                sql(
                    "UPDATE cauce_outbox SET sent_at = NULL, broker_id = NULL "
                    "WHERE lane = :lane AND position >= :first AND sent_at IS NOT NULL"
                ),
                lane,
            )
            events += int(done.rowcount)
    found = Published(
        events=events,
        lanes=len(firsts),
        kept_for_s=None if kept.age is None or kept.lowest == 1 else round(float(kept.age), 3),
    )
    if not dry_run:
        await write_audit(connection, "rewind published", why=why, detail={"since_s": since_s, "events": events})
    return found
