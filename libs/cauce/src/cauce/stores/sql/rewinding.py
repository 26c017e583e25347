"""Rewind a service's tables: mark sent events unsent, or give a restored database a new incarnation.

Tables: cauce_sent (read whole, for what is that old), cauce_outbox, cauce_meta, cauce_lane, cauce_member, cauce_audit.
"""

from uuid import uuid4

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.ports.lanes import Lane
from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.sent import put_back

__all__ = ["Published", "Restored", "mark_unsent_since", "renew_incarnation"]


class Published(Struct, frozen=True, kw_only=True):
    """`events` are to be sent again; `kept_for_s` is how far back the kept rows go, None if all of them are there."""

    events: int
    lanes: int
    kept_for_s: float | None


class Restored(Struct, frozen=True, kw_only=True):
    before: str
    after: str
    newest_s: float | None
    """How old the youngest trace of work in the restored database is: about how much was lost."""


async def mark_unsent_since(
    connection: AsyncConnection, since_s: float, *, why: str | None, dry_run: bool
) -> Published:
    """Mark kept rows of that age and younger as unsent: they go before anything new. In the caller's transaction."""
    sql = Dialect(connection.dialect.name).sql
    (kept,) = await connection.execute(
        sql("SELECT :NOW - min(sent_at) AS age, min(position) AS lowest FROM cauce_sent")
    )
    firsts = list(
        await connection.execute(
            sql(
                "SELECT topic, lane, min(sent_seq) AS first FROM cauce_sent WHERE sent_at >= (SELECT :NOW - :since) "
                "GROUP BY topic, lane"
            ),
            {"since": since_s},
        )
    )
    # As when the relay notices it itself: everything of a lane from there on, so that the order is kept.
    do = _count_sent_from if dry_run else put_back
    events = sum([await do(connection, str(row.topic), Lane(row.lane), from_seq=row.first) for row in firsts])
    if not dry_run:
        await write_audit(connection, "rewind published", why=why, detail={"since_s": since_s, "events": events})
    return Published(
        events=events,
        lanes=len({row.lane for row in firsts}),
        kept_for_s=None if kept.age is None or kept.lowest == 1 else round(float(kept.age), 3),
    )


async def _count_sent_from(connection: AsyncConnection, topic: str, lane: Lane, *, from_seq: int) -> int:
    statement = Dialect(connection.dialect.name).sql(
        "SELECT count(*) FROM cauce_sent WHERE topic = :topic AND lane = :lane AND sent_seq >= :from_seq"
    )
    found = await connection.execute(statement, {"topic": topic, "lane": int(lane), "from_seq": from_seq})
    return int(found.scalar_one())


async def renew_incarnation(connection: AsyncConnection, *, why: str | None) -> Restored:
    """Begin a new incarnation: key sequences may restart, and consumers accept it. Lanes are given up."""
    sql = Dialect(connection.dialect.name).sql
    before = str(
        (await connection.execute(sql("SELECT value FROM cauce_meta WHERE name = 'incarnation'"))).scalar_one()
    )
    after = str(uuid4())
    (newest,) = await connection.execute(
        sql(
            "SELECT :NOW - max(at) AS age FROM (SELECT max(created_at) AS at FROM cauce_outbox "
            "UNION ALL SELECT max(sent_at) FROM cauce_sent "
            "UNION ALL SELECT max(received_at) FROM cauce_inbox UNION ALL SELECT max(lease_until) FROM cauce_member) x"
        )
    )
    await connection.execute(sql("UPDATE cauce_meta SET value = :after WHERE name = 'incarnation'"), {"after": after})
    # A member that owned a lane when the backup was made owns it no more, and no epoch of then is given out again.
    await connection.execute(sql("UPDATE cauce_lane SET member = NULL, epoch = epoch + 1000000"))
    await connection.execute(sql("DELETE FROM cauce_member"))
    await write_audit(connection, "restored", why=why, detail={"before": before, "after": after})
    age = None if newest.age is None else round(max(0.0, float(newest.age)), 3)
    return Restored(before=before, after=after, newest_s=age)
