"""Actions of an operator: who did what, when and why, written in the transaction that did it.

Table: cauce_audit, appended to; read by people only, so the search of `history_of` may scan it.
"""

import json
import os
import re
import socket
from collections.abc import Sequence
from getpass import getuser

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.stores.sql.dialect import Dialect
from cauce.stores.storable import storable_line, storable_text

__all__ = ["AuditEntry", "history_of", "write_audit"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One action. `at`: seconds since the epoch, by the database's clock."""

    at: float
    who: str
    what: str
    why: str | None


async def write_audit(
    connection: AsyncConnection,
    what: str,
    *,
    why: str | None = None,
    consumer: str | None = None,
    source: str | None = None,
    event_id: str | None = None,
    detail: object = None,
) -> None:
    """Append an entry. `what`: one word for the action; `detail`: everything else worth knowing, kept as JSON."""
    await connection.execute(
        Dialect(connection.dialect.name).sql(
            "INSERT INTO cauce_audit (created_at, actor, action, reason, consumer, source, event_id, detail) "
            "VALUES (:NOW, :who, :what, :why, :consumer, :source, :event_id, :detail)"
        ),
        {
            "who": storable_line(_operator()),
            "what": what,
            "why": None if why is None else storable_text(why),
            "consumer": consumer,
            "source": source,
            "event_id": event_id,
            "detail": json.dumps(detail, separators=(",", ":")),  # in ASCII: nothing in it needs the last door
        },
    )


async def history_of(connection: AsyncConnection, prefix: str) -> Sequence[AuditEntry]:
    """Read the actions on the dead letter whose id begins so, oldest first, also when it is gone."""
    if not re.fullmatch(r"[0-9a-f]{4,32}", prefix):
        return []
    rows = await connection.execute(
        Dialect(connection.dialect.name).sql(
            "SELECT created_at AS at, actor AS who, action AS what, reason AS why FROM cauce_audit WHERE detail LIKE :beginning ORDER BY position"
        ),
        {"beginning": f'{{"id":"{prefix}%'},
    )
    return [AuditEntry(at=float(row.at), who=str(row.who), what=str(row.what), why=row.why) for row in rows]


def _operator() -> str:
    """The user at this terminal, as far as the system knows."""
    try:
        user = getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
