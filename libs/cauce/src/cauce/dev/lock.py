"""A lock that a process holds until it ends, however it ends."""

import fcntl
import os
import time
from pathlib import Path

from cauce.dev.errors import AlreadyRunningError

__all__ = ["FileLock"]


class FileLock:
    """An advisory lock on a file. A child that inherits `descriptor` shares it until its own end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    @property
    def descriptor(self) -> int:
        if self._descriptor is None:
            raise RuntimeError(f"The lock {self._path} is not held.")
        return self._descriptor

    def acquire(self, refusal: str, *, within_s: float = 0.0) -> None:
        """Take the lock and write our process id into the file.

        Raises AlreadyRunningError with `refusal` (`{pid}` is who wrote into the file) after `within_s`.
        """
        if self._descriptor is not None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + within_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                pid = os.read(descriptor, 20).decode(errors="replace").strip()
                os.close(descriptor)
                raise AlreadyRunningError(refusal.replace("{pid}", pid or "unknown")) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of our hold; a child that shares the lock keeps it. Releasing twice is harmless."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
