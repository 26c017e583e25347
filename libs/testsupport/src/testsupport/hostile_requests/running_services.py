"""`python -m accounts` and `python -m music_discovery`, each with a log in a file."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cauce.dev.ports import choose_port

from testsupport.waiting import eventually

__all__ = ["RunningService", "running_service"]


@dataclass(frozen=True)
class RunningService:
    name: str
    port: int
    health_port: int
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def lines(self) -> set[str]:
        """What the log says, without times and ids: each thing once."""
        return {_TIMES_AND_IDS.sub("…", line) for line in self.log.splitlines()}

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return httpx.get(f"http://127.0.0.1:{self.health_port}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """End it in good order; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


_TIMES_AND_IDS = re.compile(r"^\d\d:\d\d:\d\d|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@contextmanager
def running_service(
    name: str, folder: Path, *, database_url: str, redis_url: str, **more: str
) -> Generator[RunningService]:
    """A service of CloneSpotify as a process of its own, ready; `name` as in `cauce dev`."""
    prefix, port, health_port = name.upper().replace("-", "_"), choose_port(), choose_port()
    environment = {
        **{variable: value for variable, value in os.environ.items() if variable in ("PATH", "HOME", "LANG")},
        "CAUCE_ENV_FILE": "",
        "REDIS_URL": redis_url,
        f"{prefix}_DATABASE_URL": database_url,
        f"{prefix}_PORT": str(port),
        f"{prefix}_HEALTH_PORT": str(health_port),
        **more,
    }
    log_file = folder / f"{name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", name.replace("-", "_")], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        service = RunningService(name, port, health_port, process, log_file)
        eventually(service.is_ready, what=f"{name} is ready")
        eventually(lambda: "serves http" in service.log, what=f"{name} serves")
        yield service
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
