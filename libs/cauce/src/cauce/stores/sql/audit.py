"""Who did what by hand, when and why: a row in the database it was done to, in the transaction that did it."""

import os
import socket
from getpass import getuser

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.stores.sql.dialect import Dialect

__all__ = ["me", "write_audit"]


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
    """`what`: one word for the deed; `detail`: whatever else should be known, kept as JSON."""
    await connection.execute(
        Dialect(connection.dialect.name).sql(
            "INSERT INTO cauce_audit (at, who, what, why, consumer, source, event_id, detail) "
            "VALUES (:NOW, :who, :what, :why, :consumer, :source, :event_id, :detail)"
        ),
        {
            "who": me(),
            "what": what,
            "why": why,
            "consumer": consumer,
            "source": source,
            "event_id": event_id,
            "detail": msgspec.json.encode(detail).decode(),
        },
    )


def me() -> str:
    """The person at this terminal, as far as the system knows."""
    try:
        user = getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
