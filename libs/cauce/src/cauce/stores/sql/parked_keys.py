"""A parked key: its lock, and the release of the delivery behind a head that has left.

Whoever removes, moves or discards the head of a key's waiting deliveries ends with `release_next`; whoever puts a
delivery behind others holds the same lock. So a delivery is never put behind a head that has just left.

The lock is the key's row in cauce_position, which an arriving event moves, or a lock by the key's name where an event
moves none: it has no number, or is the first of its key.

Tables: cauce_waiting (the deliveries of a key by cauce_waiting_key), cauce_position (by its primary key),
cauce_dead_letter (by its unique event of a consumer).
"""

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from cauce.stores.sql.dialect import Dialect

__all__ = ["lock_by_name", "release_next"]

_BY_NAME = (
    "pg_advisory_xact_lock(hashtextextended("
    "CAST(:consumer AS text) || chr(10) || CAST(:source AS text) || chr(10) || CAST(:key AS text), 0))"
)
_LOCK = (
    "SELECT (SELECT 1 FROM cauce_position WHERE consumer = :consumer AND source = :source AND key = :key FOR UPDATE), "
    f"{_BY_NAME}"
)
_RELEASE_NEXT = (
    "UPDATE cauce_waiting SET next_at = :NOW, scheduled_at = :NOW WHERE next_at IS NULL AND position = "
    "(SELECT min(position) FROM cauce_waiting WHERE consumer = :consumer AND source = :source AND key = :key) "
    # A dead letter that has become the head stays parked until an operator decides.
    "AND NOT EXISTS (SELECT 1 FROM cauce_dead_letter d WHERE d.consumer = cauce_waiting.consumer "
    "AND d.source = cauce_waiting.source AND d.event_id = cauce_waiting.event_id)"
)


async def lock_by_name(on: AsyncSession | AsyncConnection, *, consumer: str, source: str, key: str) -> None:
    """Lock the key for one listener until the transaction ends; on SQLite a transaction that writes is alone anyway."""
    dialect = _dialect_of(on)
    if dialect.postgres:
        await on.execute(dialect.sql(f"SELECT {_BY_NAME}"), {"consumer": consumer, "source": source, "key": key})


async def release_next(on: AsyncSession | AsyncConnection, *, consumer: str, source: str, key: str | None) -> None:
    """The head of the key has left: the first delivery behind it is due now, unless it has a time of its own."""
    if key is None:
        return
    dialect, place = _dialect_of(on), {"consumer": consumer, "source": source, "key": key}
    if dialect.postgres:
        await on.execute(dialect.sql(_LOCK), place)
    await on.execute(dialect.sql(_RELEASE_NEXT), place)


def _dialect_of(on: AsyncSession | AsyncConnection) -> Dialect:
    return Dialect(on.get_bind().dialect.name if isinstance(on, AsyncSession) else on.dialect.name)
