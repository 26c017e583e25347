"""The records of mails, in the table `mails` of mailing-ms's own database."""

from datetime import datetime
from typing import Final

from sqlalchemy import CheckConstraint, Column, DateTime, MetaData, String, Table, Text, insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from mailing.domain import MessageId

__all__ = ["SqlMailRecords", "mails"]

_metadata: Final = MetaData()

mails: Final = Table(
    "mails",
    _metadata,
    Column("event_id", String(128), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("state", String(7), nullable=False),
    Column("reason", Text),
    Column("begun_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint("state IN ('sending', 'sent', 'failed')", name="ck_mails_state"),
)
"""One row per event that asked for a mail. Of the user only the id is kept: no name, no address."""


class SqlMailRecords:
    """`MailRecords` in one table; the event id is the key, so one event has one row."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine: Final = engine

    async def begin(
        self, *, event_id: str, user_id: str, message_id: MessageId, at: datetime, again: bool = False
    ) -> bool:
        """Commit the row as `sending`. False if the event has one, also when two callers come at once.

        `again`: a row that did not end as `sent` is begun once more.
        """
        row = {
            "event_id": event_id,
            "user_id": user_id,
            "message_id": message_id,
            "state": "sending",
            "begun_at": at,
        }
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(mails).values(row))
        except IntegrityError:
            return again and await self._begin_again(event_id, at)
        return True

    async def _begin_again(self, event_id: str, at: datetime) -> bool:
        unfinished = update(mails).where(mails.c.event_id == event_id, mails.c.state != "sent")
        async with self._engine.begin() as connection:
            done = await connection.execute(unfinished.values(state="sending", begun_at=at, reason=None, ended_at=None))
        return done.rowcount == 1

    async def sent(self, event_id: str, *, at: datetime) -> None:
        """Commit the row as `sent`."""
        await self._end(event_id, state="sent", reason=None, at=at)

    async def failed(self, event_id: str, *, reason: str, at: datetime) -> None:
        """Commit the row as `failed`, with the reason."""
        await self._end(event_id, state="failed", reason=reason, at=at)

    async def _end(self, event_id: str, *, state: str, reason: str | None, at: datetime) -> None:
        changed = update(mails).where(mails.c.event_id == event_id)
        async with self._engine.begin() as connection:
            await connection.execute(changed.values(state=state, reason=reason, ended_at=at))
