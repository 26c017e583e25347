"""The documents as tests see them: files, fenced blocks, the marks that say what becomes of a block.

The first word after a fence is its language. Further words, invisible on the page, say what the tests do with it:

    python                 run; all such blocks of a page are one program, in order
    python from=PATH       a verbatim part of that file, which has tests of its own
    python file=NAME       saved under that name by whoever plays the page
    python pytest          a test file; run by pytest
    typescript nest=NAME   run by a real NestJS, in tests/nest
    text output            what the block before prints; `…` stands for anything, white space does not count

In a tutorial, comments before a block say where it belongs: `<!-- terminal: NAME -->` starts it in a terminal of its
own, `<!-- log: NAME -->` waits for its lines there, `<!-- stop: NAME -->` is Ctrl-C.

Between `<!-- from the code: NAME -->` and `<!-- end -->` stands what the code says: see `check_part`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testsupport.repository import ROOT

__all__ = ["Block", "blocks", "check_part", "documents", "pattern_of", "shown", "squeezed", "table"]

_FENCE = re.compile(r"^(?P<fence>```+)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=fence)$", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"<!-- (terminal|log|stop): (\S+) -->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block, or a mark without one (then `language` is empty)."""

    path: Path
    line: int
    """Of the first line of the text, as an editor counts."""
    language: str
    words: tuple[str, ...]
    text: str
    mark: tuple[str, str] | None = None

    def value(self, word: str) -> str | None:
        """`from=x` asked for `from` is `x`."""
        return next((one.partition("=")[2] for one in self.words if one.startswith(f"{word}=")), None)

    def __str__(self) -> str:
        return f"{shown(self.path)}:{self.line}"


def documents() -> list[Path]:
    """Every Markdown file a reader may open."""
    folders = ("docs", "libs", "apps", "benchmarks", "examples")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path for path in found if not {"node_modules", ".venv", ".cauce"} & set(path.parts))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """The fenced blocks and marks of a page, in order."""
    return list(_blocks(path, path.read_text(encoding="utf-8")))


def _blocks(path: Path, text: str) -> Iterator[Block]:
    mark: tuple[str, str] | None = None
    for found in re.finditer(f"(?:{_MARK.pattern})|(?:{_FENCE.pattern})", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, found.start()) + 1
        if found["fence"] is None:
            mark = (found[1], found[2])
            if mark[0] == "stop":
                yield Block(path=path, line=line, language="", words=(), text="", mark=mark)
                mark = None
            continue
        language, *words = found["info"].split() or [""]
        yield Block(path=path, line=line + 1, language=language, words=tuple(words), text=found["text"], mark=mark)
        mark = None


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def pattern_of(expected: str) -> str:
    """A regular expression over squeezed text: `…` stands for anything."""
    return ".*?".join(re.escape(part) for part in squeezed(expected).split("…"))


def check_part(path: Path, part: str, expected: Iterable[str]) -> None:
    """The lines between the marks are `expected`; with WRITE_DOCUMENTS=1 they are written instead."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"(<!-- from the code: {re.escape(part)} -->\n)(.*?)(<!-- end -->)", text, re.DOTALL)
    assert found is not None, f"{shown(path)} has no part {part!r}"
    wanted = "\n".join(expected) + "\n"
    if os.environ.get("WRITE_DOCUMENTS"):
        path.write_text(text[: found.start(2)] + wanted + text[found.end(2) :], encoding="utf-8")
    else:
        assert found[2] == wanted, f"{shown(path)}: the code says something else now; WRITE_DOCUMENTS=1 writes it"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
