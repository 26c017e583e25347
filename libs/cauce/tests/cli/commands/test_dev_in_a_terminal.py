"""`cauce dev` as a person meets it: a process with a terminal, signals, and exit codes."""

import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cauce.dev.ports import choose_port
from testsupport.services import FOLDER

SERVICE = FOLDER / "dev_service.py"
LIMIT_S = 30.0


class Run:
    """One `cauce dev`, its output read as it comes."""

    def __init__(self, folder: Path, options: Sequence[str], *, terminal: bool, **more: str) -> None:
        command = [sys.executable, "-c", "import sys; from cauce.cli import main; sys.exit(main())", "dev", *options]
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm", **more}
        self.said = ""
        self._read_end, write_end = pty.openpty() if terminal else os.pipe()
        os.set_blocking(self._read_end, False)
        with tempfile.TemporaryFile() as errors:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=write_end, stderr=errors
            )
            self._errors = os.dup(errors.fileno())
        os.close(write_end)

    def until(self, text: str, *, count: int = 1) -> None:
        """Read until the output holds `text` (so many times), or fail with what it holds instead."""
        self._until(lambda: self.said.count(text) >= count, f"{text!r} in the output")

    def ended(self) -> int:
        """The exit code, once it has ended; all of its output has been read then."""
        self._until(lambda: self.process.poll() is not None, "the end")
        self._read()
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop_reading(self) -> None:
        os.close(self._read_end)
        self._read_end = -1

    @property
    def errors(self) -> str:
        return os.pread(self._errors, 100_000, 0).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._errors)
        if self._read_end >= 0:
            os.close(self._read_end)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            self._read()
            if time.monotonic() > deadline:
                pytest.fail(f"no {what} within {LIMIT_S:g} s. Output:\n{self.said}\nErrors:\n{self.errors}")
            time.sleep(0.01)

    def _read(self) -> None:
        while self._read_end >= 0:
            try:
                part = os.read(self._read_end, 65_536)
            except (BlockingIOError, OSError):  # nothing yet; a terminal whose other end is gone says EIO
                return
            if not part:
                return
            self.said += part.decode(errors="replace")


