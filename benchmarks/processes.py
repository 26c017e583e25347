"""A process of its own for one side of a benchmark: the same script with other arguments, a line for each report."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping

__all__ = ["Child"]


class Child:
    """The running script `script`, which reports on stdout and is told on stdin."""

    def __init__(self, script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    async def report(self, word: str) -> list[str]:
        """The rest of the first line that begins with `word`. RuntimeError if the process ends without one."""
        assert self._process.stdout is not None
        while line := await asyncio.to_thread(self._process.stdout.readline):
            if line.startswith(word):
                return line.split()[1:]
        raise RuntimeError(f"a process of the benchmark ended with {self._process.wait()} instead of {word!r}")

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def end(self) -> None:
        """Wait for its end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(30)
