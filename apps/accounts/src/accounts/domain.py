"""What a user is, and which names, addresses and passwords we take. Knows no framework.

The `parse_…` functions return the one spelling we keep, or raise InvalidValueError with a sentence fit for the
client; it never repeats the value.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NewType

import email_validator

__all__ = [
    "Email",
    "InvalidValueError",
    "KeyReusedError",
    "Password",
    "TakenError",
    "TakenField",
    "User",
    "UserId",
    "UserNotFoundError",
    "Username",
    "parse_email",
    "parse_password",
    "parse_user_id",
    "parse_username",
]

UserId = NewType("UserId", str)
Username = NewType("Username", str)
Email = NewType("Email", str)
Password = NewType("Password", str)

USERNAME_MAX: Final = 64
PASSWORD_MIN: Final = 8
PASSWORD_MAX: Final = 128
EMAIL_MAX: Final = 254

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


class InvalidValueError(ValueError):
    """A value we do not take; the message says why, without the value."""


class UserNotFoundError(Exception):
    """There is no such user."""


class TakenError(Exception):
    """Another user has the id, the name or the address. `fields` says which; nothing was changed."""

    def __init__(self, fields: Iterable[TakenField]) -> None:
        self.fields: tuple[TakenField, ...] = tuple(fields)
        super().__init__(", ".join(self.fields))


class KeyReusedError(Exception):
    """An idempotency key that belongs to another request. Nothing was done."""


_HEX_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def parse_user_id(text: str) -> UserId:
    """Any 8-4-4-4-12 hex, in lower case. Variant and version are not looked at: the article's id has neither."""
    lowered = text.lower()
    if not _HEX_ID.fullmatch(lowered):
        raise InvalidValueError("expected hexadecimal digits in the form 8-4-4-4-12")
    return UserId(lowered)


_FORBIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control and format characters (bidirectional overrides too), surrogates, unicode's line ends."""


def parse_username(text: str) -> Username:
    """In unicode's composed form (NFC), otherwise as written."""
    name = unicodedata.normalize("NFC", text)
    compatible = unicodedata.normalize("NFKC", text)  # where a full-width comma is a comma
    if not name.strip():
        raise InvalidValueError("must not be empty")
    if max(len(name), len(compatible)) > USERNAME_MAX:
        raise InvalidValueError(f"must have at most {USERNAME_MAX} characters")
    for character in name + compatible:
        if character in ",;":
            raise InvalidValueError("must not contain a comma or a semicolon")
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise InvalidValueError("must not contain control characters, line ends or invisible characters")
    if name != name.strip() or compatible != compatible.strip():
        raise InvalidValueError("must not begin or end with a blank")
    return Username(name)


def username_key(name: Username) -> str:
    """Names with the same key count as the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def parse_email(text: str) -> Email:
    """One spelling of the address, in ASCII (an international domain in its `xn--` form).

    Only the form is checked; nothing is looked up. A local part that needs SMTPUTF8 is not taken yet: few servers
    deliver it.
    """
    try:
        validated = email_validator.validate_email(text, check_deliverability=False, allow_smtputf8=False, strict=True)
    except email_validator.EmailNotValidError as error:
        raise InvalidValueError(str(error)) from None
    if validated.ascii_email is None or len(validated.ascii_email) > EMAIL_MAX:
        raise InvalidValueError(f"must have at most {EMAIL_MAX} characters")
    return Email(validated.ascii_email)


def email_key(email: Email) -> str:
    """Addresses with the same key count as the same."""
    return email.casefold()


def parse_password(text: str) -> Password:
    """In the form (NFKC) that makes a password typed on two keyboards the same. Never looked into otherwise."""
    if not PASSWORD_MIN <= len(text) <= PASSWORD_MAX:
        raise InvalidValueError(f"must have {PASSWORD_MIN} to {PASSWORD_MAX} characters")
    if any(unicodedata.category(character) == "Cs" for character in text):
        raise InvalidValueError("must be text: it contains half a surrogate pair")
    return Password(unicodedata.normalize("NFKC", text))
