"""User names, by the rules of PRECIS (RFC 8264, RFC 8265 section 3.4: UsernameCasePreserved) and two of our own.

Letters, marks and digits of any script, and what is printable in ASCII; several words with a blank between each two.
Symbols, emoji, other punctuation, compatibility forms, and everything that cannot be seen or turns the direction of
the text are refused, and what mixes directions in a way that would be displayed in another order. Our own: no comma and
no semicolon, which separate the addresses of a mail, and no two blanks together.

What PRECIS does not do either: `раypal` in Cyrillic letters is another name than `paypal`.
"""

import unicodedata
from functools import lru_cache
from typing import Final

import idna

from seedwork.text import InvalidTextError, within

__all__ = ["USERNAME_MAX", "username", "username_key"]

USERNAME_MAX: Final = 64
"""Characters. Everything below is asked only of a text that is no longer."""


def username(text: str) -> str:
    """The one spelling that is kept: full-width and half-width letters as usual ones, in NFC; case as it is.

    Raises InvalidTextError, with a sentence that does not repeat the name.
    """
    within(text, at_most=USERNAME_MAX)
    name = unicodedata.normalize("NFC", "".join(map(_usual_width, text)))
    within(name, at_most=USERNAME_MAX)
    words = name.split(" ")
    if not any(words):
        raise InvalidTextError("must not be empty")
    if not words[0] or not words[-1]:
        raise InvalidTextError("must not begin or end with a blank")
    if not all(words):
        raise InvalidTextError("must not have two blanks together")
    for word in words:
        _check_characters(word)
        _check_directions(word)
    return name


def username_key(name: str) -> str:
    """Names with the same key count as the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _usual_width(character: str) -> str:
    """RFC 8265's width mapping: `ｊ` is `j`, an ideographic space a blank."""
    tag, _, code = unicodedata.decomposition(character).partition(" ")
    return chr(int(code, 16)) if tag in ("<wide>", "<narrow>") else character


def _check_characters(word: str) -> None:
    for position, character in enumerate(word):
        if character in ",;":
            raise InvalidTextError("must not contain a comma or a semicolon")
        if not (
            _is_allowed(character)
            or (character in _JOINERS and idna.valid_contextj(word, position))
            or (character in _IN_CONTEXT and idna.valid_contexto(word, position))
        ):
            raise InvalidTextError(
                "must consist of letters and digits of any script, and of ASCII's characters: no symbols, no control, "
                "bidirectional or invisible characters, no half of a surrogate pair"
            )


def _check_directions(word: str) -> None:
    try:
        idna.check_bidi(word)
    except idna.IDNAError:  # its text repeats the name
        raise InvalidTextError(
            "must not mix directions of writing within a word in a way that is displayed in another order"
        ) from None


# --- RFC 8264, section 8: which property a character has ----------------------------------------------------

_JOINERS: Final = frozenset("\u200c\u200d")
_IN_CONTEXT: Final = frozenset("\u00b7\u0375\u05f3\u05f4\u30fb") | {
    chr(code) for digits in (0x660, 0x6F0) for code in range(digits, digits + 10)
}
_ALLOWED_ALL_THE_SAME: Final = frozenset("\u00df\u03c2\u06fd\u06fe\u0f0b\u3007")
_REFUSED_ALL_THE_SAME: Final = frozenset("\u0640\u07fa\u302e\u302f\u3031\u3032\u3033\u3034\u3035\u303b")
_LETTERS_AND_DIGITS: Final = frozenset({"Ll", "Lu", "Lo", "Nd", "Lm", "Mn", "Mc"})
_OLD_HANGUL: Final = ((0x1100, 0x11FF), (0xA960, 0xA97C), (0xD7B0, 0xD7FB))
_IGNORABLE: Final = (
    (0x034F, 0x034F),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0000, 0xE0FFF),
)
"""Letters and marks that are Default_Ignorable_Code_Point; the other ignorable ones are neither."""


@lru_cache(maxsize=4096)
def _is_allowed(character: str) -> bool:
    """The order is the RFC's. What stands in a context is not allowed here."""
    if character in _ALLOWED_ALL_THE_SAME:
        return True
    if character in _REFUSED_ALL_THE_SAME or character in _IN_CONTEXT:
        return False
    if "\x21" <= character <= "\x7e":
        return True
    if _within(_OLD_HANGUL, character) or _within(_IGNORABLE, character):
        return False
    if unicodedata.normalize("NFKC", character) != character:
        return False
    return unicodedata.category(character) in _LETTERS_AND_DIGITS


def _within(ranges: tuple[tuple[int, int], ...], character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)
