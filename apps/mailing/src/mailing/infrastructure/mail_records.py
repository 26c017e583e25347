"""The records of mails, in the table `mails` of mailing-ms's own database."""

import hmac
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Delete,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    Update,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mailing.application import Found
from mailing.domain import MessageId, Outcome, mailbox_of

__all__ = ["SqlMailRecords", "mails"]

_metadata: Final = MetaData()

mails: Final = Table(
    "mails",
    _metadata,
    Column("event_id", String(128), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("recipient", String(32)),
    Column("state", String(16)),
    Column("code", Integer),
    Column("reason", Text),
    Column("unanswered", Integer, nullable=False, server_default="0"),
    Column("begun_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint(
        "state IN ('sending', 'sent', 'failed', 'refused', 'withheld', 'uncertain')", name="ck_mails_state"
    ),
)
"""One row per event that asked for a mail; `state` is its outcome, NULL while there is none.

Of the user only the id is kept, and of the address a keyed hash: no name, no address. Rows of the first version may say
`sending`, which is no outcome either, and `failed` for what was tried again later.
"""

_key: Final = Table("mail_key", _metadata, Column("id", Integer, primary_key=True), Column("key", LargeBinary))

_WINDOW: Final = timedelta(hours=1)
_SETTLED: Final = ("sent", "refused", "withheld", "uncertain")
_PORTION: Final = 500


class SqlMailRecords:
    """`MailRecords` in one table; the event id is the key, so one event has one row.

    `an_hour`: how many mails one mailbox is sent within an hour. `key` is the secret of the hashes; without one, the
    database's own is used, which hides addresses from those who see the table `mails` only.
    """

    def __init__(self, engine: AsyncEngine, *, an_hour: int = 3, key: bytes | None = None) -> None:
        self._engine: Final = engine
        self._an_hour: Final = an_hour
        self._secret = key

    async def ask(
        self, *, event_id: str, user_id: str, message_id: MessageId, recipient: str | None, at: datetime
    ) -> Found:
        """Commit a row without an outcome, or as `withheld`. An event that has one keeps it, also when two callers come
        at once; its recipient is not counted again."""
        row = {"event_id": event_id, "user_id": user_id, "message_id": message_id, "begun_at": at}
        try:
            async with self._engine.begin() as connection:
                hashed = await self._hashed(connection, recipient)
                await _one_at_a_time(connection, hashed)
                await connection.execute(insert(mails).values(row | {"recipient": hashed}))
                if hashed is None or await self._has_room(connection, hashed, at):
                    return "new"
                reason = f"over {self._an_hour} mails an hour"
                await connection.execute(
                    _of(event_id).values(state="withheld", reason=reason, recipient=None, ended_at=at)
                )
                return "over the bound"
        except IntegrityError:
            return await self._found(event_id)

    async def _found(self, event_id: str) -> Found:
        async with self._engine.begin() as connection:
            state = await connection.scalar(select(mails.c.state).where(mails.c.event_id == event_id))
        return "settled" if state in _SETTLED else "open"

    async def _has_room(self, connection: AsyncConnection, hashed: str, at: datetime) -> bool:
        """Whether the row just made is within the bound. A withheld mail has no recipient, so it takes no room."""
        mine = select(func.count()).where(mails.c.recipient == hashed, mails.c.begun_at > at - _WINDOW)
        return (await connection.scalar(mine) or 0) <= self._an_hour

    async def _hashed(self, connection: AsyncConnection, recipient: str | None) -> str | None:
        if recipient is None:
            return None
        if self._secret is None:
            self._secret = (await connection.execute(select(_key.c.key))).scalar_one()
        return hmac.digest(self._secret, mailbox_of(recipient).encode(), sha256).hex()[:32]

    async def ended(
        self, event_id: str, outcome: Outcome, *, code: int | None = None, reason: str | None = None, at: datetime
    ) -> None:
        """Commit the outcome."""
        async with self._engine.begin() as connection:
            await connection.execute(_of(event_id).values(state=outcome, code=code, reason=reason, ended_at=at))

    async def unanswered(self, event_id: str) -> int:
        """Commit that the mail was handed over once more without an answer; how often by now."""
        counted = _of(event_id).values(unanswered=mails.c.unanswered + 1).returning(mails.c.unanswered)
        async with self._engine.begin() as connection:
            return await connection.scalar(counted) or 0

    async def prune(self, *, now: datetime, keep: timedelta) -> int:
        """Delete the rows of mails older than `keep`, and the hashes that count against no bound any more; return how
        many rows. Oldest first, in portions of 500, each a transaction of its own: nobody waits long."""
        past = select(mails.c.event_id).where(mails.c.recipient.is_not(None), mails.c.begun_at < now - _WINDOW)
        while await self._changed(update(mails).values(recipient=None), past) == _PORTION:
            pass
        old, pruned = select(mails.c.event_id).where(mails.c.begun_at < now - keep), 0
        while portion := await self._changed(delete(mails), old):
            pruned += portion
        return pruned

    async def _changed(self, statement: Update | Delete, which: Select[tuple[str]]) -> int:
        portion = which.order_by(mails.c.begun_at).limit(_PORTION)
        async with self._engine.begin() as connection:
            return (await connection.execute(statement.where(mails.c.event_id.in_(portion)))).rowcount


def _of(event_id: str) -> Update:
    return update(mails).where(mails.c.event_id == event_id)


async def _one_at_a_time(connection: AsyncConnection, hashed: str | None) -> None:
    """Two sign-ups with one address do not both find the last place free. SQLite has one writer anyway."""
    if hashed is not None and connection.dialect.name == "postgresql":
        number = int(hashed[:15], 16)
        await connection.execute(select(func.pg_advisory_xact_lock(number)))
