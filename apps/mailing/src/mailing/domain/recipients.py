"""Addresses from outside: the one recipient that an address is, and the mailbox that several addresses share."""

import unicodedata
from typing import Final

from seedwork.addresses import email_address
from seedwork.text import InvalidTextError

from mailing.domain.mails import MailImpossibleError

__all__ = ["mailbox_of", "one_recipient"]

_OTHER_NAMES: Final = {"googlemail.com": "gmail.com"}


def one_recipient(address: str) -> str:
    """The one bare address that this is, parsed and put together again; its domain in ASCII where possible.

    Checked here too, whoever published the event. Raises MailImpossibleError for anything else: a list, a display name,
    a comment, a control character, an encoded word.
    """
    try:
        return email_address(address, international=True)
    except InvalidTextError:
        raise MailImpossibleError("the user's e-mail is not one valid address") from None


def mailbox_of(recipient: str) -> str:
    """The mailbox that most likely stands behind an address, for counting: without case, `+tag` and dots, and under one
    of its provider's names.

    The large providers ignore them, so a stranger has as many spellings of one victim's address as he likes. Two
    people elsewhere whose addresses differ in a dot share a count, and nothing else.
    """
    local, _, domain = unicodedata.normalize("NFKC", recipient).casefold().rpartition("@")
    name, _, _ = local.partition("+")
    return f"{name.replace('.', '') or local}@{_OTHER_NAMES.get(domain, domain)}"
