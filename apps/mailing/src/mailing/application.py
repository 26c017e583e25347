"""What mailing-ms does: one welcome mail for every user who signed up, and a record of it.

No transaction is open while the mail travels: `sending` is committed before, `sent` or `failed` after. Of a
mail that was cut off in between, `sending` is what remains, and nobody knows whether it arrived. Whether it is tried
again is decided by who calls: the transport that delivers the event, and the setting MAIL_DELIVERY.
"""

import asyncio
import logging
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Literal, NewType, Protocol

from cauce import Context
from contracts.accounts import UserCreated
from email_validator import EmailNotValidError, validate_email

__all__ = [
    "Clock",
    "Journal",
    "Mail",
    "MailImpossibleError",
    "MailNotSentError",
    "MailUncertainError",
    "Mailer",
    "MessageId",
    "Render",
    "Welcome",
    "WelcomeMail",
]

Clock = Callable[[], datetime]
Language = Literal["es", "en"]
MessageId = NewType("MessageId", str)

_log = logging.getLogger(__name__)


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


class Mailer(Protocol):
    """Hands mails to a mail server."""

    async def send(self, mail: Mail) -> None:
        """Return once the server has taken responsibility for the mail; in bounded time.

        Raises MailNotSentError when it refused, MailImpossibleError when it always will, MailUncertainError when
        it did not say.
        """
        ...


class Journal(Protocol):
    """Which mail was sent for which event; every call is a transaction of its own."""

    async def begin(self, *, event_id: str, user_id: str, message_id: MessageId, at: datetime, again: bool) -> bool:
        """Record that the mail is being sent. False when the event has a record already: then do nothing.

        `again`: a mail that was begun and not sent may be begun once more.
        """
        ...

    async def sent(self, event_id: str, *, at: datetime) -> None: ...

    async def failed(self, event_id: str, *, reason: str, at: datetime) -> None: ...


Render = Callable[[str], Welcome]
"""The welcome for a name; an empty name gives a greeting without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WelcomeMail:
    """Welcomes whoever signed up."""

    journal: Journal
    mailer: Mailer
    render: Render
    sender_domain: str
    now: Clock
    tried_again: bool
    """Whether whoever delivers the events tries them again, and so has decided that this one is to be sent."""

    async def send(self, event: UserCreated, context: Context) -> None:
        """Not again for an event whose mail was sent, whatever is repeated.

        A mail that could not be sent, or must not be (a hostile address or name), is first recorded as failed
        and then raised as MailNotSentError, so that the service logs it with the event's id and counts it.
        """
        event_id = context.event_id
        if has_control_characters(event_id) or has_control_characters(event.id):
            raise MailImpossibleError("the event's id or the user's has control characters; nothing was recorded")
        message_id = message_id_of(event_id, self.sender_domain)
        begun = await self.journal.begin(
            event_id=event_id, user_id=event.id, message_id=message_id, at=self.now(), again=self.tried_again
        )
        if not begun:
            _log.info("Welcome mail of event %s has been dealt with before: nothing sent", event_id)
            return
        try:
            await self.mailer.send(self._compose(event, message_id))
        except MailNotSentError as error:
            await self.journal.failed(event_id, reason=error.reason, at=self.now())
            raise
        await self._note(event_id)
        _log.info("Welcome mail sent to user %s (event %s)", event.id, event_id)

    async def _note(self, event_id: str) -> None:
        """The mail has left. While the database is away the note of it is tried again, and not the mail.

        Without an end of its own: the caller limits how long a listener may take.
        """
        pause_s, at = 0.1, self.now()
        while True:
            try:
                return await self.journal.sent(event_id, at=at)
            except Exception as error:
                _log.warning("The welcome mail of event %s left; its note waits (%s)", event_id, type(error).__name__)
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, pause_s * 2)

    def _compose(self, event: UserCreated, message_id: MessageId) -> Mail:
        if has_control_characters(event.username):
            raise MailImpossibleError("the username has control characters")
        return Mail(
            recipient=one_recipient(event.email),
            message_id=message_id,
            date=self.now(),
            content=self.render(name_for_greeting(event.username)),
        )


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


_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})


def has_control_characters(text: str) -> bool:
    """Line ends of any kind (CR, LF, NEL, U+2028 …), tabs, NUL, halves of surrogate pairs."""
    return any(unicodedata.category(character) in _CONTROL for character in text)
