"""What mailing-ms hears."""

import logging
from collections.abc import Awaitable, Callable

from cauce import Context, EffectNotDoneError, Reject, Retry, on
from cauce.listeners.effects import Effect
from contracts.accounts import UserCreated

from mailing.application import MailImpossibleError, MailNotSentError, MailUncertainError, WelcomeMail

__all__ = ["welcome_listener"]

_log = logging.getLogger(__name__)


def welcome_listener(welcome: WelcomeMail, effect: Effect) -> Callable[[UserCreated, Context], Awaitable[None]]:
    """Sends the welcome for every sign-up. A mail is an effect outside the database, so it has no transaction.

    `effect` says what happens to a mail that was cut off by a crash: once more, with the same Message-ID, or never.
    """

    @on(UserCreated, name="mailing.welcome", effect=effect, retry=Retry(attempts=10, base=1.0, cap=600.0), limit_s=60.0)
    async def welcome_who_signed_up(event: UserCreated, context: Context) -> None:
        _log.info("Event received: %s from %s", context.name, context.source)
        try:
            await welcome.send(event, context)
        except MailUncertainError:
            raise  # what becomes of it is `effect`'s to say
        except MailImpossibleError as error:
            raise Reject(error.reason) from None
        except MailNotSentError as error:
            raise EffectNotDoneError(error.reason) from None

    return welcome_who_signed_up
