"""Text in lines that a screen holds: broken at spaces, names and commands whole, so that they can be copied."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["command_lines", "flowing", "visible"]

_LEFTMOST: Final = 2
_PROGRAMS: Final = ("cauce", "redis-cli", "pip")
_ENDS_WITH: Final = (",", ";", ":", ".")
_PROSE: Final = frozenset({"·", "→", "and", "are", "does", "if", "is", "or", "runs", "there", "was"})
"""Words that follow a command in our sentences, and are none of its arguments."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """What stays in one line: a word, or a command with all its arguments."""

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def flowing(text: str, *, wide: int, indent: int = 0, first: str | None = None) -> list[str]:
    """Lines of at most `wide` under `indent`; `first` stands in place of the first indent.

    A name or a command that does not fit there begins further left, on a line of its own. A command longer than a whole
    line is continued as a shell reads it, with a backslash between two arguments; a longer word stays whole.
    """
    lines: list[str] = []
    pad = " " * indent
    line, empty = (pad if first is None else first), True
    for paragraph in text.split("\n"):
        for piece in _pieces(paragraph):
            length = visible(piece.text)
            if visible(line) + (not empty) + length <= wide:
                line += piece.text if empty else f" {piece.text}"
                empty = False
                continue
            if not empty or line.strip():
                lines.append(line.rstrip())
            line, empty = pad, True
            if indent + length <= wide:
                line, empty = f"{pad}{piece.text}", False
            else:
                lines += _further_left(piece, wide, indent)
        if not empty or line.strip() or not paragraph:
            lines.append(line.rstrip())
        line, empty = pad, True
    return lines


def command_lines(command: str, *, wide: int, indent: int) -> list[str]:
    """The lines of one command: one line, if it fits into one at all."""
    piece = _Piece(tuple(_arguments(command.split(" "))))
    return [" " * indent + command] if indent + visible(command) <= wide else _further_left(piece, wide, indent)


def visible(text: str) -> int:
    """How many columns it takes: colours take none."""
    return len(re.sub(r"\x1b\[\d+m", "", text))


def _further_left(piece: _Piece, wide: int, indent: int) -> list[str]:
    length = visible(piece.text)
    if length <= wide - _LEFTMOST or len(piece.words) == 1:
        return [" " * max(0, min(indent, max(_LEFTMOST, wide - length))) + piece.text]
    room = wide - len(" \\")
    lines = [" " * _LEFTMOST + piece.words[0]]
    for part in _options_with_values(piece.words[1:], room - _LEFTMOST - 4):
        if visible(lines[-1]) + 1 + visible(part) <= room:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(" " * (_LEFTMOST + 4) + part)
    return lines


def _options_with_values(arguments: Sequence[str], room: int) -> Iterator[str]:
    """An option and its value in one, where that fits."""
    at = 0
    while at < len(arguments):
        both = " ".join(arguments[at : at + 2])
        if arguments[at].startswith("--") and at + 1 < len(arguments) and visible(both) <= room:
            yield both
            at += 2
        else:
            yield arguments[at]
            at += 1


def _pieces(paragraph: str) -> Iterator[_Piece]:
    words = paragraph.split(" ")
    at = 0
    while at < len(words):
        program = at + (words[at] == "→")
        if program + 1 < len(words) and words[program] in _PROGRAMS:
            end = _end_of_command(words, program)
            yield _Piece((*words[at:program], *_arguments(words[program:end])))
        else:
            end = at + 1
            yield _Piece((words[at],))
        at = end


def _end_of_command(words: list[str], program: int) -> int:
    """After its last argument: where a sentence goes on, or ends."""
    at = program + 1
    while at < len(words):
        if words[at] in _PROSE and not words[at - 1].startswith("--"):
            return at
        at = _end_of_argument(words, at)
        if words[at - 1].endswith(_ENDS_WITH):
            return at
    return at


def _arguments(words: list[str]) -> Iterator[str]:
    """What a shell takes as one, a text in quotes, in one."""
    at = 0
    while at < len(words):
        end = _end_of_argument(words, at)
        yield " ".join(words[at:end])
        at = end


def _end_of_argument(words: list[str], at: int) -> int:
    quote = words[at][:1]
    if quote not in ("'", '"'):
        return at + 1
    for end in range(at, len(words)):
        word = words[end][1:] if end == at else words[end]
        if word.rstrip("".join(_ENDS_WITH)).endswith(quote):
            return end + 1
    return at + 1
