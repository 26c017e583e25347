"""The broker of compose.yaml, run by its own command on a server of this machine: there need not be a Docker."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import redis
import yaml
from cauce.dev.ports import choose_port

from testsupport.repository import ROOT
from testsupport.waiting import eventually

__all__ = ["command_of_broker", "compose_broker", "container"]


def command_of_broker() -> list[str]:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return [word.replace("$$", "$") for word in compose["services"]["redis"]["command"]]


def container(folder: Path, program: Path) -> dict[str, str]:
    """An environment in which the container's commands are found; `program` is its server."""
    (folder / "valkey-server").symlink_to(program)
    (folder / "docker-entrypoint.sh").write_text('#!/bin/sh\nexec "$@"\n')
    (folder / "docker-entrypoint.sh").chmod(0o755)
    return {"PATH": f"{folder}:{os.defpath}"}


@contextmanager
def compose_broker(environment: dict[str, str], folder: Path) -> Generator[tuple[int, int]]:
    """Its port here and its process. `environment`: that of `container`, and the passwords."""
    port, command = choose_port(), command_of_broker()
    command[-1] = command[-1].replace("<<END", f"--port {port} --bind 127.0.0.1 <<END")
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: server.poll() is not None or _answers(port, environment["REDIS_PASS"]))
            assert server.poll() is None
            yield port, server.pid
        finally:
            server.kill()


def _answers(port: int, password: str) -> bool:
    try:
        with redis.Redis(port=port, password=password) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
