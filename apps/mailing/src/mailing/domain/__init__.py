"""What a mail to one recipient is, and which addresses, names and ids may go into one. Knows no framework.

mails        a mail, and why one was not sent       recipients   addresses from outside
greetings    names from outside
"""

from mailing.domain.greetings import name_for_greeting
from mailing.domain.mails import (
    Language,
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
)
from mailing.domain.recipients import mailbox_of, one_recipient

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
    "mailbox_of",
    "message_id_of",
    "name_for_greeting",
    "one_recipient",
]
