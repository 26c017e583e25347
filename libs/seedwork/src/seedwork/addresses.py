"""Mail addresses from outside: exactly one, bare, in one spelling, and text for every program that reads a mail."""

import unicodedata
from typing import Final

import email_validator

from seedwork.text import InvalidTextError, within

__all__ = ["EMAIL_MAX", "EMAIL_MIN", "email_address", "holds_encoded_word"]

EMAIL_MIN: Final = 3
EMAIL_MAX: Final = 254
"""RFC 5321 allows a path of 256, its two angle brackets included."""

_NOT_IN_AN_ADDRESS: Final = frozenset(' ,;:<>()[]"\\')


def email_address(text: str, *, international: bool = False) -> str:
    """The address in one spelling: an international domain in its ASCII form (`xn--`).

    Only the form is checked; nothing is looked up. Refused: whatever is more than one bare address for any program (a
    list, a display name, a comment, a quoted local part), control characters, and an encoded word (RFC 2047): that is
    legal in an address, and a program that composes or reads mail decodes it, into line ends and headers perhaps.
    A local part beyond ASCII, which few servers deliver, is taken only if `international`.

    Raises InvalidTextError, with a sentence that does not repeat the address.
    """
    within(text, at_least=EMAIL_MIN, at_most=EMAIL_MAX)
    if any(unicodedata.category(character)[0] in "CZ" for character in text):
        raise InvalidTextError("must not contain blanks, line ends, control or invisible characters")
    if holds_encoded_word(text):
        raise InvalidTextError("must not contain an encoded word (=?…?=)")
    try:
        parsed = email_validator.validate_email(
            text, check_deliverability=False, allow_smtputf8=international, strict=True
        )
    except email_validator.EmailNotValidError as error:
        raise InvalidTextError(_without_quotation(str(error))) from None
    address = parsed.ascii_email or parsed.normalized
    within(address, at_least=EMAIL_MIN, at_most=EMAIL_MAX)
    # What the parser let through is still not trusted to be one address for every program, some of which take a
    # full-width ＠ or ， for the ASCII one.
    seen_by_others = unicodedata.normalize("NFKC", address)
    if seen_by_others.count("@") != 1 or not _NOT_IN_AN_ADDRESS.isdisjoint(seen_by_others):
        raise InvalidTextError("must be one plain address")
    if holds_encoded_word(seen_by_others):
        raise InvalidTextError("must not contain an encoded word (=?…?=)")
    return address


def holds_encoded_word(text: str) -> bool:
    """Whether a program that decodes encoded words (`=?utf-8?q?…?=`) may find one in it."""
    begin = text.find("=?")
    return begin >= 0 and text.find("?=", begin + 2) >= 0


def _without_quotation(said: str) -> str:
    """The parser's own sentence, unless it quotes what was sent."""
    return said if said.isascii() and "'" not in said else "must be one valid address, before the @ in ASCII"
