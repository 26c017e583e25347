"""A service as a real process, with its ports and what it says: for the tests of hosting."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cauce.dev.ports import choose_port

__all__ = ["Hosted"]

FOLDER = Path(__file__).resolve().parent / "services"


class Hosted:
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
        self._out = folder / "out.txt"
        self._err = folder / "err.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(FOLDER / program), scenario, self.http[17:], self.health[17:]],
                stdout=out,
                stderr=err,
                env={"PATH": "", "PYTHONUNBUFFERED": "1", **(environment or {}), **variables},
            )

    @property
    def out(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def err(self) -> list[str]:
        return self._err.read_text().splitlines()

    def until(self, condition: Callable[[], bool], *, limit_s: float = 20) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {limit_s:g} s; it said:\n" + "\n".join(self.err)
            time.sleep(0.01)

    def ready(self) -> None:
        self.until(lambda: any("is ready" in line for line in self.err) or self.process.poll() is not None)

    def ended(self) -> int:
        return self.process.wait(20)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
