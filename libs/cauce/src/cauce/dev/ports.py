"""TCP ports on 127.0.0.1: which are free, and who holds the others."""

import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from cauce.dev.errors import DevError

__all__ = ["choose_port", "holder_of", "is_free"]

# Below the ports that Linux and macOS hand to outgoing connections: a client that tries again and again to
# reach a stopped server on one of those can end up connected to itself.
_CHOICE = range(20_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on this port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_port(preferred: int | None = None) -> int:
    """`preferred` if it is free, else a free one that was chosen by nobody who still runs, neither in this process nor
    in another one of this user. Whoever does not ask here may take it before it is used."""
    if preferred is not None and is_free(preferred):
        _reserve(preferred)
        return preferred
    for port in random.sample(_CHOICE, 200):
        if is_free(port) and _reserve(port):
            return port
    raise DevError(f"None of 200 ports tried between {_CHOICE.start} and {_CHOICE.stop} on 127.0.0.1 is free.")


_chosen: set[int] = set()


def _reserve(port: int) -> bool:
    """Between choosing a port and listening on it whole seconds may go by: this byte of a file is locked meanwhile."""
    if port in _chosen:
        return False
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    except OSError:  # no place for such a file: then without it
        pass
    _chosen.add(port)
    return True


@cache
def _reservations() -> int:
    path = Path(tempfile.gettempdir()) / f"cauce-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def holder_of(port: int) -> str | None:
    """Who listens on the port, as `pid 4711, python -m accounts`; None where the system does not tell."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, inodes):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            return f"pid {process.name}, {' '.join(words).strip()[:60]}"
    return None


def _listening_inodes(port: int) -> set[str]:
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rsplit(":", 1)[1], 16) == port:
                    found.add(f"socket:[{columns[9]}]")
    return found


def _holds(process: Path, inodes: set[str]) -> bool:
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(descriptor) in inodes:
                    return True
    return False
