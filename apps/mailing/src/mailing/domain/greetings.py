"""Names from outside, in a mail that is ours: greeted are names, not sentences and nothing that becomes a link."""

import unicodedata
from itertools import pairwise
from typing import Final

from seedwork.text import InvalidTextError, one_line

__all__ = ["name_for_greeting"]

_LONGEST: Final = 40
_MOST_WORDS: Final = 4
_MOST_DIGITS: Final = 6
_JOINERS: Final = frozenset("\u200c\u200d")
"""Join the letters of some scripts, and the parts of an emoji."""
_OF_NAMES: Final = frozenset("_-'’·. 。") | _JOINERS
"""Beside letters, digits and pictures."""


def name_for_greeting(username: str) -> str:
    """The name to greet with; empty for one that would turn our mail into somebody's advertisement.

    Anybody can give himself a name, and another person's address. So a name of more than four words or forty
    characters is a sentence and is not repeated; nor is one with anything in it that names do not have, or that a mail
    program would make a link of (`evil.example`, also with the dots of other scripts; more digits than six may be a
    telephone number).
    """
    try:
        name = one_line(username.strip(), at_most=_LONGEST)
    except InvalidTextError:
        return ""
    as_shown = unicodedata.normalize("NFKC", name)
    if len(name.split()) > _MOST_WORDS or not all(map(_is_of_names, name + as_shown)) or not any(map(_is_seen, name)):
        return ""
    if sum(map(str.isdecimal, as_shown)) > _MOST_DIGITS:
        return ""
    return "" if any(map(_is_like_a_domain, as_shown.replace("。", ".").split())) else name


def _is_of_names(character: str) -> bool:
    return character in _OF_NAMES or _is_seen(character) or _is_mark(character)


def _is_seen(character: str) -> bool:
    """A letter, a digit or a picture."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category in ("So", "Sk")


def _is_mark(character: str) -> bool:
    """Belongs to the letter before it: an accent, a vowel of many scripts."""
    return unicodedata.category(character)[0] == "M"


def _is_like_a_domain(word: str) -> bool:
    """Whether it has a dot between what a domain or a number of the network has there: `J.R.R.` and `Dr.` have not.

    Domains are in any script (`.भारत`), so marks and joiners are passed over; before the dot they may be pictures, too.
    """
    letters = "".join(character for character in word if not (_is_mark(character) or character in _JOINERS))
    return any(
        any(map(_is_seen, before[-1:])) and (after[:1].isdigit() or (len(after) > 1 and after[:2].isalpha()))
        for before, after in pairwise(letters.split("."))
    )
