"""A mail to one recipient, what becomes of it, and why one was not sent."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal, NewType

__all__ = [
    "Language",
    "Mail",
    "MailImpossibleError",
    "MailNotSentError",
    "MailRefusedError",
    "MailUncertainError",
    "MessageId",
    "NewUser",
    "Outcome",
    "Welcome",
    "has_control_characters",
    "message_id_of",
]

Language = Literal["es", "en"]
MessageId = NewType("MessageId", str)

Outcome = Literal["sent", "refused", "withheld", "uncertain", "failed"]
"""What became of a mail, for good.

`sent`: the mail server took it. `refused`: the server, or a rule of ours, takes no mail for this recipient. `withheld`:
the recipient has had as many as the bound allows. `uncertain`: it was handed over as often as it may be, and the
server never said whether it took it. `failed`: it was not sent, and nobody tries again.
"""


class MailNotSentError(Exception):
    """No mail left, or none is known to have arrived. `reason` names no address and fits into a log line."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class MailRefusedError(MailNotSentError):
    """This recipient or this mail was refused, which says nothing of other mails.

    `code` is the server's, None if a rule of ours refused it; `for_good`: another attempt would end alike.
    """

    def __init__(self, reason: str, *, code: int | None = None, for_good: bool = True) -> None:
        self.code = code
        self.for_good = for_good
        super().__init__(reason)


class MailImpossibleError(MailRefusedError):
    """A rule of ours refuses it: no such mail is composed or handed to a server."""


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


def message_id_of(event_id: str, domain: str) -> MessageId:
    """The mail's Message-ID: the same for the same event, different for different ones, safe in a header."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]{1,40}", event_id)  # a UUID, and NestJS's 22 characters
    # A plain id has no dot, so no event can choose another's digest as its id.
    local = event_id if plain else f"sha256.{sha256(event_id.encode()).hexdigest()}"
    return MessageId(f"<welcome.{local}@{domain}>")


_CONTROL: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def has_control_characters(text: str) -> bool:
    """Line ends of any kind (CR, LF, NEL, U+2028 …), tabs, NUL, halves of surrogate pairs."""
    return any(unicodedata.category(character) in _CONTROL for character in text)
