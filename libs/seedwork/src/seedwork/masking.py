"""Secrets and personal data kept out of logs: the second line of defence, since none is meant to be logged at all.

Fields named like secrets are masked, and so are, in any text (tracebacks included), e-mail addresses,
password hashes, passwords in URLs and the values PostgreSQL quotes when a constraint is broken.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

__all__ = ["MASK", "masked", "masked_text"]

MASK: Final = "••••"

_SECRET_NAME: Final = re.compile(
    r"(^|_)pass(es)?$|passw(or)?d|passphrase|secret|token|authorization|cookie|credential|(api|private)_?key|(^|_)(hash|pwd)$",
    re.IGNORECASE,
)


def masked(fields: Mapping[str, Any]) -> dict[str, object]:
    """The fields of a log line as plain data without secrets."""
    return {name: MASK if _SECRET_NAME.search(name) else _clean(value) for name, value in fields.items()}


def _clean(value: object) -> object:
    """Plain data without secrets; of anything else only the text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        fields = cast("dict[object, object]", value)
        return {str(name): MASK if _SECRET_NAME.search(str(name)) else _clean(inner) for name, inner in fields.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item) for item in cast("Iterable[object]", value)]
    return masked_text(value if isinstance(value, str) else repr(value))


def _without_local_part(match: re.Match[str]) -> str:
    """A Message-ID looks like an address, too, and is made from an event's id: it stays."""
    return match[0] if _UUID.search(match[1]) else f"{MASK}@{match[2]}"


def _without_values(match: re.Match[str]) -> str:
    """To the end of the line, but for what PostgreSQL says about the values: they may hold brackets themselves."""
    end = max(match[2].rfind(said) for said in _SAID_AFTER_VALUES)
    return match[1] + MASK + (match[2][end:] if end >= 0 else "")


_SAID_AFTER_VALUES: Final = (") already", ") is not", ") is still", ") conflicts", ").")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
# None of them can be quadratic: lengths are bounded where a match may be tried from many places, and what has a
# beginning that repeats takes the line to its end, so that no second match begins in it.
_PATTERNS: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    # the encoded form of argon2
    (re.compile(r"\$argon2[\w$=,+/.-]*"), MASK),
    # scheme://user:password@host
    (
        re.compile(r"((?<![\w+.-])[a-z][\w+.-]{1,30}://[^\s:/@]{0,64}:)[^\s@]{1,256}(?=@)", re.IGNORECASE),
        rf"\g<1>{MASK}",
    ),
    # an e-mail address
    (re.compile(r"([\w.!#$%&'*+/=?^`{|}~-]{1,64})@([\w-]+(?:\.[\w-]+)+)"), _without_local_part),
    # PostgreSQL: Key (email)=(…) already exists.  Failing row contains (…).
    (re.compile(r"(Key \([^=\n]{0,300}\)=\()(.*)"), _without_values),
    (re.compile(r"(Failing row contains \()(.*)"), _without_values),
    # password='…', "password": "…"
    (
        re.compile(
            r"""(["']?\b(?:password|passwd|secret|token|api_key)["']?\s*[:=]\s*)(["'])(?:(?!\2).)*\2""",
            re.IGNORECASE,
        ),
        rf"\g<1>\g<2>{MASK}\g<2>",
    ),
)


def masked_text(text: str) -> str:
    """`text` without e-mail addresses, password hashes, passwords of URLs and quoted rows."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
