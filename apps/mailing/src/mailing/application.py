"""The use case of mailing-ms: one welcome mail for every user who signed up, and a record of it.

No transaction is open while the mail travels: `sending` is committed before, `sent` or `failed` after. Of a
mail that was cut off in between, `sending` is what remains, and nobody knows whether it arrived. Whether it is tried
again is decided by the caller: the transport that delivers the event, and the setting MAIL_DELIVERY.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mailing.domain import (
    Mail,
    MailImpossibleError,
    MailNotSentError,
    MessageId,
    NewUser,
    Welcome,
    has_control_characters,
    message_id_of,
    name_for_greeting,
    one_recipient,
)

__all__ = ["Clock", "MailRecords", "Mailer", "Render", "WelcomeMail"]

Clock = Callable[[], datetime]

_log = logging.getLogger(__name__)


class Mailer(Protocol):
    """Hands mails to a mail server."""

    async def send(self, mail: Mail) -> None:
        """Return once the server has taken responsibility for the mail; in bounded time.

        Raises MailNotSentError when it refused, MailImpossibleError when it always will, MailUncertainError when
        it did not say.
        """
        ...


class MailRecords(Protocol):
    """One record per event that asked for a mail: being sent, sent, or failed. Every call is a transaction of its own."""

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

    records: MailRecords
    mailer: Mailer
    render: Render
    sender_domain: str
    now: Clock
    tried_again: bool
    """Whether events are redelivered after a failure; then a delivery means that this mail is to be sent."""

    async def send(self, user: NewUser, *, event_id: str) -> None:
        """Send the welcome that the event asked for; not again if its mail was sent, whatever is repeated.

        A mail that could not be sent, or must not be (a hostile address or name), is first recorded as failed
        and then raised as MailNotSentError, so that the service logs it with the event's id and counts it.
        """
        if has_control_characters(event_id) or has_control_characters(user.id):
            raise MailImpossibleError("the event's id or the user's has control characters; nothing was recorded")
        message_id = message_id_of(event_id, self.sender_domain)
        begun = await self.records.begin(
            event_id=event_id, user_id=user.id, message_id=message_id, at=self.now(), again=self.tried_again
        )
        if not begun:
            _log.info("Welcome mail of event %s has been dealt with before: nothing sent", event_id)
            return
        try:
            await self.mailer.send(self._compose(user, message_id))
        except MailNotSentError as error:
            await self.records.failed(event_id, reason=error.reason, at=self.now())
            raise
        await self._note(event_id)
        _log.info("Welcome mail sent to user %s (event %s)", user.id, event_id)

    async def _note(self, event_id: str) -> None:
        """The mail has left. While the database is away the note of it is tried again, and not the mail.

        Without an end of its own: the caller limits how long a listener may take.
        """
        pause_s, at = 0.1, self.now()
        while True:
            try:
                return await self.records.sent(event_id, at=at)
            except Exception as error:
                _log.warning("The welcome mail of event %s left; its note waits (%s)", event_id, type(error).__name__)
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, pause_s * 2)

    def _compose(self, user: NewUser, message_id: MessageId) -> Mail:
        if has_control_characters(user.username):
            raise MailImpossibleError("the username has control characters")
        return Mail(
            recipient=one_recipient(user.email),
            message_id=message_id,
            date=self.now(),
            content=self.render(name_for_greeting(user.username)),
        )
