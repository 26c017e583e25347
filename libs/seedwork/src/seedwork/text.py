"""Text from outside, checked: the length first, then what is in it, in one walk. Knows no framework.

Every function here returns the one spelling that is kept (Unicode's NFC), or raises InvalidTextError with a sentence
fit for the client; it never repeats the text. None takes longer than its length bound allows, whatever it is given:
a text that is too long is refused unread, and no pattern can go back over what it has passed.

    one_line      a name or title people read: any script, emoji, one line
    identifier    an id of ours, 8-4-4-4-12 hexadecimal digits
    within        the length alone, for what is checked elsewhere

User names are in `usernames`, mail addresses in `addresses`, pydantic's types of all of them in `text_types`.
"""

import re
import unicodedata
from typing import Final

__all__ = [
    "ID_LENGTH",
    "ID_PATTERN",
    "ONE_LINE_PATTERN",
    "InvalidTextError",
    "identifier",
    "is_identifier",
    "one_line",
    "within",
]


class InvalidTextError(ValueError):
    """A text we do not take; the message says why, without the text."""


def within(text: str, *, at_least: int = 1, at_most: int) -> str:
    """`text`, if it has that many characters. To be asked before anything else is."""
    if at_least <= len(text) <= at_most:
        return text
    if at_least > 1:
        raise InvalidTextError(f"must have {at_least} to {at_most} characters")
    raise InvalidTextError(f"must have at most {at_most} characters" if text else "must not be empty")


# --- one line -----------------------------------------------------------------------------------------------

_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""Line ends, tabs, escape sequences of terminals."""

_DIRECTION: Final = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""What turns the direction of the text after it, and of whatever stands beside it on a page."""

_UNSEEN: Final = (
    r"\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2065\u206a-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Nothing to see: fillers, blank letters, zero-width characters, tags. Unicode's Default_Ignorable_Code_Point without
the joiners and variation selectors that writing and emoji need, and with the blank Braille pattern."""

_NO_CHARACTERS: Final = r"\ufdd0-\ufdef\ufffe\uffff" + "".join(
    f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000)
)

_REFUSED: Final = _CONTROLS + _DIRECTION + _UNSEEN + _NO_CHARACTERS
_HALF_PAIRS: Final = r"\ud800-\udfff"  # not in what is shown: no JSON document can hold one

_BLANK: Final = r"\x20\xa0\u1680\u2000-\u200a\u202f\u205f\u3000\u200c\u200d\ufe00-\ufe0f"
"""May be within a line, and cannot make one: Unicode's blanks, joiners, variation selectors."""

ONE_LINE_PATTERN: Final = f"^[{_BLANK}]*[^{_BLANK}{_REFUSED}][^{_REFUSED}]*$"
"""For OpenAPI: the same rule. The three parts exclude each other where they meet, so no engine goes back in it."""

_ONE_LINE: Final = re.compile(f"[{_BLANK}]*[^{_BLANK}{_REFUSED}{_HALF_PAIRS}][^{_REFUSED}{_HALF_PAIRS}]*")


def one_line(text: str, *, at_most: int) -> str:
    """A name or a title, in NFC: of at most that many characters, one line, with something to see in it.

    Every script, emoji, blanks and punctuation are taken. Refused are halves of surrogate pairs, control characters
    and line ends of any kind, bidirectional controls, and characters that only pretend to be there.
    """
    composed = unicodedata.normalize("NFC", within(text, at_most=at_most))
    within(composed, at_most=at_most)  # a few characters are longer when composed
    if not _ONE_LINE.fullmatch(composed):
        raise InvalidTextError(
            "must be text on one line: not blank, no control, bidirectional or invisible characters, "
            "no half of a surrogate pair"
        )
    return composed


# --- ids ----------------------------------------------------------------------------------------------------

ID_LENGTH: Final = 36
ID_PATTERN: Final = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_identifier(text: str) -> bool:
    """Whether it is 8-4-4-4-12 hex. Any version and variant: the article's own example is of none."""
    return len(text) == ID_LENGTH and _ID.fullmatch(text) is not None


def identifier(text: str) -> str:
    """An id of the form 8-4-4-4-12 hex, in lower case. Variant and version are not looked at."""
    if not is_identifier(text):
        raise InvalidTextError(
            "expected hexadecimal digits in the form 8-4-4-4-12, like 12345678-1234-1234-1234-123456789abc"
        )
    return text.lower()
