"""What `cauce dev` prints: progress, the services' lines with their names in front, a table of addresses."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TextIO

__all__ = ["Terminal", "send_to_nowhere"]

_COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95")
_RED, _GREEN, _DIM, _BOLD = "31", "32", "2", "1"


class Terminal:
    """Writes to a terminal in colours, to anything else without. One line is one write."""

    def __init__(
        self,
        names: Iterable[str],
        *,
        output: TextIO | None = None,
        environment: Mapping[str, str] = os.environ,
        broken: Callable[[], None] | None = None,
    ) -> None:
        """`names` are the services, for the width of the first column; `broken` is called when nobody reads."""
        self._output = output or sys.stdout
        self._colours = self._output.isatty() and not environment.get("NO_COLOR")
        names = list(names)
        self._width = max(map(len, [*names, "mail-sink"]))
        self._colour_of = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
        self._broken = broken

    def progress(self, name: str, text: str, *, done: bool) -> None:
        mark = self._paint("✓", _GREEN) if done else self._paint("…", _DIM)
        self.say(f"{mark} {self._name(name)}  {text}")

    def line(self, service: str, text: str) -> None:
        # A service's own escape sequences would colour, or worse, what others say.
        self.say(f"  {self._name(service)} {self._paint('│', _DIM)} {_printable(text)}")

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Name, address and remark, in aligned columns."""
        wide = max((len(address) for _, address, _ in rows), default=0)
        for name, address, remark in rows:
            self.say(f"    {self._name(name)}  {address:<{wide}}  {self._paint(remark, _DIM)}".rstrip())

    def heading(self, text: str) -> None:
        self.say(self._paint(text, _BOLD))

    def failure(self, text: str) -> None:
        """What went wrong, on standard error, its first line marked."""
        safe = "\n".join(map(_printable, text.split("\n")))
        self._write(sys.stderr, f"{self._paint('✗', _RED)} {safe}")

    def say(self, text: str) -> None:
        self._write(self._output, text)

    def _name(self, name: str) -> str:
        padded = f"{name:<{self._width}}"
        colour = self._colour_of.get(name)
        return self._paint(padded, colour) if colour else padded

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and text else text

    def _write(self, output: TextIO, text: str) -> None:
        try:
            output.write(f"{text}\n")
            output.flush()
        except UnicodeEncodeError:
            output.write(text.encode("ascii", errors="replace").decode() + "\n")
        except (OSError, ValueError):  # nobody reads any more: the pipe or the terminal is gone
            send_to_nowhere(output)
            broken, self._broken = self._broken, None
            if broken is not None:
                broken()


def send_to_nowhere(output: TextIO) -> None:
    """Let everything written to `output` vanish, so that a reader who has gone fails nothing any more."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), output.fileno())


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
