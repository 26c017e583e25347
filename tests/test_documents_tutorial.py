"""The tutorial is walked, and the README's two services are started with their one command.

Everything is real and as printed, only on ports of its own: the servers and services in terminals of their own, the
commands in one shell, Ctrl-C as a signal.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from cauce.dev.ports import choose_port
from testsupport.documents import Block, blocks, pattern_of, squeezed
from testsupport.repository import ROOT

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMIT_S = 60.0
BIN = Path(sys.executable).parent
PRINTED = {
    "ACCOUNTS_PORT": "3013",
    "MUSIC_DISCOVERY_PORT": "3015",
    "ACCOUNTS_HEALTH_PORT": "9013",
    "MAILING_HEALTH_PORT": "9014",
    "MUSIC_DISCOVERY_HEALTH_PORT": "9015",
}
"""The ports on the page, by the variables that choose others."""
MAILS = "8025"


class Terminal:
    """A command in the foreground of a terminal that nobody else uses."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}" if "\n" not in command else command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    @property
    def text(self) -> str:
        return "".join(list(self._lines))

    def shows(self, expected: str, *, within_s: float = LIMIT_S, here: Callable[[str], str] = str) -> None:
        """Wait until the line is there; `…` stands for anything. `here`: what the line is with the ports of now."""
        deadline = time.monotonic() + within_s
        while not any(re.search(pattern_of(here(expected)), squeezed(line)) for line in list(self._lines)):
            assert time.monotonic() < deadline, f"not shown: {expected}\n{self.text}"
            assert self._reader.is_alive() or time.monotonic() < deadline - within_s + 5, (
                f"ended without showing: {expected}\n{self.text}"
            )
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Ctrl-C: every process of the terminal gets it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)

    def ends(self, *, within_s: float = LIMIT_S) -> int:
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise AssertionError(f"did not end:\n{self.text}") from None
        finally:
            self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


class Shell:
    """One bash that keeps its variables from command to command."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\nprintf '\\n\\001\\n'\n")
        self._process.stdin.flush()
        said: list[str] = []
        for line in self._process.stdout:
            if line == "\x01\n":
                break
            said.append(line)
        return "".join(said).removesuffix("\n")

    def close(self) -> None:
        self._process.communicate(timeout=10)


class Reader:
    """Does what the page says, in a folder that looks like the repository."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / ".venv").symlink_to(BIN.parent, target_is_directory=True)
        clean = ("REDIS_", "SMTP_", "MAIL_", "ACCOUNTS_", "MAILING_", "MUSIC_", "EVENTS_", "STORE", "LOG_", "CAUCE_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(clean)}
        self._ports = {name: str(choose_port()) for name in PRINTED}
        self._environment = {
            **inherited,
            **self._ports,
            "PYTHONUNBUFFERED": "1",
        }
        self._terminals: dict[str, Terminal] = {}
        self._shell = Shell(folder, self._environment)

    def follow(self, page: Path) -> None:
        said = ""
        for block in blocks(page):
            match block:
                case Block(mark=("stop", name)):
                    self._terminals[name].interrupt()
                    assert self._terminals[name].ends() == 0
                case Block(mark=("terminal", name), text=command):
                    self._terminals[name] = Terminal(self._recipe(command), self._folder, self._environment)
                case Block(mark=("log", name), text=lines):
                    for line in lines.splitlines():
                        self._terminals[name].shows(line, here=self._here)
                case Block(language="python") if name := block.value("file"):
                    (self._folder / name).write_text(block.text)
                case Block(language="bash", text=command):
                    said = self._eventually(block, self._here(command), page)
                case Block(language="text", words=("output",), text=expected):
                    assert re.fullmatch(pattern_of(self._here(expected)), squeezed(said)), f"{block}: got\n{said}"
                case _:
                    pass

    def _eventually(self, block: Block, command: str, page: Path) -> str:
        """What a reader sees who looks again when an event needs a moment; only questions are asked twice."""
        said = self._shell.run(command)
        every = blocks(page)
        following = every[every.index(block) + 1] if block != every[-1] else None
        if following is None or "output" not in following.words or re.search(r"-X (POST|PUT|DELETE)", command):
            return said
        deadline = time.monotonic() + LIMIT_S / 4
        wanted = pattern_of(self._here(following.text))
        while not re.fullmatch(wanted, squeezed(said)) and time.monotonic() < deadline:
            time.sleep(0.05)
            said = self._shell.run(command)
        return said

    def _here(self, text: str) -> str:
        """The page's text with the ports of this test."""
        for name, printed in PRINTED.items():
            text = re.sub(rf"(?<=:){printed}\b", self._ports[name], text)
        state = self._folder / ".cauce" / "dev.env"
        if state.exists() and (mails := re.search(r"^CAUCE_MAILS_URL=.*:(\d+)$", state.read_text(), re.MULTILINE)):
            text = re.sub(rf"(?<=:){MAILS}\b", mails[1], text)
        return text

    def _recipe(self, command: str) -> str:
        """What make runs; make itself would look whether `.venv` is up to date."""
        words = shlex.split(command)
        if words[0] != "make":
            return command
        makefile = (ROOT / "Makefile").read_text()
        recipe = re.search(rf"^{words[1]}:.*\n\t@(.+)$", makefile, re.MULTILINE)
        assert recipe is not None, command
        return recipe[1].replace("$(BIN)", ".venv/bin").removeprefix("exec ")

    def leave(self) -> None:
        """Ctrl-C everywhere, the servers last."""
        try:
            for terminal in reversed(self._terminals.values()):
                terminal.interrupt()
                terminal.ends()
        finally:
            self._shell.close()


@contextmanager
def _reader(folder: Path) -> Generator[Reader]:
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.leave()


def test_the_tutorial_can_be_followed_to_its_end(tmp_path: Path) -> None:
    """The Spanish one has the same blocks: test_documents.py compares them."""
    with _reader(tmp_path) as reader:
        reader.follow(ROOT / "docs" / "tutorial" / "the-story.md")


def test_the_two_services_of_the_readme_start_with_one_command_and_hear_each_other(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "examples" / "two_services", tmp_path / "two_services")
    (http, health) = (str(choose_port()), str(choose_port()))
    for name in ("accounts.py", "pyproject.toml"):
        file = folder / name
        file.write_text(re.sub(r"\b8000\b", http, re.sub(r"\b9000\b", health, file.read_text())))
    readme = blocks(ROOT / "README.md")
    curl = next(block.text for block in readme if ":8000/" in block.text and block.language == "bash")
    shown = next(block.text for block in readme if "Welcome, ana" in block.text and block.language == "text")

    def sign_up() -> str:
        return subprocess.run(
            ["bash", "-c", "curl -s -w '%{http_code}' " + curl.replace(":8000", f":{http}").removeprefix("curl ")],
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
        ).stdout

    terminal = Terminal(f"{BIN}/cauce dev", folder, os.environ)
    try:
        terminal.shows("Ready after …")
        answer, repeated = sign_up(), sign_up()
        terminal.shows(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", shown))
    finally:
        terminal.interrupt()
        code = terminal.ends()

    assert answer.endswith("201")
    assert repeated.endswith("409")
    assert "Traceback" not in terminal.text
    assert code == 0
