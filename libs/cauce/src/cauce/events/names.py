"""Dotted names, and patterns over them.

A pattern is a dotted name in which a whole segment may be `*` (exactly one segment, an empty one too) or `**`
(zero or more). A star inside a segment is an ordinary character: `user-*` matches only itself. Redis globs, where
`*` crosses dots, are another language; only the NestJS transport speaks it.
"""

from collections.abc import Callable
from functools import lru_cache

__all__ = ["is_pattern", "matcher", "matches"]

Matcher = Callable[[str], bool]


def is_pattern(text: str) -> bool:
    """Whether any whole segment of `text` is a wildcard."""
    return any(segment in ("*", "**") for segment in text.split("."))


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is one of those `pattern` stands for. Case counts; nothing is escaped."""
    return matcher(pattern)(name)


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Matcher:
    """The test for one pattern, split once."""
    if not is_pattern(pattern):
        return pattern.__eq__
    wanted = pattern.split(".")

    def test(name: str) -> bool:
        # `**` also stands for nothing at all, so `a.**` matches `a`, and `**` the empty name.
        return _match(wanted, name.split("."))

    return test


def _match(wanted: list[str], segments: list[str]) -> bool:
    """Glob over segments, remembering only the last `**`: linear in practice, never exponential."""
    at, seen = 0, 0
    retry_at, retry_seen = -1, 0
    while seen < len(segments):
        if at < len(wanted) and wanted[at] == "**":
            retry_at, retry_seen = at, seen
            at += 1
        elif at < len(wanted) and wanted[at] in ("*", segments[seen]):
            at += 1
            seen += 1
        elif retry_at >= 0:
            retry_seen += 1
            at, seen = retry_at + 1, retry_seen
        else:
            return False
    return all(segment == "**" for segment in wanted[at:])
