"""The mail sink as a server: `cauce.dev.mail_sink` in a process of its own."""

import http.client
import json
import signal
import sys
from collections.abc import Sequence
from typing import ClassVar, cast

from cauce.dev.servers.embedded import EmbeddedServer

__all__ = ["MailSinkServer"]


class MailSinkServer(EmbeddedServer):
    """Takes every mail, delivers none, shows them over HTTP. They live in memory: a restart forgets them."""

    name: ClassVar[str] = "mail-sink"
    port_names: ClassVar[Sequence[str]] = ("smtp", "http")
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    @property
    def smtp_port(self) -> int:
        return self.port_of("smtp")

    @property
    def http_port(self) -> int:
        return self.port_of("http")

    @property
    def url(self) -> str:
        """The page that shows the mails; `/mails` under it is the same as JSON."""
        return f"http://{self.host}:{self.http_port}"

    def prepare(self) -> None:
        pass

    def command(self) -> Sequence[str]:
        program = [sys.executable, "-P", "-m", "cauce.dev.mail_sink"]
        return [*program, "--smtp-port", str(self.smtp_port), "--http-port", str(self.http_port)]

    def answers(self) -> bool:
        try:
            return self._ask("GET", "/health") == {"status": "ok", "pid": self.pid}  # ours, not a neighbour's
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def mails(self) -> list[dict[str, object]]:
        """What has arrived, oldest first: the JSON of `/mails` (see `cauce.dev.mail_sink`)."""
        return cast("list[dict[str, object]]", self._ask("GET", "/mails"))

    def clear(self) -> None:
        """Forget the mails received so far."""
        self._ask("DELETE", "/mails")

    def _ask(self, method: str, path: str) -> object:
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=5)
        try:
            connection.request(method, path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
