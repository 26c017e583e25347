"""`cauce dev` in a terminal: start, show, stay, and stop on a signal."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cauce.dev.errors import DevError
from cauce.dev.system import DevSystem
from cauce.dev.terminal import Terminal
from cauce.errors import ConfigurationError
from cauce.settings.project import Project

__all__ = ["run_in_foreground"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_in_foreground(folder: Path, *, only_servers: bool) -> int:
    """Run the project around `folder` until a signal, and return the exit code. Nothing is left running."""
    if sys.platform == "win32":
        print("cauce dev runs on Linux and macOS. On Windows use WSL.", file=sys.stderr)
        return 2
    try:
        project = Project.find(folder)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    stop = _Stop()
    terminal = Terminal([] if only_servers else project.services, broken=stop.ask)
    system = DevSystem(project, only_servers=only_servers, report=terminal)
    stop.install(on_second=lambda: _kill(system, terminal))
    try:
        return await _run(system, terminal, stop)
    except ConfigurationError as error:
        terminal.failure(str(error))
        return 2
    except DevError as error:
        terminal.failure(str(error))
        return 1
    finally:
        stop.uninstall()


async def _run(system: DevSystem, terminal: Terminal, stop: "_Stop") -> int:
    started = time.monotonic()
    with suppress(asyncio.CancelledError):
        # The signal cancels this task wherever it is, so that a start can be interrupted as well.
        async with system:
            for name, variable in system.elsewhere.items():
                terminal.progress(name, f"not started here: named by {variable}", done=True)
            _show_addresses(system, terminal)
            terminal.heading(f"Ready after {time.monotonic() - started:.1f} s. Ctrl-C stops; data are kept.")
            stop.then(lambda: terminal.heading("Stopping (Ctrl-C again kills)"))
            await asyncio.Event().wait()
    terminal.heading("Stopped.")
    return 0


def _show_addresses(system: DevSystem, terminal: Terminal) -> None:
    rows: list[tuple[str, str, str]] = []
    for name, service in system.services.items():
        rows.append((name, service.address or "", f"health {service.ready_url}" if service.ready_url else ""))
    state = f"{system.project.folder.name}/dev.env"
    for name, server in system.servers.items():
        remark = "SMTP " + server.address if name == "mail-sink" else f"passwords in {state}"
        rows.append((name, system.addresses[name], remark))
    files = [value for value in system.variables.values() if value.startswith("sqlite")]
    if files:
        rows.append(("sqlite", f"{len(files)} files", f"in {system.project.folder.name}/data/sqlite"))
    terminal.table(rows)


def _kill(system: DevSystem, terminal: Terminal) -> None:
    terminal.heading("Killing")
    system.abort()


class _Stop:
    """Turns the first signal into a cancellation of this task, and the second into something harder."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._asked = False
        self._announce: Callable[[], None] = lambda: None
        self._on_second: Callable[[], None] = lambda: None

    def install(self, *, on_second: Callable[[], None]) -> None:
        self._on_second = on_second
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._hear, number)

    def uninstall(self) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    def then(self, announce: Callable[[], None]) -> None:
        """Do this too when the first signal comes."""
        self._announce = announce

    def _hear(self, number: signal.Signals) -> None:
        if not self._asked:
            self.ask()
        elif number != signal.SIGHUP:  # a closing terminal sends it more than once, and means the same
            self._on_second()

    def ask(self) -> None:
        """Stop cleanly; asking again changes nothing."""
        if self._asked:
            return
        self._asked = True
        self._announce()
        if self._task is not None:
            self._task.cancel()
