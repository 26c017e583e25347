"""What a mail to one recipient is, and which addresses, names and ids may go into one. Knows no framework."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal, NewType

from email_validator import EmailNotValidError, validate_email

__all__ = [
    "Language",
    "Mail",
    "MailImpossibleError",
    "MailNotSentError",
    "MailUncertainError",
    "MessageId",
    "NewUser",
    "Welcome",
    "has_control_characters",
    "message_id_of",
    "name_for_greeting",
    "one_recipient",
]

Language = Literal["es", "en"]
MessageId = NewType("MessageId", str)


class MailNotSentError(Exception):
    """No mail left, or none is known to have arrived. `reason` names no address and fits into a log line."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class MailImpossibleError(MailNotSentError):
    """It would be refused however often it is tried."""


class MailUncertainError(MailNotSentError):
    """The server may have taken it, and did not say (RFC 1047)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """Somebody who signed up, as announced: neither name nor address is known to be harmless."""

    id: str
    username: str
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The text of a welcome mail, in one language: twice the same, once plain and once HTML."""

    language: Language
    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One mail to one recipient. `recipient` is a bare address that was parsed and put together again."""

    recipient: str
    message_id: MessageId
    date: datetime
    content: Welcome


def one_recipient(address: str) -> str:
    """The one bare address that this is, parsed and put together again; its domain in ASCII where possible.

    Raises MailImpossibleError for anything else: a list, a display name, a comment, a control character.
    """
    try:
        if has_control_characters(address):
            raise EmailNotValidError
        parsed = validate_email(address, check_deliverability=False)
    except (EmailNotValidError, ValueError):  # its text may repeat the address
        raise MailImpossibleError("the user's e-mail is not one valid address") from None
    recipient = parsed.ascii_email or parsed.normalized
    # What the parser let through is still not trusted to be one address for every mail server, some of which
    # take a full-width ＠ or ， for the ASCII one.
    seen_by_others = unicodedata.normalize("NFKC", recipient)
    if seen_by_others.count("@") != 1 or re.search(r'[\s,;:<>()\[\]"\\]', seen_by_others):
        raise MailImpossibleError("the user's e-mail is not one plain address")
    return recipient


def message_id_of(event_id: str, domain: str) -> MessageId:
    """The mail's Message-ID: the same for the same event, different for different ones, safe in a header."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]{1,40}", event_id)  # a UUID, and NestJS's 22 characters
    # A plain id has no dot, so no event can choose another's digest as its id.
    local = event_id if plain else f"sha256.{sha256(event_id.encode()).hexdigest()}"
    return MessageId(f"<welcome.{local}@{domain}>")


def name_for_greeting(username: str) -> str:
    """The name to greet with; empty for one that would turn our mail into somebody's advertisement."""
    looks_like_a_link = "://" in username or "www." in username.lower()
    return "" if looks_like_a_link or len(username) > 100 else username.strip()


_CONTROL: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def has_control_characters(text: str) -> bool:
    """Line ends of any kind (CR, LF, NEL, U+2028 …), tabs, NUL, halves of surrogate pairs."""
    return any(unicodedata.category(character) in _CONTROL for character in text)