@pytest.fixture
def folder(nothing_left: None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cauce-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


Start = Callable[..., Run]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts `cauce dev` for a project of two services."""
    runs: list[Run] = []

    def go(*options: str, servers: str = '["valkey"]', terminal: bool = False, more: str = "", **variables: str) -> Run:
        one, another = choose_port(), choose_port()
        (folder / "pyproject.toml").write_text(f"""\
[project]
name = "shop"
[tool.cauce.dev]
servers = {servers}
grace_s = 20
[tool.cauce.dev.services.one]
command = "python -S {SERVICE} {one}"
ready = "http://127.0.0.1:{one}/ready"
address = "http://127.0.0.1:${{ONE_PORT:-{one}}}"
[tool.cauce.dev.services.another]
command = "python -S {SERVICE} {another}"
ready = "http://127.0.0.1:{another}/ready"
{more}
""")
        run = Run(folder, options, terminal=terminal, **variables)
        runs.append(run)
        return run

    yield go
    for run in runs:
        run.close()


def test_lines_carry_their_service_and_a_table_ends_the_start(start: Start, folder: Path) -> None:
    run = start()
    run.until("data are kept.")
    lines = run.said.splitlines()
    assert any(line.startswith("  one       │ listening on ") for line in lines)
    assert "  another   │ to standard error" in lines
    assert any(line.startswith("✓ valkey     Valkey 9") for line in lines)
    assert any(line.startswith("✓ one        ready (") for line in lines)
    table = lines[-4:-1]
    assert table[0].startswith("    one        http://127.0.0.1:")
    assert "health http://127.0.0.1:" in table[1]
    assert table[2].startswith("    valkey     127.0.0.1:")
    assert table[2].endswith("passwords in .cauce/dev.env")
    assert lines[-1].startswith("Ready after ")
    assert "\x1b" not in run.said
    assert "\\x1b[31mred" in run.said, "a service's escape sequences are shown, not obeyed"

    run.signal(signal.SIGINT)
    assert run.ended() == 0
    ending = run.said.splitlines()[len(lines) :]
    assert ending[0] == "Stopping (Ctrl-C again kills)"
    assert sorted(ending[1:-1]) == sorted(
        f"  {name:9} │ {word}" for name in ("one", "another") for word in ("draining", "drained")
    )
    assert ending[-1] == "Stopped."
    assert run.errors == ""
    assert not (folder / ".cauce" / "dev.env").exists()


def test_a_terminal_gets_colours_unless_it_wants_none(start: Start) -> None:
    run = start(terminal=True)
    run.until("data are kept.")
    assert "\x1b[36mone" in run.said
    run.signal(signal.SIGINT)
    assert run.ended() == 0

    run = start(terminal=True, NO_COLOR="1")
    run.until("data are kept.")
    assert "\x1b" not in run.said
    run.signal(signal.SIGTERM)
    assert run.ended() == 0


def test_a_second_interrupt_kills_at_once(start: Start, family: Callable[[int], Callable[[], list[str]]]) -> None:
    run = start(STUBBORN="1")
    run.until("data are kept.")
    remaining = family(run.process.pid)
    run.signal(signal.SIGINT)
    run.until("draining", count=2)  # and would go on for 20 s
    run.signal(signal.SIGINT)
    assert run.ended() == 0
    assert "Killing" in run.said
    assert remaining() == []


def test_an_interrupt_while_starting_stops_what_was_started(start: Start) -> None:
    run = start(NEVER_READY="1")
    run.until("listening on")
    run.signal(signal.SIGINT)
    assert run.ended() == 0
    assert run.said.endswith("Stopped.\n")


def test_nothing_survives_a_killed_cauce_dev(start: Start, family: Callable[[int], Callable[[], list[str]]]) -> None:
    run = start(servers='["valkey", "postgres", "mail-sink"]', CHILD="1")
    run.until("data are kept.")
    remaining = family(run.process.pid)
    run.signal(signal.SIGKILL)
    run.ended()
    assert remaining() == []

    run = start(servers='["valkey", "postgres", "mail-sink"]')
    run.until("data are kept.")
    run.signal(signal.SIGTERM)
    assert run.ended() == 0


def test_nobody_reading_is_a_reason_to_stop(start: Start, family: Callable[[int], Callable[[], list[str]]]) -> None:
    run = start()
    run.until("data are kept.")
    remaining = family(run.process.pid)
    run.stop_reading()
    run.signal(signal.SIGHUP)
    assert run.ended() == 0
    assert remaining() == []


def test_a_service_that_ends_is_one_message_and_exit_code_1(start: Start) -> None:
    run = start(more="[tool.cauce.dev.services.short]\ncommand = \"python -c 'raise SystemExit(7)'\"\n")
    assert run.ended() == 1
    assert run.errors == (
        "✗ short ended unasked (exit code 7); everything was stopped. Its last lines:\n    (it said nothing)\n"
    )


def test_a_port_in_use_is_one_line_and_exit_code_1(start: Start, folder: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = start(ONE_PORT=str(port))
        assert run.ended() == 1
    assert run.said == ""
    (line,) = run.errors.splitlines()
    assert line.startswith(f"✗ Port {port} is in use")
    assert "and one needs it. Stop what listens there, or give one another port: ONE_PORT=" in line
    assert not (folder / ".cauce" / "data").exists()


def test_a_second_cauce_dev_beside_a_running_one_is_one_line(start: Start, folder: Path) -> None:
    first = start()
    first.until("data are kept.")
    second = start()
    assert second.ended() == 1
    assert second.errors == (
        f"✗ cauce dev is running for {folder} already (pid {first.process.pid}). "
        "Use that one, or stop it first (Ctrl-C in its terminal).\n"
    )
    first.signal(signal.SIGINT)
    assert first.ended() == 0


def test_a_misspelt_project_is_exit_code_2_and_starts_nothing(start: Start, folder: Path) -> None:
    run = start(servers='["valky"]')
    assert run.ended() == 2
    assert run.errors == (
        "1 problem in pyproject.toml:\n"
        "  · pyproject.toml:4: unknown server 'valky'. Valid: valkey, postgres, mail-sink. Did you mean 'valkey'?\n"
    )
    assert not (folder / ".cauce").exists()


def test_a_misspelt_store_is_exit_code_2(start: Start) -> None:
    run = start(STORE="sqlit")
    assert run.ended() == 2
    assert "STORE=sqlit: not one of postgres, sqlite. Did you mean 'sqlite'?" in run.errors


def test_only_servers_starts_no_service(start: Start) -> None:
    run = start("--only-servers")
    run.until("data are kept.")
    assert "│" not in run.said
    run.signal(signal.SIGINT)
    assert run.ended() == 0


def test_a_server_named_by_hand_is_said_to_be(start: Start) -> None:
    run = start(REDIS_HOST="127.0.0.1")
    run.until("data are kept.")
    assert "✓ valkey     not started here: named by REDIS_HOST" in run.said
    run.signal(signal.SIGINT)
    assert run.ended() == 0
