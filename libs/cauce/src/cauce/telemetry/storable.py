"""Text that every store takes and every terminal shows, made of any text, and of errors whose own text cannot be had.

PostgreSQL refuses NUL and no driver takes half a surrogate; and what an error says about itself is code of the user's,
which may raise. What is written down about trouble must not become trouble itself: so every store passes what people are
to read through here (`stores/storable.py`), and whoever asks an error for its text asks here.
"""

import re
import traceback
from types import TracebackType

from cauce.telemetry.causes import frames_of
from cauce.telemetry.log_text import one_line

__all__ = ["describe_error", "loggable", "stack_of", "storable_line", "storable_text"]

LINE_LIMIT = 2_000
TEXT_LIMIT = 16_000
_ERROR_LIMIT = 500
_STACK_LIMIT = 8_000
_TRACEBACK_LIMIT = 100_000
_NOT_STORABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
"""What `one_line` spells out too, without the ends of lines and tabs."""


def storable_line(text: str, *, limit: int = LINE_LIMIT) -> str:
    """One line of text: what cannot be stored or shown is spelled out, what is longer is cut."""
    return _cut(one_line(_cut(text, limit)), limit)


def storable_text(text: str, *, limit: int = TEXT_LIMIT) -> str:
    """Text of several lines, as `storable_line`; of what is longer its end is kept, where a traceback says most."""
    plain = str.__getitem__(text, slice(-limit, None))
    return _NOT_STORABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), plain)[-limit:]


def describe_error(error: BaseException) -> str:
    """`ValueError: what it says`, in one line of 500 characters at most; only its type if it cannot say anything.

    Never raises, whatever the error's class does when it is asked.
    """
    kind = _type_of(error)
    try:
        said = " ".join(_cut(str(error), 4 * _ERROR_LIMIT).split())
    except BaseException as trouble:  # what is asked is code of the user's, and none of it may end us
        return f"{kind}: (its own text cannot be had: asked for it, it raised {_type_of(trouble)})"
    return storable_line(f"{kind}: {said}" if said else kind, limit=_ERROR_LIMIT + len(kind))


def stack_of(error: BaseException) -> str:
    """Where it was raised, and before that the errors it was raised from; without values. Empty if it cannot be had."""
    try:
        return storable_text(frames_of(error), limit=_STACK_LIMIT)
    except BaseException:  # as above
        return ""


def loggable(error: BaseException) -> BaseException:
    """The error for `exc_info`, with its causes; in its place one of few words if it, or one of them, has a megabyte or
    control characters to say, or raises when it is asked."""
    try:
        shown = "".join(traceback.format_exception(error))
        if len(shown) <= _TRACEBACK_LIMIT and not _NOT_STORABLE.search(shown):
            return error
    except BaseException:  # noqa: S110  # as above
        pass
    return ShortenedError(describe_error(error)).with_traceback(_traceback_of(error))


class ShortenedError(Exception):
    """Stands in a log for an error that cannot be shown whole: what it is and where it was raised."""


def _traceback_of(error: BaseException) -> TracebackType | None:
    try:
        return error.__traceback__
    except BaseException:  # as above
        return None


def _type_of(error: BaseException) -> str:
    # Not `type(error).__name__`: a metaclass may answer that in its own way.
    return storable_line(type.__dict__["__name__"].__get__(type(error)), limit=200)


def _cut(text: str, limit: int) -> str:
    """A plain string, whatever methods a subclass of `str` has of its own; with an ellipsis in place of what is cut."""
    if str.__len__(text) <= limit:
        return str.__getitem__(text, slice(None))
    return str.__getitem__(text, slice(0, limit - 1)) + "…"
