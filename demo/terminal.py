"""A story on a terminal: its steps as they happen, and at the end a table of what was expected and what was seen."""

import sys
from dataclasses import dataclass

__all__ = ["Terminal"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    expected: str
    seen: str
    ok: bool


class Terminal:
    """Prints; also the Report of the system that is being started."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()
        self._rows: list[Row] = []

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

    def row(self, expected: str, seen: str, ok: bool) -> None:
        """Add a line to the table."""
        self._rows.append(Row(expected, seen, ok))

    def table(self) -> bool:
        """Print the table; True if all of it was seen."""
        width = max(len(row.expected) for row in self._rows)
        self.heading("Expected and seen")
        for row in self._rows:
            mark = self._paint("32", "✓") if row.ok else self._paint("31", "✗")
            print(f"  {mark} {row.expected:<{width}}  {row.seen}", flush=True)
        return all(row.ok for row in self._rows)

    def ending(self, seen_all: bool) -> None:
        text = "All of it was seen. Everything is stopped." if seen_all else "Not all of it was seen; see ✗ above."
        print(f"\n{self._paint('32' if seen_all else '31', text)}", flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text
