"""The users, in the table `users`."""

from typing import Any

from sqlalchemy import Row, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from accounts.domain import (
    Email,
    TakenError,
    TakenField,
    User,
    UserId,
    Username,
    UserNotFoundError,
    email_key,
    username_key,
)
from accounts.infrastructure.tables import users

__all__ = ["SqlUsers"]


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
