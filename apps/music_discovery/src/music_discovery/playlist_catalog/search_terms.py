"""From any text to the terms it is found by, the same for every database.

The databases only store and match finished terms; how text is cut and what counts as equal is decided here, once,
so that the same search has the same result everywhere.

- Case, accents, width and ligatures do not matter: `Ñandú`, `NANDU` and `ｎａｎｄｕ` are one term; `ß` is `ss`.
- A term is a run of letters and digits. Punctuation and blanks separate, also an apostrophe (`l'amour`).
- Scripts that are written without blanks (Chinese, Japanese, Thai …) and symbols (emoji) become overlapping pairs,
  so that every part of a sentence is found.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

__all__ = ["MAX_QUERY_TERMS", "MAX_TERMS", "MAX_TERM_LENGTH", "indexed_terms", "query_terms"]

MAX_TERM_LENGTH: Final = 40
"""Characters of a term that count; of a longer word, its beginning."""

MAX_TERMS: Final = 5_000
"""Different terms kept of one text. PostgreSQL holds 1 MB of terms in a row: 5,000 of 40 characters of 4 bytes."""

MAX_QUERY_TERMS: Final = 32
"""Terms of a query that are looked for; the rest of a very long query narrows nothing any more."""

# Letters that are accented to the eye, but not in Unicode's decomposition.
_PLAIN: Final = {
    "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŧ": "t"
}  # fmt: skip

# Accents, Hebrew points, Arabic vowel signs. The classes below belong to the letters: the virama and nukta of Indic
# scripts and the voicing of kana, without which a word is another word.
_FIRST_ACCENT_CLASS: Final = 10

_UNSPACED: Final = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029"  # radicals, 々〆〇, Hangzhou numerals
    "\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\U00020000-\U0003ffff"  # Han, further planes
    "]"
)


def indexed_terms(*texts: str) -> tuple[str, ...]:
    """The different terms by which these texts are found, at most MAX_TERMS, in the order of their appearance."""
    found: dict[str, None] = {}
    for text in texts:
        for word, unspaced in _words(text):
            for term in (*_pairs(word), word[-1]) if unspaced else (word,):
                found[term[:MAX_TERM_LENGTH]] = None
        if len(found) >= MAX_TERMS:
            break
    return tuple(found)[:MAX_TERMS]


def query_terms(text: str) -> tuple[str, ...]:
    """The terms that must all be there, each as the beginning of an indexed one; at most MAX_QUERY_TERMS.

    Empty when there is nothing to look for, as in a query of punctuation alone.
    """
    found: dict[str, None] = {}
    for word, unspaced in _words(text):
        for term in _pairs(word) if unspaced and len(word) > 1 else (word,):
            found[term[:MAX_TERM_LENGTH]] = None
    # What begins a longer term is implied by it.
    needed = [term for term in found if not any(other != term and other.startswith(term) for other in found)]
    return tuple(needed[:MAX_QUERY_TERMS])


class _Table(dict[int, str | None]):
    """A table for str.translate that asks `entry` about each character once; bounded, since texts are not ours."""

    def __init__(self, entry: Callable[[str], str | None]) -> None:
        super().__init__()
        self._entry = entry

    def __missing__(self, code: int) -> str | None:
        found = self._entry(chr(code))
        if code <= 0xFFFF:
            self[code] = found
        return found


def _without_accent(character: str) -> str | None:
    """None for an accent; variation selectors and what cannot be seen (soft hyphens, joiners) go with them."""
    if unicodedata.combining(character) >= _FIRST_ACCENT_CLASS or unicodedata.category(character) == "Cf":
        return None
    if "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef":
        return None
    return _PLAIN.get(character, character)


def _as_term(character: str) -> str:
    """A blank for what separates, the European digit for any digit, all else as it is."""
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    return character if category[0] in "LNM" or category == "So" else " "


_WITHOUT_ACCENTS: Final = _Table(_without_accent)
_AS_TERMS: Final = _Table(_as_term)


def _is_unspaced(character: str) -> bool:
    return _UNSPACED.match(character) is not None or unicodedata.category(character) == "So"


def _folded(text: str) -> str:
    """Terms with blanks between. Folding case can uncover accents (`İ`), so these go afterwards."""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", decomposed.translate(_WITHOUT_ACCENTS)).translate(_AS_TERMS)


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """The runs of one kind, and whether the kind is one without blanks between words."""
    for run in _folded(text).split(" "):
        if run.isascii():
            if run:
                yield run, False
        else:
            for unspaced, characters in groupby(run, _is_unspaced):
                yield "".join(characters), unspaced


def _pairs(word: str) -> list[str]:
    return [word[i : i + 2] for i in range(len(word) - 1)]
