"""A service that `cauce.hosting` runs, as a real process with its ports: for the tests of hosting."""

import sys
from collections.abc import Mapping
from pathlib import Path

from cauce.dev.ports import choose_port

from testsupport.said_process import SaidProcess
from testsupport.services import FOLDER

__all__ = ["Hosted"]


class Hosted(SaidProcess):
    """The process, its ports and its output so far."""

    def __init__(
        self,
        scenario: str,
        folder: Path,
        *,
        program: str = "hosted_service.py",
        http_port: int | None = None,
        environment: Mapping[str, str] | None = None,
        **variables: str,
    ) -> None:
        self.http = f"http://127.0.0.1:{http_port or choose_port()}"
        self.health = f"http://127.0.0.1:{choose_port()}"
        super().__init__(
            [sys.executable, str(FOLDER / program), scenario, self.http[17:], self.health[17:]],
            folder,
            environment={"PATH": "", **(environment or {}), **variables},
        )

    def ready(self) -> None:
        self.until(lambda: any("is ready" in line for line in self.err) or self.process.poll() is not None)
