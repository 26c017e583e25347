"""Everything that Cauce keeps of one key in a service's database, erased; what has to be counted on is kept by a hash.

Tables: cauce_outbox, cauce_waiting and cauce_dead_letter (rows of the key), cauce_key_head and cauce_position (their
numbers go on under `erased_name`, or later events of the key would look like old ones), cauce_audit (entries that name
the key). The inbox holds ids of events only.
"""

import json
import re
from collections.abc import Mapping, Sequence

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.connections import change
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.erased_keys import erased_name
from cauce.stores.sql.one_action import in_one_action

__all__ = ["ErasedRows", "count_rows", "erase_rows"]


class ErasedRows(Struct, frozen=True, kw_only=True):
    """How many rows of the key there were."""

    sent: int
    """Events that were sent, kept in case the broker forgets them."""
    unsent: int
    """Events that the broker has not taken yet, or refuses: other services have not got them."""
    waiting: int
    """Deliveries that a listener of this service has not handled yet."""
    dead_letters: int
    counters: int
    """Numbers that are kept, under a hash of the key: of what was published, and of what each listener handled."""
    audit_entries: int
    """Entries about earlier actions that named the key, and name its hash now."""

    @property
    def undone(self) -> int:
        return self.unsent + self.waiting


_GIVEN_UP = (
    "EXISTS (SELECT 1 FROM cauce_dead_letter d WHERE d.consumer = cauce_waiting.consumer "
    "AND d.source = cauce_waiting.source AND d.event_id = cauce_waiting.event_id)"
)
_COUNT = f"""
    SELECT (SELECT count(*) FROM cauce_outbox WHERE key = :key AND sent_at IS NOT NULL) AS sent,
        (SELECT count(*) FROM cauce_outbox WHERE key = :key AND sent_at IS NULL) AS unsent,
        (SELECT count(*) FROM cauce_waiting WHERE key = :key AND NOT {_GIVEN_UP}) AS waiting,
        (SELECT count(*) FROM cauce_dead_letter WHERE key = :key) AS dead_letters,
        (SELECT count(*) FROM cauce_key_head WHERE key = :key)
            + (SELECT count(*) FROM cauce_position WHERE key = :key) AS counters,
        (SELECT count(*) FROM cauce_audit WHERE replace(detail, :named, '') <> detail) AS audit_entries
"""
_KEEP_COUNTER = (
    "INSERT INTO cauce_key_head (topic, key, seq) SELECT topic, :erased, seq FROM cauce_key_head WHERE key = :key "
    "ON CONFLICT (topic, key) DO UPDATE SET seq = cauce_key_head.seq + excluded.seq"  # it was erased before
)
_KEEP_POSITION = (
    "INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation, occurred_at, moved_at) "
    "SELECT consumer, source, :erased, last_seq, incarnation, occurred_at, moved_at FROM cauce_position WHERE key = :key "
    "ON CONFLICT (consumer, source, key) DO UPDATE SET last_seq = excluded.last_seq, incarnation = excluded.incarnation, "
    "occurred_at = excluded.occurred_at, moved_at = excluded.moved_at"
)
_ERASE = (
    "DELETE FROM cauce_outbox WHERE key = :key AND ({force} OR sent_at IS NOT NULL)",
    f"DELETE FROM cauce_waiting WHERE key = :key AND ({{force}} OR {_GIVEN_UP})",
    "DELETE FROM cauce_dead_letter WHERE key = :key",
    _KEEP_POSITION,
    "DELETE FROM cauce_position WHERE key = :key",
    "UPDATE cauce_audit SET detail = replace(detail, :named, :unnamed) WHERE replace(detail, :named, '') <> detail",
)
"""Read whole tables, so nobody waits for them meanwhile. What has come to be done since it was counted stays."""
_ERASE_NUMBER = (_KEEP_COUNTER, "DELETE FROM cauce_key_head WHERE key = :key")
"""Publishers wait for these."""


async def count_rows(connection: AsyncConnection, key: str) -> ErasedRows:
    """What there is of the key."""
    found = await connection.execute(
        Dialect(connection.dialect.name).sql(_typed(_COUNT)), {"key": key, "named": _named(key)}
    )
    row = found.one()
    return ErasedRows(**{name: int(getattr(row, name)) for name in ErasedRows.__struct_fields__})


async def erase_rows(engine: AsyncEngine, key: str, *, why: str | None, force: bool) -> ErasedRows | str:
    """Erase them in one transaction, with an audit entry that holds the hash of the key. Returns why not, and then
    nothing is changed: something of the key is still to be sent or handled, unless `force` gives that up too; or a
    transaction of the service holds one of the rows."""
    rows: list[ErasedRows] = []

    async def act(connection: AsyncConnection) -> bool | str:
        found = await count_rows(connection, key)
        if found.undone and not force:
            return _undone(found)
        values = {"key": key, "erased": erased_name(key), "named": _named(key), "unnamed": _named(erased_name(key))}
        await _run(connection, [one.format(force=force) for one in _ERASE], values)
        if Dialect(connection.dialect.name).postgres:
            # Who publishes now waits with his whole statement: half way through it he would not see where the number went.
            await connection.execute(text("LOCK TABLE cauce_key_head IN SHARE ROW EXCLUSIVE MODE"))
        await _run(connection, _ERASE_NUMBER, values)
        detail = {"key": erased_name(key), "rows": {name: getattr(found, name) for name in found.__struct_fields__}}
        await write_audit(connection, "erase", why=why, detail=detail)
        rows[:] = [found]
        return True

    done = await in_one_action(engine, act)
    return rows[0] if done is True else str(done)


async def _run(connection: AsyncConnection, statements: Sequence[str], values: Mapping[str, str]) -> None:
    for statement in statements:
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        await change(connection, _typed(statement), **used)


def _named(key: str) -> str:
    """How an audit entry names a key, in its JSON."""
    return f'"key":{json.dumps(key)}'


def _typed(statement: str) -> str:
    return re.sub(r":(key|erased|named|unnamed)\b", r"CAST(:\1 AS text)", statement)


def _undone(found: ErasedRows) -> str:
    parts = [
        *([f"{found.unsent:,} not sent yet"] if found.unsent else []),
        *([f"{found.waiting:,} that a listener has not handled yet"] if found.waiting else []),
    ]
    return f"there are events of this key still to be done: {' and '.join(parts)}"
