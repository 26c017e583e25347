"""The use case of mailing-ms: one welcome mail for every user who signed up, and a record of what became of it.

No transaction is open while the mail travels. That it travels, waits for another attempt or is in doubt is known to
Cauce, which calls this (`effect=`); the record knows outcomes only. It is made before, because it is also what counts
against the recipient's bound, and what replicas on a volatile transport have in common.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

from mailing.domain import (
    Mail,
    MailImpossibleError,
    MailNotSentError,
    MailRefusedError,
    MailUncertainError,
    MessageId,
    NewUser,
    Outcome,
    Welcome,
    has_control_characters,
    message_id_of,
    name_for_greeting,
    one_recipient,
)

__all__ = ["Clock", "Count", "Found", "MailRecords", "Mailer", "Render", "WelcomeMail"]

Clock = Callable[[], datetime]
Count = Callable[[Outcome], None]
Found = Literal["new", "open", "settled", "over the bound"]
"""What a record of the event says: there was none; there is one without an outcome; with one; the recipient had enough."""

MOST_COPIES: Final = 3
"""How often one mail is handed over to a server that never says whether it took it."""

_log = logging.getLogger(__name__)


class Mailer(Protocol):
    """Hands mails to a mail server."""

    async def send(self, mail: Mail) -> None:
        """Return once the server has taken responsibility for the mail; in bounded time.

        Raises MailRefusedError when the recipient or the mail was refused, MailImpossibleError when a rule of ours
        forbids it, MailUncertainError when the server did not say, MailNotSentError for all other reasons.
        """
        ...


class MailRecords(Protocol):
    """One record per event that asked for a mail, and its outcome. Every call is a transaction of its own."""

    async def ask(
        self, *, event_id: str, user_id: str, message_id: MessageId, recipient: str | None, at: datetime
    ) -> Found:
        """Make the record if there is none, and say what it says.

        `recipient` counts against its bound, under a keyed hash of its mailbox; None: nobody is written to.
        """
        ...

    async def unanswered(self, event_id: str) -> int:
        """Note that the mail was handed over and the server did not say whether it took it; how often by now."""
        ...

    async def ended(
        self, event_id: str, outcome: Outcome, *, code: int | None = None, reason: str | None = None, at: datetime
    ) -> None: ...


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
    count: Count = lambda _outcome: None

    async def send(self, user: NewUser, *, event_id: str, last_attempt: bool = False) -> None:
        """Send the welcome that the event asked for; not again if it has an outcome, whatever is repeated.

        A refusal is an outcome: of a hostile address or name, and of a recipient whom the mail server does not take,
        for good or (on the `last_attempt`) once more. It is recorded, logged and counted, and no error. What remains
        is raised as MailNotSentError: nothing was sent, or nobody knows, and that is not the recipient's doing.
        """
        if has_control_characters(event_id) or has_control_characters(user.id):
            raise MailImpossibleError("the event's id or the user's has control characters; nothing was recorded")
        message_id = message_id_of(event_id, self.sender_domain)
        mail = self._compose(user, message_id)
        found = await self.records.ask(
            event_id=event_id,
            user_id=user.id,
            message_id=message_id,
            recipient=mail.recipient if isinstance(mail, Mail) else None,
            at=self.now(),
        )
        if found == "settled" or (found == "open" and not self.tried_again):
            _log.info("Welcome mail of event %s has been dealt with before: nothing sent", event_id)
        elif isinstance(mail, MailRefusedError):
            await self._refused(event_id, mail)
        elif found == "over the bound":
            self.count("withheld")
            _log.warning("Welcome mail of event %s withheld: its recipient has had enough mails for now", event_id)
        else:
            await self._hand_over(mail, user, event_id, last_attempt=last_attempt)

    async def _hand_over(self, mail: Mail, user: NewUser, event_id: str, *, last_attempt: bool) -> None:
        try:
            await self.mailer.send(mail)
        except MailUncertainError as error:
            await self._unanswered(event_id, error)
        except MailNotSentError as error:
            if isinstance(error, MailRefusedError) and (error.for_good or (last_attempt and self.tried_again)):
                return await self._refused(event_id, error)
            if not self.tried_again:
                await self._end(event_id, "failed", reason=error.reason)
            raise
        else:
            await self._end(event_id, "sent")
            _log.info("Welcome mail sent to user %s (event %s)", user.id, event_id)

    async def _unanswered(self, event_id: str, error: MailUncertainError) -> None:
        """Raise it, so that the caller decides; unless as many copies may have arrived as ever should."""
        if not self.tried_again:
            await self._end(event_id, "failed", reason=error.reason)
        elif await self.records.unanswered(event_id) >= MOST_COPIES:
            await self._end(event_id, "uncertain", reason=error.reason)
            _log.error("Welcome mail of event %s: handed over %d times; %s", event_id, MOST_COPIES, error.reason)
            return
        raise error

    async def _refused(self, event_id: str, error: MailRefusedError) -> None:
        await self._end(event_id, "refused", code=error.code, reason=error.reason)
        _log.warning("Welcome mail of event %s refused: %s", event_id, error.reason)

    async def _end(
        self, event_id: str, outcome: Outcome, *, code: int | None = None, reason: str | None = None
    ) -> None:
        """Record the outcome. While the database is away the note of it is tried again, and not the mail.

        Without an end of its own: the caller limits how long a listener may take.
        """
        pause_s, at = 0.1, self.now()
        while True:
            try:
                await self.records.ended(event_id, outcome, code=code, reason=reason, at=at)
            except Exception as error:
                _log.warning(
                    "Welcome mail of event %s: %s; the note waits (%s)", event_id, outcome, type(error).__name__
                )
            else:
                return self.count(outcome)
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, pause_s * 2)

    def _compose(self, user: NewUser, message_id: MessageId) -> Mail | MailImpossibleError:
        try:
            if has_control_characters(user.username):
                raise MailImpossibleError("the username has control characters")
            return Mail(
                recipient=one_recipient(user.email),
                message_id=message_id,
                date=self.now(),
                content=self.render(name_for_greeting(user.username)),
            )
        except MailImpossibleError as error:
            return error
