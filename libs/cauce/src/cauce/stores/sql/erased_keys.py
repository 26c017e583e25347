"""Under which name the numbers of a key are kept whose every other trace was erased: a hash, so that counting goes on.

A hash hides a key that cannot be guessed, such as a random id. Whoever has a list of all possible keys can hash them.
"""

from hashlib import sha256

__all__ = ["erased_name", "kept_name", "kept_name_in_postgres"]

_PREFIX = "erased:"
_IN_NO_KEY = "\x1f"
"""A key has no control characters, so none is the name of another's numbers, whatever strangers can choose."""


def erased_name(key: str) -> str:
    """For people: in reports and audit entries."""
    return _PREFIX + sha256(key.encode()).hexdigest()


def kept_name(key: str) -> str:
    """In the tables, in the place of the key."""
    return _IN_NO_KEY + erased_name(key)


def kept_name_in_postgres(key: str) -> str:
    """The same as an expression of PostgreSQL. `key`: an expression."""
    return f"chr({ord(_IN_NO_KEY)}) || '{_PREFIX}' || encode(sha256(convert_to({key}, 'UTF8')), 'hex')"
