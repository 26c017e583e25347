"""The use cases of accounts-ms: sign up, read, change, remove. Every change and its event are one transaction.

Hashing a password takes long on purpose, so it never happens inside a transaction.
"""

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Protocol

from cauce import Envelope, Transaction
from contracts.accounts import UserCreated, UserDeleted, UserUpdated

from accounts.domain import (
    Email,
    KeyReusedError,
    Password,
    TakenError,
    TakenField,
    User,
    UserId,
    Username,
)

__all__ = [
    "Accounts",
    "Answer",
    "HashingOverloadedError",
    "IdempotencyKeys",
    "KeyInUseError",
    "PasswordHasher",
    "SignUp",
    "Transactions",
    "Users",
]

log = logging.getLogger(__name__)

_KEY_ATTEMPTS: Final = 3
"""A key that somebody else takes first is found the next time; it can only vanish again by expiring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignUp:
    """A request to become a user, all of it already in our spelling. Without an id, we choose one."""

    id: UserId | None
    username: Username
    email: Email
    password: Password = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a sign-up that carried an idempotency key ended: a user, or what was taken.

    The fingerprint tells whether a repeat is the same request. It contains the password only as its argon2 hash
    (with this salt), so that it is no easier to guess from than the user's own row.
    """

    salt: bytes = field(repr=False)
    fingerprint: str = field(repr=False)
    user_id: UserId
    taken: Sequence[TakenField] = ()


class KeyInUseError(Exception):
    """The key was claimed by another request meanwhile; this transaction must be given up."""


class HashingOverloadedError(Exception):
    """More sign-ups are waiting than can be served in reasonable time; nothing was done. Try again later."""


class Users(Protocol):
    async def add(self, user: User) -> User:
        """The saved row. Raises TakenError; then this savepoint or transaction must be given up."""
        ...

    async def get(self, user_id: UserId, *, for_update: bool = False) -> User:
        """Raises UserNotFoundError. `for_update`: nobody else changes it before this transaction ends."""
        ...

    async def save(self, user: User) -> User:
        """The saved row. Raises TakenError as `add` does."""
        ...

    async def remove(self, user_id: UserId) -> None:
        """Raises UserNotFoundError."""
        ...

    async def taken(self, user_id: UserId | None, username: Username, email: Email) -> tuple[TakenField, ...]: ...


class IdempotencyKeys(Protocol):
    async def find(self, key: str, *, now: datetime) -> Answer | None:
        """The answer that was given under this key, if it has not expired."""
        ...

    async def claim(self, key: str, answer: Answer, *, now: datetime) -> None:
        """Keep `answer` under this key. Raises KeyInUseError; waits for a transaction that claims it now."""
        ...

    async def correct(self, key: str, answer: Answer) -> None: ...


class PasswordHasher(Protocol):
    async def hash(self, password: Password, *, salt: bytes | None = None) -> str:
        """The encoded argon2id hash; the same for the same salt. Raises HashingOverloadedError."""
        ...


class Transactions(Protocol):
    """`Service.transaction`."""

    def __call__(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Transaction]: ...


class Accounts:
    """The use cases. Raises the domain's errors; then nothing was changed and no event raised."""

    def __init__(
        self,
        transaction: Transactions,
        hasher: PasswordHasher,
        *,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self._transaction = transaction
        self._hasher = hasher
        self._new_id = new_id
        self._now = now

    async def sign_up(self, request: SignUp, *, key: str | None = None) -> User:
        """The new user. Raises TakenError, and KeyReusedError for a key of another request.

        With a key, a repeat gets the first answer, whatever became of the user; also while the first is under way.
        """
        if key is not None:
            return await self._sign_up_once(request, key)
        async with self._transaction(read_only=True) as tx:
            users = await tx.get(Users)
            if taken := await users.taken(request.id, request.username, request.email):
                raise TakenError(taken)  # before the expensive part
        user = self._user(request, await self._hasher.hash(request.password))
        async with self._transaction() as tx:
            saved, event = await _register(tx, user)
        _log("User created", saved.id, event)
        return saved

    async def get(self, user_id: UserId) -> User:
        async with self._transaction(read_only=True) as tx:
            return await (await tx.get(Users)).get(user_id)

    async def change(self, user_id: UserId, *, username: Username | None = None, email: Email | None = None) -> User:
        """The user as it now is; what is None stays. Nothing changed, no event."""
        async with self._transaction() as tx:
            users = await tx.get(Users)
            before = await users.get(user_id, for_update=True)
            wanted = replace(before, username=username or before.username, email=email or before.email)
            if wanted == before:
                return before
            saved = await users.save(wanted)
            event = await tx.publish(UserUpdated(id=saved.id, username=saved.username, email=saved.email))
        _log("User changed", saved.id, event)
        return saved

    async def remove(self, user_id: UserId) -> None:
        async with self._transaction() as tx:
            await (await tx.get(Users)).remove(user_id)
            event = await tx.publish(UserDeleted(id=user_id))
        _log("User deleted", user_id, event)

    async def _sign_up_once(self, request: SignUp, key: str) -> User:
        for _ in range(_KEY_ATTEMPTS):
            async with self._transaction(read_only=True) as tx:
                earlier = await (await tx.get(IdempotencyKeys)).find(key, now=self._now())
            salt = earlier.salt if earlier else secrets.token_bytes(16)
            user = self._user(request, await self._hasher.hash(request.password, salt=salt))
            fingerprint = _fingerprint(request, user.password_hash)
            if earlier:
                return _repeated(earlier, fingerprint, user)
            answer = Answer(salt=salt, fingerprint=fingerprint, user_id=user.id)
            try:
                return await self._sign_up_under_key(key, answer, user)
            except KeyInUseError:
                continue
        raise KeyReusedError

    async def _sign_up_under_key(self, key: str, answer: Answer, user: User) -> User:
        """The key comes first: whoever sends it at the same time waits there, and then finds our answer."""
        async with self._transaction() as tx:
            keys = await tx.get(IdempotencyKeys)
            await keys.claim(key, answer, now=self._now())
            try:
                async with tx.savepoint():
                    outcome = await _register(tx, user)
            except TakenError as refused:
                outcome = refused
                await keys.correct(key, replace(answer, taken=refused.fields))
        if isinstance(outcome, TakenError):
            raise outcome
        saved, event = outcome
        _log("User created", saved.id, event)
        return saved

    def _user(self, request: SignUp, password_hash: str) -> User:
        return User(
            id=request.id or UserId(self._new_id()),
            username=request.username,
            email=request.email,
            password_hash=password_hash,
        )


async def _register(tx: Transaction, user: User) -> tuple[User, Envelope]:
    saved = await (await tx.get(Users)).add(user)
    event = await tx.publish(UserCreated(id=saved.id, username=saved.username, email=saved.email))
    return saved, event


def _repeated(earlier: Answer, fingerprint: str, user: User) -> User:
    """The first answer again, put together from the repeated request: we keep no copy of personal data."""
    if not secrets.compare_digest(earlier.fingerprint, fingerprint):
        raise KeyReusedError
    if earlier.taken:
        raise TakenError(earlier.taken)
    return replace(user, id=earlier.user_id)


def _fingerprint(request: SignUp, password_hash: str) -> str:
    parts = json.dumps([request.id, request.username, request.email, password_hash])
    return hashlib.sha256(parts.encode()).hexdigest()


def _log(what: str, user_id: UserId, event: Envelope) -> None:
    """Ids only: a log is no place for names and addresses."""
    log.info("%s: %s · %s %s", what, user_id, event.name, event.id)
