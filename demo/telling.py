"""How a story is told on a terminal: it is played on a fresh system, steps as they happen, a table at the end."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from cauce.dev.errors import DevError
from cauce.dev.system import DevSystem
from cauce.errors import ConfigurationError
from cauce.settings.project import Project

__all__ = ["Seen", "Telling", "tell"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of the table: what the article promises, and what was there."""

    expected: str
    seen: str
    ok: bool


class Telling:
    """Prints; also the Report of the system that is being started."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()

    def heading(self, text: str) -> None:
        print(f"\n{self._paint('1', text)}", flush=True)

    def step(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def quote(self, text: str) -> None:
        for line in text.splitlines():
            print(self._paint("2", f"    {line}"), flush=True)

    def progress(self, name: str, text: str, *, done: bool) -> None:
        if done:
            print(f"  {self._paint('32', '✓')} {name}: {text}", flush=True)

    def line(self, service: str, text: str) -> None:
        """A service's log line: the story quotes those that matter."""

    def trouble(self, text: str) -> None:
        print(self._paint("31", text), file=sys.stderr, flush=True)

    def table(self, rows: Sequence[Seen]) -> None:
        width = max(len(row.expected) for row in rows)
        self.heading("Expected and seen")
        for row in rows:
            mark = self._paint("32", "✓") if row.ok else self._paint("31", "✗")
            print(f"  {mark} {row.expected:<{width}}  {row.seen}", flush=True)

    def ending(self, seen_all: bool) -> None:
        text = "All of it was seen. Everything is stopped." if seen_all else "Not all of it was seen; see ✗ above."
        print(f"\n{self._paint('32' if seen_all else '31', text)}", flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def tell(
    play: Callable[[DevSystem, Telling], Coroutine[Any, Any, bool]],
    heading: str,
    project: Callable[[], Project],
    environment: Mapping[str, str],
) -> NoReturn:
    """Start the project, play the story, stop everything, and exit: 0 only if all of it was seen."""

    async def told() -> int:
        telling = Telling()
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        telling.heading(heading)
        try:
            async with DevSystem(project(), environment=environment, report=telling) as system:
                seen_all = await play(system, telling)
        except (DevError, ConfigurationError) as error:
            telling.trouble(str(error))
            return 1
        telling.ending(seen_all)
        return 0 if seen_all else 1

    try:
        sys.exit(asyncio.run(told()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
