"""What Redis answers, made readable; the shapes of protocol 2 and of protocol 3 alike.

Our connections speak protocol 2. A proxy or a later default may answer in the other one, where lists of pairs are
maps: nothing here depends on which.
"""

from collections.abc import Sequence
from typing import Any, cast

__all__ = ["Order", "entries_by_stream", "field_of", "is_id", "just_before", "named", "order", "text", "texts"]

Order = tuple[int, int]
"""A stream entry's id in the form in which ids compare: milliseconds, and a number within them."""


def text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def order(entry_id: str | bytes) -> Order:
    """`1718000000000-3` as numbers. ValueError for what is no id of a stream."""
    milliseconds, _, number = text(entry_id).partition("-")
    return int(milliseconds), int(number or 0)


def is_id(entry_id: str) -> bool:
    milliseconds, dash, number = entry_id.partition("-")
    return bool(dash) and milliseconds.isdecimal() and number.isdecimal()


def just_before(entry_id: str) -> str:
    """The id before this one: what comes after it begins with this one."""
    milliseconds, number = order(entry_id)
    return f"{milliseconds}-{number - 1}" if number else f"{milliseconds - 1}-{2**64 - 1}"


def named(reply: Any) -> dict[str, Any]:
    """Names and values: a map, or a flat list of them."""
    if isinstance(reply, dict):
        return {text(name): value for name, value in cast("dict[Any, Any]", reply).items()}
    flat = cast("Sequence[Any]", reply)
    return {text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def texts(reply: Any) -> dict[str, str]:
    """A hash of texts."""
    return {name: text(value) for name, value in named(reply).items()}


def entries_by_stream(reply: Any) -> Sequence[tuple[bytes, Sequence[Any]]]:
    """What XREAD and XREADGROUP give: for every stream its `[id, fields]`; empty when there was nothing in time."""
    if not reply:
        return ()
    if isinstance(reply, dict):
        return list(cast("dict[bytes, Sequence[Any]]", reply).items())
    return cast("Sequence[tuple[bytes, Sequence[Any]]]", reply)


def field_of(fields: Any, name: bytes) -> bytes | None:
    """The value of a field of an entry; None if the server has forgotten the entry's content, empty if it has no such
    field."""
    if not fields:
        return None
    if isinstance(fields, list):
        flat = cast("list[bytes]", fields)
        if flat[0] == name:
            return flat[1]
    return cast("bytes", named(cast("Any", fields)).get(name.decode(), b""))
