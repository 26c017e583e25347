"""A real Valkey."""

import hashlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from cauce.dev.errors import DevError
from cauce.dev.private_file import write_private
from cauce.dev.servers.embedded import EmbeddedServer
from cauce.dev.servers.programs import find_valkey
from cauce.settings.broker_rights import BrokerRights

__all__ = ["ValkeyServer"]

_CONFIGURATION = """\
bind {host}
port {port}
aclfile {users}
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


# Whoever looks after the system: `cauce`, and no service that has a user of its own.
_OPERATORS = "default"
_SELECTORS_SINCE = 7


class ValkeyServer(EmbeddedServer):
    """Valkey with passwords and an append-only file synced every second.

    `users`: by name, what they may do; each has a password of its own. The user without a name may do everything. Users
    that somebody makes by hand are gone with the next start.

    What it acknowledged survives a kill of the process; a power cut may cost the last second.
    """

    name: ClassVar[str] = "valkey"
    port_names: ClassVar[Sequence[str]] = ("redis",)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, BrokerRights] | None = None,
        environment: Mapping[str, str] = os.environ,
        start_within_s: float = 30.0,
    ) -> None:
        super().__init__(folder, start_within_s=start_within_s)
        self._users = dict(users or {})
        self._environment = environment

    @cached_property
    def _program(self) -> Path:
        return find_valkey(self._environment)

    @property
    def password(self) -> str:
        return self.kept.secret("password")

    @property
    def url(self) -> str:
        """`redis://…`, with the password. Known from the first start on."""
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    def url_of(self, user: str) -> str:
        """The same for one of `users`. Raises KeyError for another."""
        if user not in self._users:
            raise KeyError(user)
        return f"redis://{user}:{self._password_of(user)}@{self.host}:{self.port}/0"

    def _password_of(self, user: str) -> str:
        return self.kept.secret(f"user {user}")

    @cached_property
    def version(self) -> str:
        said = subprocess.run(  # noqa: S603
            [self._program, "--version"], capture_output=True, text=True, check=False, timeout=10
        )
        found = re.search(r"v=([\d.]+)", said.stdout)
        return found[1] if found else ""

    def prepare(self) -> None:
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        users = self.folder / "users.acl"
        write_private(users, "".join(f"{line}\n" for line in self._lines_of_users()))
        write_private(
            self.folder / "valkey.conf",
            _CONFIGURATION.format(host=self.host, port=self.port, users=_quoted(users), folder=_quoted(data)),
        )

    def _lines_of_users(self) -> Iterator[str]:
        yield f"user {_OPERATORS} on {_hashed(self.password)} ~* &* +@all"
        selectors = int(self.version.partition(".")[0] or _SELECTORS_SINCE) >= _SELECTORS_SINCE
        for user, rights in self._users.items():
            words = rights.words(selectors=selectors)
            yield f"user {user} on {_hashed(self._password_of(user))} resetchannels {' '.join(words)}"

    def command(self) -> Sequence[str]:
        return [str(self._program), str(self.folder / "valkey.conf")]

    def answers(self) -> bool:
        return self._tell("PING") == b"+OK\r\n+PONG\r\n"

    def flush(self) -> None:
        """Remove all keys of all databases (for the next test). Subscriptions are no keys: they stay."""
        if self._tell("FLUSHALL") != b"+OK\r\n+OK\r\n":
            raise DevError(f"{self.name} at {self.address} did not flush.")

    def _tell(self, command: str) -> bytes:
        """The answers to AUTH and `command`, both one line; empty when the connection failed."""
        greeting = f"AUTH {self.password}\r\n{command}\r\n".encode()
        answer = b""
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.sendall(greeting)
                while answer.count(b"\r\n") < 2:
                    part = connection.recv(256)
                    if not part:
                        break
                    answer += part
        except OSError:
            return b""
        return answer


def _hashed(password: str) -> str:
    """The word that gives a user this password, without it."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
