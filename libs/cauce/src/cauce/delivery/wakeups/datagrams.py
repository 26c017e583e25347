"""Hints between processes of one user on one machine: a datagram to a socket that is named after the process.

No registry and no connection: who has gone is noticed when a datagram is refused. A full queue means that the process has
hints enough.
"""

import asyncio
import os
import socket
import stat
import tempfile
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from cauce.ports.hints import Hint, Woken
from cauce.ports.lanes import MemberId

__all__ = ["Datagrams"]

_MOST_AT_ONCE = 256


class Datagrams:
    """This process's socket, until `close`."""

    def __init__(self, me: MemberId, folder: Path, sending: socket.socket) -> None:
        self.path = _path(folder, me)
        self._folder = folder
        self._socket = sending

    @classmethod
    def open(cls, me: MemberId) -> "Datagrams | None":
        """None where the system has no such sockets, or their folder belongs to somebody else."""
        family = getattr(socket, "AF_UNIX", None)
        folder = _private_folder() if family is not None else None
        if family is None or folder is None:
            return None
        sending = socket.socket(family, socket.SOCK_DGRAM)
        sending.setblocking(False)
        try:
            _remove_abandoned(folder)
            sending.bind(str(_path(folder, me)))
        except OSError:  # no room, or a path too long for the system
            sending.close()
            return None
        return cls(me, folder, sending)

    async def listen(self, woken: Woken) -> None:
        """Call `woken` with the hints of others, until cancelled."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            hint = Hint(0)
            for _ in range(_MOST_AT_ONCE):
                try:
                    hint |= Hint(int.from_bytes(self._socket.recv(1)))
                except (OSError, ValueError):  # nothing more, or nothing that this version knows
                    break
            if hint:
                woken(hint)

        loop.add_reader(self._socket.fileno(), read)
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(self._socket.fileno())

    def send(self, hint: Hint, member: MemberId) -> bool:
        """Whether the process is on this machine. It may have been told already."""
        path = _path(self._folder, member)
        try:
            self._socket.sendto(bytes([hint.value]), str(path))
        except (BlockingIOError, InterruptedError):
            pass  # its queue is full: it has been told
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return False
        except OSError:
            return False
        return True

    def is_here(self, member: MemberId) -> bool:
        """Whether a process of that name has a socket on this machine, or has left one behind."""
        return _path(self._folder, member).exists()

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


@lru_cache(maxsize=256)
def _path(folder: Path, member: MemberId) -> Path:
    return folder / sha256(member.encode()).hexdigest()[:32]


def _private_folder() -> Path | None:
    """A folder that only this user may write to; None if somebody else made it first."""
    folder = Path(tempfile.gettempdir()) / f"cauce-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if ours else None


def _remove_abandoned(folder: Path) -> None:
    """Remove the sockets of processes that were killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        for path in folder.iterdir():
            try:
                asking.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:  # it has gone meanwhile, or is none of ours
                continue
