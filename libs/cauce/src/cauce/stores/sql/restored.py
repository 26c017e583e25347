"""A database restored from a backup gets a new incarnation: key sequences may go back.

Tables: cauce_meta, cauce_lane, cauce_member, cauce_audit; the newest times of cauce_outbox and cauce_inbox.
"""

from uuid import uuid4

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.dialect import Dialect

__all__ = ["Restored", "renew"]


class Restored(Struct, frozen=True, kw_only=True):
    before: str
    after: str
    newest_s: float | None
    """How old the youngest trace of work in the restored database is: about how much was lost."""


async def renew(connection: AsyncConnection, *, why: str | None) -> Restored:
    """Write a new incarnation, by which consumers restart their sequences, and free all lanes."""
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
