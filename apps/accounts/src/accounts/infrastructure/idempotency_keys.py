"""The idempotency keys and their answers, in the table `idempotency_keys`."""

from datetime import datetime, timedelta
from typing import Final, cast

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from accounts.application import Answer, KeyInUseError
from accounts.domain import TakenField, UserId
from accounts.infrastructure.tables import idempotency_keys

__all__ = ["KEY_RETENTION", "SqlIdempotencyKeys"]

KEY_RETENTION: Final = timedelta(hours=24)
_PRUNED_AT_ONCE: Final = 100


class SqlIdempotencyKeys:
    """`IdempotencyKeys` on one transaction's session. Expired keys go away as new ones are claimed."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, key: str, *, now: datetime) -> Answer | None:
        query = select(idempotency_keys).where(
            idempotency_keys.c.key == key, idempotency_keys.c.created_at > now - KEY_RETENTION
        )
        row = (await self._session.execute(query)).one_or_none()
        if row is None:
            return None
        return Answer(
            salt=row.salt,
            fingerprint=row.fingerprint,
            user_id=UserId(row.user_id),
            taken=cast("list[TakenField]", row.taken.split(",") if row.taken else []),
        )

    async def claim(self, key: str, answer: Answer, *, now: datetime) -> None:
        await self._prune(now)
        statement = insert(idempotency_keys).values(
            key=key,
            salt=answer.salt,
            fingerprint=answer.fingerprint,
            user_id=answer.user_id,
            taken=",".join(answer.taken),
            created_at=now,
        )
        try:
            await self._session.execute(statement)
        except IntegrityError:
            raise KeyInUseError from None

    async def correct(self, key: str, answer: Answer) -> None:
        await self._session.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.key == key)
            .values(user_id=answer.user_id, taken=",".join(answer.taken))
        )

    async def _prune(self, now: datetime) -> None:
        expired = (
            select(idempotency_keys.c.key)
            .where(idempotency_keys.c.created_at <= now - KEY_RETENTION)
            .order_by(idempotency_keys.c.created_at)
            .limit(_PRUNED_AT_ONCE)
            .with_for_update(skip_locked=True)  # two at once must not wait for each other
        )
        await self._session.execute(
            delete(idempotency_keys).where(idempotency_keys.c.key.in_(expired.scalar_subquery()))
        )
