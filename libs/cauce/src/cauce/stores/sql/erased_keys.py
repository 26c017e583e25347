"""Under which name the numbers of a key are kept whose every other trace was erased: a hash, so that counting goes on.

A hash hides a key that cannot be guessed, such as a random id. Whoever has a list of all possible keys can hash them.
"""

from hashlib import sha256

__all__ = ["erased_in_postgres", "erased_name"]

_PREFIX = "erased:"


def erased_name(key: str) -> str:
    return _PREFIX + sha256(key.encode()).hexdigest()


def erased_in_postgres(key: str) -> str:
    """The same as an expression of PostgreSQL. `key`: an expression."""
    return f"'{_PREFIX}' || encode(sha256(convert_to({key}, 'UTF8')), 'hex')"
