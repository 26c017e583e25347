"""What can go wrong while servers and services are started and kept.

CauceError
└── DevError                       fix the machine or the project; the message says how
    ├── ServerMissingError         no server program for this platform
    ├── PortInUseError             somebody else listens where we have to
    ├── AlreadyRunningError        another process uses the same data
    └── ProcessDiedError           a server or a service ended unasked
"""

from cauce.errors import CauceError

__all__ = ["AlreadyRunningError", "DevError", "PortInUseError", "ProcessDiedError", "ServerMissingError"]


class DevError(CauceError):
    """The servers or services cannot run like this. Whatever had been started is stopped again."""


class ServerMissingError(DevError):
    """There is no program for a server: no wheel for this platform and nothing on PATH."""


class PortInUseError(DevError):
    """A port that may not be another is taken. Nothing is listening there on our behalf."""


class AlreadyRunningError(DevError):
    """Another process holds the lock on the same data. It was left alone."""


class ProcessDiedError(DevError):
    """A server or a service ended although nobody asked it to. `exit_code` is negative for a signal."""

    def __init__(self, message: str, *, name: str, exit_code: int) -> None:
        self.name = name
        self.exit_code = exit_code
        super().__init__(message)
