"""What went wrong really: an error inside exception groups, and the errors it was raised from.

`asyncio.TaskGroup` and the like raise a group even for one error. Retries, dead letters and the log are about the
error in it.
"""

import traceback
from collections.abc import Iterator
from typing import TypeVar, cast

__all__ = ["causes_of", "find_error", "frames_of", "leaves", "real_cause"]

E = TypeVar("E", bound=BaseException)

_MAX_CAUSES = 16


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of a group, nested ones too, in order; or the error itself if it is no group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("tuple[BaseException, ...]", error.exceptions):
            yield from leaves(inner)
    else:
        yield error


def find_error(error: BaseException, wanted: type[E]) -> E | None:
    """Return the first error of this type in a group, or the error itself if it is one."""
    return next((one for one in leaves(error) if isinstance(one, wanted)), None)


def real_cause(error: BaseException, *decisive: type[BaseException]) -> BaseException:
    """Return the error that a group is about: the first of a `decisive` type, in their order, else its first error."""
    for wanted in decisive:
        if (found := find_error(error, wanted)) is not None:
            return found
    return next(leaves(error), error)


def causes_of(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yield the error and then those it was raised from, each with how it led to the one before; groups unwrapped."""
    seen: set[int] = set()
    found: BaseException | None = real_cause(error)
    how = ""
    while found is not None and id(found) not in seen and len(seen) < _MAX_CAUSES:
        seen.add(id(found))
        yield found, how
        if found.__cause__ is not None:
            found, how = real_cause(found.__cause__), "↳ was the cause of:\n"
        elif found.__context__ is not None and not found.__suppress_context__:
            found, how = real_cause(found.__context__), "↳ was being handled when this was raised:\n"
        else:
            found = None


def frames_of(error: BaseException) -> str:
    """Return the frames of an error, after those of the errors it was raised from, oldest first; without messages.

    A message may hold values, so that of the earlier errors only the types are named.
    """
    parts: list[str] = []
    for one, how in reversed(list(causes_of(error))):
        parts += traceback.format_tb(one.__traceback__)
        if how:
            parts.append(f"{type(one).__qualname__}\n{how}")
    return "".join(parts)
