"""A real Valkey."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from cauce.dev.errors import DevError
from cauce.dev.private_file import write_private
from cauce.dev.servers.embedded import EmbeddedServer
from cauce.dev.servers.programs import find_valkey

__all__ = ["ValkeyServer"]

_CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class ValkeyServer(EmbeddedServer):
    """Valkey with a password and an append-only file synced every second.

    What it acknowledged survives a kill of the process; a power cut may cost the last second.
    """

    name: ClassVar[str] = "valkey"
    port_names: ClassVar[Sequence[str]] = ("redis",)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str] = os.environ, start_within_s: float = 30.0
    ) -> None:
        super().__init__(folder, start_within_s=start_within_s)
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
        write_private(
            self.folder / "valkey.conf",
            _CONFIGURATION.format(
                host=self.host,
                port=self.port,
                password=self.password,
                folder=_quoted(data),
            ),
        )

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


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
