"""What a user is, and which names, addresses and passwords we take. Knows no framework.

The `parse_…` functions return the one spelling we keep, or raise InvalidTextError with a sentence fit for the client;
it never repeats the value. What an id, a user name and an address are is the same in every service: `seedwork`.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NewType

from seedwork.addresses import email_address
from seedwork.text import InvalidTextError, identifier, within
from seedwork.usernames import username, username_key

__all__ = [
    "Email",
    "KeyReusedError",
    "Password",
    "TakenError",
    "TakenField",
    "User",
    "UserId",
    "UserNotFoundError",
    "Username",
    "email_key",
    "parse_email",
    "parse_password",
    "parse_user_id",
    "parse_username",
    "username_key",
]

UserId = NewType("UserId", str)
Username = NewType("Username", str)
Email = NewType("Email", str)
Password = NewType("Password", str)

PASSWORD_MIN: Final = 8
PASSWORD_MAX: Final = 128

TakenField = Literal["id", "username", "email"]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: UserId
    username: Username
    email: Email
    password_hash: str = field(repr=False)

    @property
    def username_key(self) -> str:
        return username_key(self.username)

    @property
    def email_key(self) -> str:
        return email_key(self.email)


class UserNotFoundError(Exception):
    """There is no such user."""


class TakenError(Exception):
    """Another user has the id, the name or the address. `fields` says which; nothing was changed."""

    def __init__(self, fields: Iterable[TakenField]) -> None:
        self.fields: tuple[TakenField, ...] = tuple(fields)
        super().__init__(", ".join(self.fields))


class KeyReusedError(Exception):
    """An idempotency key that belongs to another request. Nothing was done."""


def parse_user_id(text: str) -> UserId:
    """Any 8-4-4-4-12 hex, in lower case. Variant and version are not looked at: the article's id has neither."""
    return UserId(identifier(text))


def parse_username(text: str) -> Username:
    """A name by the rules of PRECIS (RFC 8265), in NFC; its case as written."""
    return Username(username(text))


def parse_email(text: str) -> Email:
    """One spelling of the address, in ASCII (an international domain in its `xn--` form). Nothing is looked up."""
    return Email(email_address(text))


def email_key(email: Email) -> str:
    """Addresses with the same key count as the same."""
    return email.casefold()


def parse_password(text: str) -> Password:
    """In the form (NFKC) that makes a password typed on two keyboards the same. Never looked into otherwise."""
    within(text, at_least=PASSWORD_MIN, at_most=PASSWORD_MAX)
    if any(unicodedata.category(character) == "Cs" for character in text):
        raise InvalidTextError("must be text: it contains half a surrogate pair")
    return Password(unicodedata.normalize("NFKC", text))
