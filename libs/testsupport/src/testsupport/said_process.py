"""A program as a real process, and what it has said: for tests that read its output as a person does."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["SaidProcess"]


class SaidProcess:
    """The process and its output so far, of which `folder` has the files."""

    def __init__(
        self, command: Sequence[str], folder: Path, *, environment: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                command, cwd=cwd, stdout=out, stderr=err, env={"PYTHONUNBUFFERED": "1", **environment}
            )

    @property
    def out(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def err(self) -> list[str]:
        return self._err.read_text().splitlines()

    def until(self, condition: Callable[[], bool], *, limit_s: float = 20) -> None:
        """Wait until it is true; fail with what was said after `limit_s`, which is the end of patience."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {limit_s:g} s; it said:\n" + "\n".join(self.err)
            time.sleep(0.01)

    def ended(self) -> int:
        return self.process.wait(20)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
