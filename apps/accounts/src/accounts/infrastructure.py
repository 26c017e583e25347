"""The adapters of accounts-ms: its tables, and argon2 in a bounded pool of threads."""

import asyncio
import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final, cast

import argon2
from sqlalchemy import (
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from accounts.application import Answer, KeyInUseError
from accounts.domain import (
    Email,
    Password,
    TakenError,
    TakenField,
    User,
    UserId,
    Username,
    UserNotFoundError,
    email_key,
    username_key,
)

__all__ = [
    "Argon2Hasher",
    "HashingOverloadedError",
    "SqlIdempotencyKeys",
    "SqlUsers",
    "metadata",
]

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("username", String(64), nullable=False),
    Column("username_key", Text, nullable=False),
    Column("email", String(254), nullable=False),
    Column("email_key", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("username_key", name="uq_users_username_key"),
    UniqueConstraint("email_key", name="uq_users_email_key"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("user_id", String(36), nullable=False),
    Column("taken", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
)


class SqlUsers:
    """`Users` on one transaction's session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, user: User) -> User:
        if taken := await self.taken(user.id, user.username, user.email):
            raise TakenError(taken)
        statement = insert(users).values(id=user.id, **_columns(user), password_hash=user.password_hash)
        return await self._written(statement)

    async def get(self, user_id: UserId, *, for_update: bool = False) -> User:
        query = select(users).where(users.c.id == user_id)
        row = (await self._session.execute(query.with_for_update() if for_update else query)).one_or_none()
        if row is None:
            raise UserNotFoundError
        return _user(row)

    async def save(self, user: User) -> User:
        taken = await self._taken_by_others(user.id, user.username, user.email)
        if taken:
            raise TakenError(taken)
        return await self._written(update(users).where(users.c.id == user.id).values(**_columns(user)))

    async def remove(self, user_id: UserId) -> None:
        removed = await self._session.execute(delete(users).where(users.c.id == user_id).returning(users.c.id))
        if removed.one_or_none() is None:
            raise UserNotFoundError

    async def taken(self, user_id: UserId | None, username: Username, email: Email) -> tuple[TakenField, ...]:
        by_others = await self._taken_by_others(user_id, username, email)
        if user_id is None:
            return by_others
        row = (await self._session.execute(select(users).where(users.c.id == user_id))).one_or_none()
        if row is None:
            return by_others
        same: list[TakenField] = ["id"]
        if row.username_key == username_key(username):
            same.append("username")
        if row.email_key == email_key(email):
            same.append("email")
        return tuple(dict.fromkeys([*same, *by_others]))

    async def _taken_by_others(
        self, user_id: UserId | None, username: Username, email: Email
    ) -> tuple[TakenField, ...]:
        query = select(users.c.username_key, users.c.email_key).where(
            or_(users.c.username_key == username_key(username), users.c.email_key == email_key(email))
        )
        if user_id is not None:
            query = query.where(users.c.id != user_id)
        rows = (await self._session.execute(query)).all()
        taken: list[TakenField] = []
        if any(row.username_key == username_key(username) for row in rows):
            taken.append("username")
        if any(row.email_key == email_key(email) for row in rows):
            taken.append("email")
        return tuple(taken)

    async def _written(self, statement: Any) -> User:
        try:
            return _user((await self._session.execute(statement.returning(users))).one())
        except IntegrityError as error:
            raise TakenError([_violated(error)]) from None  # its text quotes the values


def _columns(user: User) -> dict[str, str]:
    return {
        "username": user.username,
        "username_key": user.username_key,
        "email": user.email,
        "email_key": user.email_key,
    }


def _user(row: Row[Any]) -> User:
    return User(
        id=UserId(row.id),
        username=Username(row.username),
        email=Email(row.email),
        password_hash=row.password_hash,
    )


def _violated(error: IntegrityError) -> TakenField:
    """Which unique constraint it was: PostgreSQL names the constraint, SQLite the column."""
    said = str(error.orig)
    if "username_key" in said:
        return "username"
    return "email" if "email_key" in said else "id"


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


MEMORY_COST_KIB: Final = 19 * 1024
TIME_COST: Final = 2
"""OWASP's least for argon2id with one lane. Raising them is safe at any time: each hash says how it was made."""

WAITING_LIMIT: Final = 1000


class HashingOverloadedError(Exception):
    """More sign-ups are waiting than can be served in reasonable time; nothing was done. Try again later."""


class Argon2Hasher:
    """argon2id off the event loop, in as many threads as processors and `memory_mib` allow."""

    def __init__(self, *, memory_mib: int) -> None:
        self._argon2 = argon2.PasswordHasher(
            time_cost=TIME_COST, memory_cost=MEMORY_COST_KIB, parallelism=1, type=argon2.Type.ID
        )
        threads = max(1, min(os.cpu_count() or 1, memory_mib * 1024 // MEMORY_COST_KIB))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2", initializer=_give_way_to_the_event_loop)
        self._waiting = 0

    async def hash(self, password: Password, *, salt: bytes | None = None) -> str:
        """The encoded hash. Raises HashingOverloadedError when WAITING_LIMIT calls wait already."""
        if self._waiting >= WAITING_LIMIT:
            raise HashingOverloadedError
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: self._argon2.hash(password, salt=salt))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Give the threads back; what was still waiting is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _give_way_to_the_event_loop() -> None:
    """On Linux each thread has a priority of its own; elsewhere this would be the whole process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
