"""What a reader types: the demo, and the article's four commands in four terminals."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from testsupport.documents import blocks, pattern_of, shown, squeezed
from testsupport.repository import ROOT
from testsupport.waiting import eventually
from testsupport.whole_system import CLEAN, free_ports

ARTICLES_CURL = {
    "id": "12345678-1234-1234-1234-123456789abc",
    "username": "john_doe",
    "password": "password123",
    "email": "john.doe@example.com",
}


@pytest.fixture
def environment() -> dict[str, str]:
    """A shell as a reader has it, but for ports that nobody else uses."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(CLEAN)}
    return given | free_ports() | {"PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("store", ["postgres", "sqlite"])
def test_the_demo_sees_all_it_expects_and_leaves_no_process(environment: dict[str, str], store: str) -> None:
    code, output = _play("demo", environment | {"STORE": store}, processes=5)

    assert code == 0, output
    assert output.count("✓") >= 11
    assert "✗" not in output


def test_the_broker_is_killed_and_comes_back_empty_and_the_demo_ends_as_the_readme_says(
    environment: dict[str, str],
) -> None:
    code, output = _play("demo.crash", environment, processes=4)

    assert code == 0, output
    for page in (ROOT / "README.md", ROOT / "README.es.md"):
        (table,) = [block for block in blocks(page) if "no service was restarted" in block.text]
        assert re.search(pattern_of(table.text), squeezed(output)), f"{shown(page)} has another table than\n{output}"


def _play(module: str, environment: dict[str, str], *, processes: int) -> tuple[int, str]:
    """Run it as a reader would, and see every process that it started end; its exit code and what it printed."""
    demo = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children: set[psutil.Process] = set()
    lines: list[str] = []
    with demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            lines.append(line)
            children.update(psutil.Process(demo.pid).children(recursive=True) if demo.poll() is None else [])
    assert len(children) >= processes
    eventually(lambda: not [child for child in children if _runs(child)], what="the demo's processes to end")
    return demo.returncode, "".join(lines)


def test_the_articles_four_commands_in_four_terminals(environment: dict[str, str], terminals: "Terminals") -> None:
    infra = terminals.open("infra", [str(Path(sys.executable).with_name("cauce")), "dev", "--only-servers"])
    eventually(lambda: "Ready" in infra.said(), within_s=60)
    for service in ("accounts", "mailing", "music_discovery"):
        terminals.open(service, [sys.executable, "-m", service])
    for port in ("ACCOUNTS_HEALTH_PORT", "MAILING_HEALTH_PORT", "MUSIC_DISCOVERY_HEALTH_PORT"):
        eventually(lambda port=port: _answers(f"http://127.0.0.1:{environment[port]}/health/ready"), within_s=30)

    answer = httpx.post(f"http://127.0.0.1:{environment['ACCOUNTS_PORT']}/users", json=ARTICLES_CURL)

    assert answer.status_code == 201
    for service in ("accounts", "mailing", "music_discovery"):
        eventually(lambda service=service: "user-created" in terminals[service].said())
    for service in ("accounts", "mailing", "music_discovery", "infra"):
        assert terminals[service].close() == 0, terminals[service].said()


class Terminal:
    """A command running as in a terminal, its output in a file."""

    def __init__(self, command: list[str], folder: Path, name: str, environment: dict[str, str]) -> None:
        self._file = folder / f"{name}.log"
        with self._file.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)

    def said(self) -> str:
        return self._file.read_text(errors="replace")

    def close(self) -> int:
        """Ctrl-C, as a reader would."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


class Terminals(dict[str, Terminal]):
    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        super().__init__()
        self._folder = folder
        self._environment = environment

    def open(self, name: str, command: list[str]) -> Terminal:
        self[name] = Terminal(command, self._folder, name, self._environment)
        return self[name]


@pytest.fixture
def terminals(tmp_path: Path, environment: dict[str, str]) -> Iterator[Terminals]:
    """Four terminals in a folder with this project's settings and no data yet."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    opened = Terminals(tmp_path, environment)
    yield opened
    for terminal in reversed(opened.values()):
        if terminal.process.poll() is None:
            terminal.process.terminate()
            terminal.process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
