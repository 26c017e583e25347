"""One service of the project: its process, what it says line by line, and whether it is ready."""

import asyncio
import http.client
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cauce.dev.errors import DevError, ProcessDiedError
from cauce.dev.process import Process, describe_exit
from cauce.settings.project import ServiceSpec, expand

__all__ = ["DevService"]

_LONGEST_LINE_BYTES = 64 * 1024
_KEPT_LINES = 5_000


class DevService:
    """A service in a process of its own. `lines` are the latest it said, both of its outputs together."""

    def __init__(
        self, spec: ServiceSpec, *, folder: Path, environment: Mapping[str, str], hear: Callable[[str], None]
    ) -> None:
        """`hear` is called with every line. Raises KeyError when a `${VARIABLE}` of the URLs is not set."""
        self.spec = spec
        self.name = spec.name
        self.ready_url = expand(spec.ready, environment) if spec.ready else None
        self.address = expand(spec.address, environment) if spec.address else None
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.said = 0
        """How many lines it has said so far: a mark to give to `line(since=…)`."""
        self._folder = folder
        self._environment = dict(environment)
        self._hear = hear
        self._process: Process | None = None
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.exit_code() is None

    def exit_code(self) -> int | None:
        """None while it runs, before its first start, and after a stop that was asked for."""
        return self._process.exit_code() if self._process else None

    def launch(self, tasks: asyncio.TaskGroup) -> None:
        """Start the process; a task of `tasks` reads what it says. Raises DevError if it is no program."""
        outlet, inlet = os.pipe()
        try:
            self._process = Process(self.spec.command, environment=self._environment, folder=self._folder, output=inlet)
        except OSError as error:
            os.close(outlet)
            raise DevError(
                f"{self.name} could not be started: {self.spec.command[0]!r}: {error.strerror}. "
                f"Its command is {' '.join(self.spec.command)!r}, run in {self._folder}."
            ) from error
        finally:
            os.close(inlet)
        self._reader = tasks.create_task(self._read(outlet), name=f"output of {self.name}")

    async def until_ready(self, *, within_s: float, waiting: Callable[[str], None]) -> None:
        """Return once the ready URL answers 200, at once without one; `waiting` hears every 5 s why not yet.

        Raises ProcessDiedError if the service ends before, DevError after `within_s`; the process is left
        as it is then.
        """
        started = told = time.monotonic()
        reason = "it does not listen yet"
        while self.ready_url:
            await self.must_run()
            ready, reason = await asyncio.to_thread(_ask, self.ready_url)
            if ready:
                return
            now = time.monotonic()
            if now - started > within_s:
                raise DevError(
                    f"{self.name} was not ready within {within_s:g} s: {reason}. Asked at {self.ready_url}. "
                    f"Its last lines:\n{self.last_words()}"
                )
            if now - told > 5:
                told = now
                waiting(reason)
            await asyncio.sleep(0.05)

    async def must_run(self) -> None:
        """Raise ProcessDiedError, with its last lines, if the process has ended."""
        code = self.exit_code()
        if code is not None:
            await self._read_to_the_end()
            raise ProcessDiedError(
                f"{self.name} ended unasked ({describe_exit(code)}); everything was stopped. "
                f"Its last lines:\n{self.last_words()}",
                name=self.name,
                exit_code=code,
            )

    async def line(self, wanted: str | Callable[[str], bool], *, within_s: float = 10.0, since: int = 0) -> str:
        """The first line that contains (or satisfies) `wanted`, heard already or still to come.

        `since` skips the lines before an earlier value of `said`. Raises TimeoutError, which tells what was
        said instead.
        """

        def matches(text: str) -> bool:
            return wanted(text) if callable(wanted) else wanted in text

        try:
            async with asyncio.timeout(within_s):
                while True:
                    self._news.clear()
                    first = self.said - len(self.lines)
                    for text in list(self.lines)[max(0, since - first) :]:
                        if matches(text):
                            return text
                    since = max(since, self.said)
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(
                f"{self.name} did not say {wanted!r} within {within_s:g} s. Its last lines:\n{self.last_words()}"
            ) from None

    async def stop(self, *, grace_s: float) -> bool:
        """Ask it to stop (SIGTERM), kill it after `grace_s`. True if asking was enough, or it did not run."""
        process = self._process
        if process is None:
            return True
        in_time = await asyncio.to_thread(process.stop, grace_s=grace_s)
        await self._forget()
        return in_time

    async def kill(self) -> None:
        """End it as a crash would (SIGKILL for its whole group)."""
        process = self._process
        if process is not None:
            await asyncio.to_thread(process.kill)
            await self._forget()

    def abort(self) -> None:
        """Kill without waiting; `stop` must still be called."""
        if self._process is not None:
            self._process.abort()

    def last_words(self, count: int = 12) -> str:
        return "\n".join(f"    {line}" for line in list(self.lines)[-count:]) or "    (it said nothing)"

    async def _forget(self) -> None:
        if self._reader is not None:
            await self._read_to_the_end()
            self._reader.cancel()
        self._process = None

    async def _read_to_the_end(self) -> None:
        """Wait for what a process that has ended had written; a process ends before its output is read."""
        if self._reader is not None:
            # A grandchild in a session of its own may hold the pipe open for as long as it likes.
            await asyncio.wait([self._reader], timeout=2)

    async def _read(self, outlet: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(outlet, "rb", buffering=0)
        )
        rest = b""
        try:
            while chunk := await reader.read(_LONGEST_LINE_BYTES):
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    self._say(line)
                if len(rest) > _LONGEST_LINE_BYTES:
                    self._say(rest)
                    rest = b""
        finally:
            if rest:
                self._say(rest)
            transport.close()

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self.lines.append(text)
        self.said += 1
        self._news.set()
        self._hear(text)


def _ask(url: str) -> tuple[bool, str]:
    """Whether the URL answers 200, and if not, why, in one line."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        body = " ".join(answer.read(2_000).decode(errors="replace").split())
    except ConnectionRefusedError:
        return False, "it does not listen yet"
    except (OSError, http.client.HTTPException) as error:
        return False, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return answer.status == 200, f"it answers {answer.status} {body[:200]}".strip()
