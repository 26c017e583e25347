"""What the commands print: plain text of 80 columns, in colours only where a person looks."""

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from cauce.cli.flowing import command_lines, flowing, visible
from cauce.telemetry.log_text import one_line

__all__ = [
    "Column",
    "bold",
    "commands",
    "complain",
    "dim",
    "green",
    "headed",
    "json_line",
    "lines_of",
    "plural",
    "red",
    "say",
    "say_json",
    "table",
    "width",
    "yellow",
]

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    align: Align = "left"


def say(text: str = "", *, at_once: bool = False) -> None:
    """Print it. Control characters from elsewhere are spelled out: an event cannot repaint the terminal."""
    print(_harmless(text), flush=at_once)


def say_json(value: Any) -> None:
    """One JSON document, in ASCII whatever it holds. `value`: what msgspec can write."""
    import msgspec

    print(json.dumps(_writable(msgspec.to_builtins(value, str_keys=True)), indent=2))


def json_line(value: dict[str, Any]) -> str:
    """A JSON object in one line of ASCII: whatever an event holds, each line can be read by itself."""
    return json.dumps(_writable(value))


def _writable(value: Any) -> Any:
    """With null for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _writable(inner) for name, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_writable(inner) for inner in cast("Sequence[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def complain(text: str) -> None:
    """On standard error, after what was printed so far; for a person in lines of the terminal."""
    sys.stdout.flush()
    if sys.stderr.isatty():
        wide = _columns()
        text = "\n".join(line for one in text.split("\n") for line in _within(one, wide))
    print(_harmless(text), file=sys.stderr)


def _within(line: str, wide: int) -> list[str]:
    """The line, or several that begin where it does."""
    begins = len(line) - len(line.lstrip(" ·"))
    return [line] if visible(line) <= wide else flowing(line[begins:], wide=wide, indent=begins, first=line[:begins])


def width() -> int:
    """Of the terminal; 80 where there is none."""
    return _columns() if sys.stdout.isatty() else 80


def _columns() -> int:
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def red(text: str) -> str:
    return _painted(text, "31")


def yellow(text: str) -> str:
    return _painted(text, "33")


def green(text: str) -> str:
    return _painted(text, "32")


def bold(text: str) -> str:
    return _painted(text, "1")


def dim(text: str) -> str:
    return _painted(text, "2")


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, indent: int = 2) -> list[str]:
    """Lines of a table. Where the first cell would make a line too long it gets a line of its own: nothing is cut."""
    rows = [list(row) for row in rows]
    widths = [
        max([len(column.title), *(visible(row[number]) for row in rows)]) for number, column in enumerate(columns)
    ]
    room = width() - indent - sum(widths[1:]) - 2 * (len(columns) - 1)
    fitting = [visible(row[0]) for row in rows if visible(row[0]) <= room]
    widths[0] = max([len(columns[0].title), *fitting])
    lines = [dim(_line([column.title for column in columns], columns, widths, indent))]
    for row in rows:
        if visible(row[0]) > widths[0]:
            lines.append(f"{' ' * indent}{row[0]}")
            row = ["", *row[1:]]
        lines.append(_line(row, columns, widths, indent))
    return lines


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], indent: int) -> str:
    padded: list[str] = []
    for cell, column, wide in zip(cells, columns, widths, strict=True):
        gap = " " * (wide - visible(cell))
        padded.append(gap + cell if column.align == "right" else cell + gap)
    return (" " * indent + "  ".join(padded)).rstrip()


def headed(rows: Iterable[tuple[str, str]], *, indent: int = 2) -> list[str]:
    """`label  text` lines; a long text is wrapped under itself."""
    rows = list(rows)
    wide = max((len(label) for label, _ in rows), default=0)
    lines: list[str] = []
    for label, text in rows:
        lines += lines_of(text, indent=indent + wide + 2, first=f"{' ' * indent}{dim(label.ljust(wide))}  ")
    return lines


def lines_of(text: str, *, indent: int = 0, first: str | None = None) -> list[str]:
    """The text in lines of the screen under `indent`, after `first` in the first; see `cauce.cli.flowing`."""
    return flowing(text, wide=width(), indent=indent, first=first)


def commands(*texts: str, indent: int = 2) -> list[str]:
    """The lines of commands to copy, each beginning on a line of its own."""
    return [line for text in texts for line in command_lines(text, wide=width(), indent=indent)]


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _harmless(text: str) -> str:
    parts = _OWN_COLOURS.split(text)
    # Every other part is one of our own colours.
    return "".join(
        part if number % 2 else "\n".join(one_line(line) for line in part.split("\n"))
        for number, part in enumerate(parts)
    )


_OWN_COLOURS = re.compile("(\x1b\\[(?:0|1|2|31|32|33)m)")
