"""What mailing-ms listens to. Here an event becomes a call of the application, and its errors become outcomes."""

import logging
from collections.abc import Awaitable, Callable

from cauce import AtLeastOnce, AtMostOnce, Context, EffectNotDoneError, Reject, Retry, on
from contracts.accounts import UserCreated

from mailing.application import WelcomeMail
from mailing.domain import MailImpossibleError, MailNotSentError, MailUncertainError, NewUser

__all__ = ["welcome_listener"]

_log = logging.getLogger(__name__)


def welcome_listener(
    welcome: WelcomeMail, effect: AtLeastOnce | AtMostOnce
) -> Callable[[UserCreated, Context], Awaitable[None]]:
    """The listener that sends the welcome for every sign-up. A mail is an effect outside the database, so it has no transaction.

    `effect` says what happens to a mail that was cut off by a crash: once more, with the same Message-ID, or never.
    """

    @on(UserCreated, name="mailing.welcome", effect=effect, retry=Retry(attempts=10, base=1.0, cap=600.0), limit_s=60.0)
    async def welcome_who_signed_up(event: UserCreated, context: Context) -> None:
        _log.info("Event received: %s from %s", context.name, context.source)
        try:
            user = NewUser(id=event.id, username=event.username, email=event.email)
            await welcome.send(user, event_id=context.event_id)
        except MailUncertainError:
            raise  # `effect` decides what becomes of it
        except MailImpossibleError as error:
            raise Reject(error.reason) from None
        except MailNotSentError as error:
            raise EffectNotDoneError(error.reason) from None

    return welcome_who_signed_up
