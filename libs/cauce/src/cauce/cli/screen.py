"""What the commands print: plain text of 80 columns, in colours only where a person looks."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cauce.telemetry.log_text import one_line

__all__ = [
    "Column",
    "bold",
    "complain",
    "dim",
    "green",
    "headed",
    "plural",
    "red",
    "say",
    "say_json",
    "table",
    "width",
    "wrapped",
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
    """One JSON document. `value`: what msgspec can write."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def complain(text: str) -> None:
    """On standard error, after what was printed so far."""
    sys.stdout.flush()
    print(_harmless(text), file=sys.stderr)


def width() -> int:
    """Of the terminal; 80 where there is none."""
    return max(40, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 80


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
        max([len(column.title), *(_visible(row[number]) for row in rows)]) for number, column in enumerate(columns)
    ]
    room = width() - indent - sum(widths[1:]) - 2 * (len(columns) - 1)
    fitting = [_visible(row[0]) for row in rows if _visible(row[0]) <= room]
    widths[0] = max([len(columns[0].title), *fitting])
    lines = [dim(_line([column.title for column in columns], columns, widths, indent))]
    for row in rows:
        if _visible(row[0]) > widths[0]:
            lines.append(f"{' ' * indent}{row[0]}")
            row = ["", *row[1:]]
        lines.append(_line(row, columns, widths, indent))
    return lines


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], indent: int) -> str:
    padded: list[str] = []
    for cell, column, wide in zip(cells, columns, widths, strict=True):
        gap = " " * (wide - _visible(cell))
        padded.append(gap + cell if column.align == "right" else cell + gap)
    return (" " * indent + "  ".join(padded)).rstrip()


def headed(rows: Iterable[tuple[str, str]], *, indent: int = 2) -> list[str]:
    """`label  text` lines; a long text is wrapped under itself, at spaces only."""
    rows = list(rows)
    wide = max((len(label) for label, _ in rows), default=0)
    lines: list[str] = []
    for label, text in rows:
        first, *rest = wrapped(text, width() - indent - wide - 2) or [""]
        lines.append(f"{' ' * indent}{dim(label.ljust(wide))}  {first}".rstrip())
        lines += [f"{' ' * (indent + wide + 2)}{line}" for line in rest]
    return lines


def wrapped(text: str, room: int) -> list[str]:
    """The text in lines of at most `room`, broken at spaces only; a longer word stays whole."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            candidate = f"{line} {word}" if line else word
            if line and _visible(candidate) > room:
                lines.append(line)
                line = word
            else:
                line = candidate
        lines.append(line)
    return lines


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


def _visible(text: str) -> int:
    return len(re.sub(r"\x1b\[\d+m", "", text))
