"""Everything that Cauce keeps of one key in a service's database, erased; what has to be counted on is kept by a hash.

It is erased twice in one transaction: what is there, and, when whoever publishes is held up, what has come since. That
part is short: rows are found by an index, and those of the queue by reading it, which is short itself.

Tables: cauce_sent (by cauce_sent_key), cauce_outbox and cauce_set_aside (read whole), cauce_waiting and
cauce_dead_letter (rows of the key), cauce_key_head and cauce_position (by their primary keys; their numbers go on under
`kept_name`, or later events of the key would look like old ones), cauce_audit (entries that name the key). The inbox
holds ids of events only.
"""

import json
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.connections import ask, change
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.erased_keys import erased_name, kept_name
from cauce.stores.sql.one_action import in_one_action

__all__ = ["ErasedRows", "count_rows", "erase_rows"]


class ErasedRows(Struct, frozen=True, kw_only=True):
    """How many rows of the key there were."""

    sent: int
    """Events that were sent, kept in case the broker forgets them."""
    unsent: int
    """Events that the broker has not taken yet, or refuses: other services have not got them."""
    waiting: int
    """Deliveries that a listener of this service has not handled yet, or that somebody is replaying."""
    dead_letters: int
    counters: int
    """Numbers that are kept, under a hash of the key: of what was published, and of what each listener handled."""
    audit_entries: int
    """Entries about earlier actions that named the key, and name its hash now."""

    @property
    def undone(self) -> int:
        return self.unsent + self.waiting


_GIVEN_UP = (
    "(next_at IS NULL AND EXISTS (SELECT 1 FROM cauce_dead_letter d WHERE d.consumer = cauce_waiting.consumer "
    "AND d.source = cauce_waiting.source AND d.event_id = cauce_waiting.event_id))"
)
"""Of a waiting delivery: it is there for a dead letter that nobody replays."""
_UNDER_WAY = (
    "SELECT 1 FROM cauce_waiting w JOIN cauce_inbox i ON i.consumer = w.consumer AND i.source = w.source "
    "AND i.event_id = w.event_id AND i.state = 'sending' JOIN cauce_lane l ON l.lane = w.lane "
    "JOIN cauce_member m ON m.id = l.member AND m.lease_until >= :NOW WHERE w.key = :key"
)
"""Deliveries whose effect is being done without a transaction: when it fails, they are written down again."""
_HEADS = (
    "WITH RECURSIVE t (topic) AS (SELECT min(topic) FROM cauce_key_head UNION ALL "
    "SELECT (SELECT min(h.topic) FROM cauce_key_head h WHERE h.topic > t.topic) FROM t WHERE t.topic IS NOT NULL) "
    "SELECT h.topic, h.seq FROM t JOIN cauce_key_head h ON h.topic = t.topic AND h.key = :key"
)
"""From one topic to the next, each by the primary key: there are few topics and a lot of keys."""
_POSITIONS = (
    "WITH RECURSIVE c (consumer) AS (SELECT min(consumer) FROM cauce_position UNION ALL "
    "SELECT (SELECT min(p.consumer) FROM cauce_position p WHERE p.consumer > c.consumer) FROM c WHERE c.consumer IS NOT NULL"
    "), s (consumer, source) AS (SELECT consumer, (SELECT min(p.source) FROM cauce_position p "
    "WHERE p.consumer = c.consumer) FROM c WHERE consumer IS NOT NULL UNION ALL "
    "SELECT consumer, (SELECT min(p.source) FROM cauce_position p WHERE p.consumer = s.consumer AND p.source > s.source) "
    "FROM s WHERE s.source IS NOT NULL) SELECT p.consumer, p.source FROM s "
    "JOIN cauce_position p ON p.consumer = s.consumer AND p.source = s.source AND p.key = :key"
)
_NAMED = (
    "SELECT position, detail FROM cauce_audit WHERE action <> 'erase' AND replace(detail, :named, '') <> detail "
    "ORDER BY position"
)
_ERRORS = ("error", "problem")
"""Of an audit entry: texts that may repeat what was in the event."""


async def erase_rows(engine: AsyncEngine, key: str, *, why: str | None, force: bool) -> ErasedRows | str:
    """Erase them in one transaction, with an audit entry that holds the hash of the key. Returns why not, and then
    nothing is changed: something of the key is still to be sent or handled, unless `force` gives that up too; an effect
    is under way; or a transaction of the service holds one of the rows."""
    rows: list[ErasedRows] = []

    async def act(connection: AsyncConnection) -> bool | str:
        there = await count_rows(connection, key)
        if (why_not := await _why_not(connection, key, there, force=force)) is not None:
            return why_not
        await _delete_rows(connection, key, force=force)
        await _rename_positions(connection, key)
        await _unname_audit_entries(connection, key)
        if Dialect(connection.dialect.name).postgres:
            # Who publishes now waits with his whole statement: half way through it he would not see where the number went.
            # So it is the last thing: whatever this transaction has to wait for, it has by now.
            await connection.execute(text("LOCK TABLE cauce_key_head IN SHARE ROW EXCLUSIVE MODE"))
        came = await count_rows(connection, key)
        if (why_not := await _why_not(connection, key, came, force=force)) is not None:
            return why_not
        await _delete_rows(connection, key, force=force)
        await _rename_numbers(connection, key)
        done = structs.replace(
            there,
            sent=there.sent + came.sent,
            unsent=there.unsent + came.unsent,
            waiting=there.waiting + came.waiting,
            dead_letters=there.dead_letters + came.dead_letters,
        )
        await write_audit(connection, "erase", why=why, detail={"key": erased_name(key), "rows": structs.asdict(done)})
        rows[:] = [done]
        return True

    done = await in_one_action(engine, act)
    return rows[0] if done is True else str(done)


