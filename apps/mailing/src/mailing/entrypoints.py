"""What mailing-ms listens to. Here an event becomes a call of the application, and its errors become outcomes."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from cauce import AtLeastOnce, AtMostOnce, Context, EffectNotDoneError, Reject, Retry, on
from contracts.accounts import UserCreated

from mailing.application import WelcomeMail
from mailing.domain import MailImpossibleError, MailNotSentError, MailUncertainError, NewUser

__all__ = ["welcome_listener"]

_log = logging.getLogger(__name__)


RETRY: Final = Retry(attempts=20, base=1.0, cap=3600.0)
"""Four hours, more or less: as long as a server that asks newcomers to come again later takes, or an outage."""


def welcome_listener(
    welcome: WelcomeMail, effect: AtLeastOnce | AtMostOnce, *, limit_s: float
) -> Callable[[UserCreated, Context], Awaitable[None]]:
    """The listener that sends the welcome for every sign-up. A mail is an effect outside the database, so it has no transaction.

    `effect` says what happens to a mail that was cut off by a crash: once more, with the same Message-ID, or never.
    `limit_s` has to be longer than any mail takes: a call that is cut off has perhaps sent it.
    """

    @on(UserCreated, name="mailing.welcome", effect=effect, retry=RETRY, limit_s=limit_s)
    async def welcome_who_signed_up(event: UserCreated, context: Context) -> None:
        _log.info("Event received: %s from %s", context.name, context.source)
        try:
            user = NewUser(id=event.id, username=event.username, email=event.email)
            last_attempt = context.attempt >= RETRY.attempts
            await welcome.send(user, event_id=context.event_id, last_attempt=last_attempt)
        except MailUncertainError:
            raise  # `effect` decides what becomes of it
        except MailImpossibleError as error:
            raise Reject(error.reason) from None
        except MailNotSentError as error:
            raise EffectNotDoneError(error.reason) from None

    return welcome_who_signed_up
