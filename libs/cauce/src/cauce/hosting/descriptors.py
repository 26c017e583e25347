"""File descriptors: as many as the system gives, and some of them kept from the connections of clients."""

from contextlib import suppress

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["connections_within", "raise_open_files"]

_MOST = 1 << 20
"""More helps nobody, and a hard limit may be a number in the billions."""
_NOT_EVERYWHERE = 10_240
"""What macOS takes where its hard limit says "infinite"."""
_KEPT_BACK = 128
"""For the database, the broker, the health port and files."""


def raise_open_files() -> int | None:
    """Raise the soft limit of open files to the hard one; return what holds now, or None where the system has no limit.

    Children of the process inherit it."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    for wanted in (most, min(most, _NOT_EVERYWHERE)):
        if wanted <= soft:
            break
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft


def connections_within(open_files: int | None, connections: int) -> int:
    """So many connections of clients leave enough descriptors for everything else; `connections` at most."""
    if open_files is None:
        return connections
    return max(1, min(connections, max(open_files - _KEPT_BACK, open_files // 2)))
