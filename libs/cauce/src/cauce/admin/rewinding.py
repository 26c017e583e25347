"""Going back: what was sent is sent again, what was heard is heard again, and a restored database begins anew."""

from uuid import uuid4

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.ports.description import Description
from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.dialect import Dialect
from cauce.transports.redis.topics import BrokerView

__all__ = ["Heard", "Published", "Restored", "renew", "rewind_heard", "rewind_published"]


class Published(Struct, frozen=True, kw_only=True):
    """`events` are to be sent again; `kept_for_s` is how far back the kept rows go, None if all of them are there."""

    events: int
    lanes: int
    kept_for_s: float | None


class Heard(Struct, frozen=True, kw_only=True):
    """`entries` of a topic are given again; `trimmed`: the broker let go of some of that time."""

    topic: str
    entries: int
    trimmed: bool


class Restored(Struct, frozen=True, kw_only=True):
    before: str
    after: str
    newest_s: float | None
    """How old the youngest trace of work in the restored database is: about how much was lost."""


async def rewind_published(connection: AsyncConnection, since_s: float, *, why: str | None, dry_run: bool) -> Published:
    """Kept rows of that age and younger are to be sent again, before anything new. In the caller's transaction."""
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
        # As when the relay notices it by itself: everything of the lane from there on, so the order is kept.
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


async def rewind_heard(view: BrokerView, description: Description, since_s: float, *, dry_run: bool) -> list[Heard]:
    """The service's group in every topic it hears goes back; it may run meanwhile, and its inbox knows the repeats."""
    since_ms = await view.now_ms() - int(since_s * 1000)
    found: list[Heard] = []
    for topic in description.topics:
        if dry_run:
            entries = await view.count_topic_since(topic, since_ms)
        else:
            entries = sum((await view.set_back(topic, description.service, since_ms)).values())
        found.append(Heard(topic=topic, entries=entries, trimmed=await view.trimmed_since(topic, since_ms)))
    return found


async def renew(connection: AsyncConnection, *, why: str | None) -> Restored:
    """A new incarnation: key sequences may go back, and consumers take it for a new beginning. Lanes are given up."""
    sql = Dialect(connection.dialect.name).sql
    before = str(
        (await connection.execute(sql("SELECT value FROM cauce_meta WHERE name = 'incarnation'"))).scalar_one()
    )
    after = str(uuid4())
    (newest,) = await connection.execute(
        sql(
            "SELECT :NOW - max(at) AS age FROM (SELECT max(created_at) AS at FROM cauce_outbox "
            "UNION ALL SELECT max(received_at) FROM cauce_inbox UNION ALL SELECT max(lease_until) FROM cauce_member) x"
        )
    )
    await connection.execute(sql("UPDATE cauce_meta SET value = :after WHERE name = 'incarnation'"), {"after": after})
    # Whoever had a lane when the backup was made has it no more, and no epoch of then is given out again.
    await connection.execute(sql("UPDATE cauce_lane SET member = NULL, epoch = epoch + 1000000"))
    await connection.execute(sql("DELETE FROM cauce_member"))
    await write_audit(connection, "restored", why=why, detail={"before": before, "after": after})
    age = None if newest.age is None else round(max(0.0, float(newest.age)), 3)
    return Restored(before=before, after=after, newest_s=age)
