"""What all embedded servers share: a folder, ports, a lock, a log, a process, waiting until it answers."""

import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cauce.dev.account import Account
from cauce.dev.errors import DevError, PortInUseError, ProcessDiedError
from cauce.dev.lock import FileLock
from cauce.dev.ports import choose_port, holder_of, is_free
from cauce.dev.private_folder import make_folder, restrict
from cauce.dev.process import Process, describe_exit
from cauce.dev.servers.kept import Kept

__all__ = ["EmbeddedServer", "last_lines"]

LOCK_WITHIN_S = 10.0
"""Longer than what a killed supervisor leaves behind takes to end by itself (two seconds)."""


class EmbeddedServer(ABC):
    """A real server on 127.0.0.1 whose data, ports and passwords live in `folder` and survive restarts.

    The first `start()` prefers the ports of the previous run and takes others when they are taken; a later
    `start()` of the same object insists on the same ports, since clients know them. All methods block for a
    short, bounded time, from any thread, one at a time. The server never outlives this process.
    """

    name: ClassVar[str]
    port_names: ClassVar[Sequence[str]]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_within_s: ClassVar[float] = 10.0

    host: ClassVar[str] = "127.0.0.1"

    def __init__(
        self, folder: Path, *, preferred_ports: Mapping[str, int] | None = None, start_within_s: float = 30.0
    ) -> None:
        """`preferred_ports` are wishes for the very first start, by port name."""
        self.folder = folder
        self._preferred_ports = dict(preferred_ports or {})
        self.kept = Kept(folder / "kept.json")
        self._start_within_s = start_within_s
        self._ports: dict[str, int] = {}
        self._process: Process | None = None
        self._lock = FileLock(folder / "lock")
        self._turn = threading.RLock()
        self._aborted = threading.Event()

    # What a server adds

    @abstractmethod
    def prepare(self) -> None:
        """Find the program and lay out the data folder; the ports are chosen. Called before every start."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program and its arguments; no secret among them, since the whole machine can see them."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether an authenticated client is served now; False while it is not, within two seconds."""

    def account(self) -> Account | None:
        """The account to run under; None for our own."""
        return None

    def working_folder(self) -> Path:
        return self.folder

    # What every server does

    @property
    def port(self) -> int:
        """The first of its ports. Known from the first start on."""
        return self.port_of(self.port_names[0])

    def port_of(self, name: str) -> int:
        if name not in self._ports:
            raise RuntimeError(f"{self.name} has no port yet: start it first.")
        return self._ports[name]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def log_file(self) -> Path:
        return self.folder / "server.log"

    def exit_code(self) -> int | None:
        """None while it runs, or when it was never started or has been stopped on purpose."""
        return self._process.exit_code() if self._process else None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.exit_code() is None

    def start(self) -> None:
        """Return once the server answers. Starting a running server does nothing.

        Raises DevError or one of its kinds; nothing runs then.
        """
        with self._turn:
            self._aborted.clear()
            if not self.running:
                self._start()

    def stop(self) -> None:
        """Stop cleanly, by force after `stop_within_s`; data are kept. Stopping twice does nothing more."""
        with self._turn:
            if self._process:
                self._process.signal(signal.SIGCONT)
                self._process.stop(grace_s=self.stop_within_s)
            self._discard()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL). Data are kept as far as the server had written them."""
        self.abort()
        with self._turn:
            self._discard()

    def abort(self) -> None:
        """Make a start that is under way in another thread fail soon, and kill what it has started."""
        self._aborted.set()
        process = self._process
        if process:
            process.signal(signal.SIGKILL)

    def _start(self) -> None:
        self._discard()
        make_folder(self.folder)
        restrict(self.folder)
        self._lock.acquire(
            f"The data of {self.name} in {self.folder} are in use by another server "
            "(started by pid {pid}). Stop that one first.",
            within_s=LOCK_WITHIN_S,
        )
        try:
            self.kept.load()
            ports_are_known = bool(self._ports)
            for attempts_left in (2, 1, 0):
                if ports_are_known:
                    self._require_free_ports()
                else:
                    self._choose_ports()
                try:
                    self._launch()
                    break
                except ProcessDiedError:
                    # Somebody was faster at a port we had chosen: choose again. Anything else is final.
                    if ports_are_known or not attempts_left or all(map(is_free, self._ports.values())):
                        raise
            self.kept.keep_ports(self._ports)
        except BaseException:
            self._discard()
            raise

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered, as behind a dead network."""
        if self._process:
            self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        if self._process:
            self._process.signal(signal.SIGCONT)

    def last_words(self, count: int = 8) -> str:
        """The last lines of the server's log."""
        return last_lines(self.log_file, count)

    def _choose_ports(self) -> None:
        for name in self.port_names:
            kept = self.kept.port(name)
            self._ports[name] = choose_port(kept if kept is not None else self._preferred_ports.get(name))

    def _require_free_ports(self) -> None:
        for port in self._ports.values():
            if not is_free(port):
                holder = holder_of(port)
                raise PortInUseError(
                    f"Port {port} of {self.name} is in use{f' by {holder}' if holder else ''}. Stop what listens there."
                )

    def _launch(self) -> None:
        self.prepare()
        if self.log_file.exists():
            os.replace(self.log_file, self.log_file.with_suffix(".log.previous"))
        output = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = Process(
                self.command(),
                environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                folder=self.working_folder(),
                output=output,
                account=self.account(),
                stop_signal=self.stop_signal,
                keep_open=[self._lock.descriptor],
                umask=0o077,
            )
        except OSError as error:
            raise DevError(f"{self.name} could not be executed: {error}.") from error
        finally:
            os.close(output)
        self._wait_until_it_answers(self._process)

    def _wait_until_it_answers(self, process: Process) -> None:
        deadline = time.monotonic() + self._start_within_s
        while not self.answers():
            if self._aborted.is_set():
                raise DevError(f"The start of {self.name} was given up.")
            code = process.exit_code()
            if code is not None:
                process.kill()
                raise ProcessDiedError(
                    f"{self.name} ended while starting ({describe_exit(code)}). Its last words:\n{self.last_words()}",
                    name=self.name,
                    exit_code=code,
                )
            if time.monotonic() > deadline:
                raise DevError(
                    f"{self.name} did not answer within {self._start_within_s:g} s. Its last words:\n"
                    f"{self.last_words()}\nThe whole log: {self.log_file}"
                )
            time.sleep(0.01)

    def _discard(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
        self._lock.release()


def last_lines(file: Path, count: int) -> str:
    """The last lines of a text file, indented; of a long file only the end is read."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 16_384))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines[-count:]) or "    (it said nothing)"