async def _why_not(connection: AsyncConnection, key: str, there: ErasedRows, *, force: bool) -> str | None:
    if await ask(connection, _UNDER_WAY, key=key):
        return "an effect of an event of this key is under way: once more when that has ended"
    return _undone(there) if there.undone and not force else None


async def count_rows(connection: AsyncConnection, key: str) -> ErasedRows:
    """What there is of the key."""
    (rows,) = await ask(
        connection,
        "SELECT (SELECT count(*) FROM cauce_sent WHERE key = :key) AS sent, "
        "(SELECT count(*) FROM cauce_outbox WHERE key = :key) + "
        "(SELECT count(*) FROM cauce_set_aside WHERE key = :key) AS unsent, "
        f"(SELECT count(*) FROM cauce_waiting WHERE key = :key AND NOT {_GIVEN_UP}) AS waiting, "
        "(SELECT count(*) FROM cauce_dead_letter WHERE key = :key) AS dead_letters",
        key=key,
    )
    counters = [*await ask(connection, _HEADS, key=key), *await ask(connection, _POSITIONS, key=key)]
    return ErasedRows(
        sent=int(rows.sent),
        unsent=int(rows.unsent),
        waiting=int(rows.waiting),
        dead_letters=int(rows.dead_letters),
        counters=len(counters),
        audit_entries=len(await ask(connection, _NAMED, named=_named(key))),
    )


async def _delete_rows(connection: AsyncConnection, key: str, *, force: bool) -> None:
    """Delete what was counted. What is still to be sent or handled stays, unless `force` gives it up: it has come since."""
    # In the order in which a row moves: who moves one meanwhile is waited for, and it is found where it has gone.
    for table in (*(("cauce_outbox", "cauce_set_aside") if force else ()), "cauce_sent"):
        await change(connection, f"DELETE FROM {table} WHERE key = :key", key=key)
    given_up = "" if force else f" AND {_GIVEN_UP}"
    await change(connection, f"DELETE FROM cauce_waiting WHERE key = :key{given_up}", key=key)
    await change(connection, "DELETE FROM cauce_dead_letter WHERE key = :key", key=key)


async def _rename_numbers(connection: AsyncConnection, key: str) -> None:
    """Keep those of what was published under the hash."""
    for head in await ask(connection, _HEADS, key=key):
        await change(
            connection,
            "INSERT INTO cauce_key_head (topic, key, seq) VALUES (:topic, :erased, :seq) ON CONFLICT (topic, key) "
            "DO UPDATE SET seq = cauce_key_head.seq + excluded.seq",  # it was erased before, and counted from there
            topic=head.topic,
            erased=kept_name(key),
            seq=head.seq,
        )
        await change(
            connection, "DELETE FROM cauce_key_head WHERE topic = :topic AND key = :key", topic=head.topic, key=key
        )


async def _rename_positions(connection: AsyncConnection, key: str) -> None:
    """Keep those of what was handled under the hash."""
    for place in await ask(connection, _POSITIONS, key=key):
        of_key = {"consumer": place.consumer, "source": place.source, "key": key}
        where = "WHERE consumer = :consumer AND source = :source AND key = :key"
        await change(
            connection,
            "INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation, occurred_at, moved_at) "
            "SELECT consumer, source, CAST(:erased AS text), last_seq, incarnation, occurred_at, moved_at "
            f"FROM cauce_position {where} "
            "ON CONFLICT (consumer, source, key) DO UPDATE SET last_seq = excluded.last_seq, "
            "incarnation = excluded.incarnation, occurred_at = excluded.occurred_at, moved_at = excluded.moved_at",
            **of_key,
            erased=kept_name(key),
        )
        await change(connection, f"DELETE FROM cauce_position {where}", **of_key)


async def _unname_audit_entries(connection: AsyncConnection, key: str) -> None:
    """They name the hash, and lose the texts of errors."""
    for entry in await ask(connection, _NAMED, named=_named(key)):
        detail: dict[str, Any] = {
            name: value for name, value in json.loads(entry.detail).items() if name not in _ERRORS
        }
        detail["key"] = erased_name(key)
        await change(
            connection,
            "UPDATE cauce_audit SET detail = :detail WHERE position = :position",
            detail=json.dumps(detail, separators=(",", ":")),
            position=entry.position,
        )


def _named(key: str) -> str:
    """How an audit entry names a key, in its JSON."""
    return f'"key":{json.dumps(key)}'


def _undone(found: ErasedRows) -> str:
    parts = [
        *([f"{found.unsent:,} not sent yet"] if found.unsent else []),
        *([f"{found.waiting:,} that a listener has not handled yet"] if found.waiting else []),
    ]
    return f"there are events of this key still to be done: {' and '.join(parts)}"
