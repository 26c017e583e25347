"""Text fit for a log line: where in the code an error was raised, and any text without control characters.

The place of an error is the innermost line that is not some library's, in few words.
"""

import os
import re
import sysconfig
import traceback

from cauce.telemetry.causes import causes_of

__all__ = ["one_line", "place_in", "place_of"]

_LIBRARIES = (
    *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")},
    os.path.dirname(os.path.dirname(__file__)),
)
_NOT_OWN = (*_LIBRARIES, "<")  # <string>: generated
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_NOT_FOR_A_LINE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
_INSTALLED = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python\d[\d.]*)[/\\]")


def place_of(error: BaseException) -> str:
    """`mail.py:12`, of the first error in a group; empty for an error that was never raised, or whose class does not tell.

    An error raised in a library has no line of its own there: then it is that of the error it was raised from.
    """
    try:
        all_frames = [traceback.extract_tb(one.__traceback__) for one, _ in causes_of(error)]
    except Exception:  # code of the user's, asked while something else is in trouble already
        return ""
    own = [[frame for frame in frames if not frame.filename.startswith(_NOT_OWN)] for frames in all_frames]
    frames = next(filter(None, own), None) or next(filter(None, all_frames), None)
    if not frames:
        return ""
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"


def place_in(stack: str) -> str | None:
    """`mail.py:12 in send`, from a traceback that was written down, on another machine perhaps."""
    frames: list[tuple[str, str, str]] = _FRAME.findall(stack)
    own = [frame for frame in frames if not _INSTALLED.search(frame[0])]
    if not frames:
        return None
    file, line, function = (own or frames)[-1]
    return f"{os.path.basename(file)}:{line} in {function}"


def one_line(text: str) -> str:
    """The text with control characters and halves of surrogates spelled out: an id from the wire cannot forge a line,
    nor turn one round, nor end the terminal that is to show it."""
    return _NOT_FOR_A_LINE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
