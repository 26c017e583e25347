"""Where an event differs from what its readers would get. Asked only when something is wrong or written differently."""

import dataclasses
import math
from collections.abc import Iterator, Sequence, Set
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import NamedTuple, cast
from uuid import UUID

import msgspec
from msgspec import Struct

from cauce.events.plain import UUIDS, plain

__all__ = ["Difference", "difference", "unwritable"]

_MAX_DEPTH = 40
_encode = msgspec.json.Encoder(enc_hook=plain).encode


class Difference(NamedTuple):
    """`path` is JSONPath-like and has the names of the wire; `expectation` never holds a value: it may be personal."""

    path: str
    expectation: str


def difference(said: object, read: object, path: str = "$") -> Difference | None:
    """The first place where what would be read is not what was said; None if both mean the same."""
    if isinstance(read, Enum):
        return None if said == read else Difference(path, f"expected {type(read).__name__}, got {_kind(said)}")
    if (members := _members(read)) is not None:
        if type(said) is not type(read):
            return Difference(path, f"expected {type(read).__name__}, got {_kind(said)}")
        found = _members(said) or ()
        return _first(
            difference(value, wanted, path + step) for (_, value), (step, wanted) in zip(found, members, strict=True)
        )
    if isinstance(read, tuple):
        return _between_arrays(said, cast("Sequence[object]", read), path)
    if isinstance(read, frozenset):
        return _between_sets(said, cast("Set[object]", read), path)
    return _between_scalars(said, read, path)


def unwritable(said: object, path: str = "$", depth: int = 0) -> Difference | None:
    """The first value that JSON does not write, or writes as something else; None if there is none."""
    if depth > _MAX_DEPTH:
        return Difference(path, "expected fewer levels of nesting")
    if (members := _members(said)) is not None:
        return _first(unwritable(value, path + step, depth + 1) for step, value in members)
    if isinstance(said, (tuple, list, Set)):
        items = cast("Sequence[object]", said)
        return _first(unwritable(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(items))
    if isinstance(said, float) and not math.isfinite(said):
        return Difference(path, "expected a finite number")
    try:
        _encode(said)
    except UnicodeError:
        return Difference(path, "expected text without half a surrogate pair, which UTF-8 cannot say")
    except Exception:
        what = (
            "expected a number of fewer digits"
            if isinstance(said, int)
            else f"expected plain data, got {type(said).__name__}"
        )
        return Difference(path, what)
    return None


def _members(thing: object) -> list[tuple[str, object]] | None:
    """The parts of a record, each with its step of a path; None for what is no record."""
    if isinstance(thing, Struct):
        names = zip(thing.__struct_fields__, thing.__struct_encode_fields__, strict=True)
        return [(f".{on_the_wire}", getattr(thing, name)) for name, on_the_wire in names]
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return [(f".{one.name}", getattr(thing, one.name)) for one in dataclasses.fields(thing)]
    return None


def _between_arrays(said: object, read: Sequence[object], path: str) -> Difference | None:
    if not _is_array(said):
        return Difference(path, f"expected tuple, got {_kind(said)}")
    pairs = zip(cast("Sequence[object]", said), read, strict=True)
    return _first(difference(one, other, f"{path}[{at}]") for at, (one, other) in enumerate(pairs))


def _between_sets(said: object, read: Set[object], path: str) -> Difference | None:
    if not isinstance(said, (set, frozenset)):
        return Difference(path, f"expected frozenset, got {_kind(said)}")
    equal = {one: one for one in read}
    written = {_encode(one): one for one in read}  # for what means the same and is not equal, such as another's UUIDs
    for at, one in enumerate(cast("Set[object]", said)):
        match = equal.get(one, written.get(_encode(one), _NOTHING))
        if match is _NOTHING or difference(one, match) is not None:
            return Difference(f"{path}[{at}]", "expected a value that is read as it is said")
    if len(read) != len(cast("Set[object]", said)):
        return Difference(path, "expected values that stay different when they are read")
    return None


_NOTHING = object()


def _between_scalars(said: object, read: object, path: str) -> Difference | None:
    if isinstance(said, float) and not math.isfinite(said):
        return Difference(path, "expected a finite number")
    if isinstance(read, datetime):
        return _between_times(said, read, path)
    if not _is_of(said, type(read)):
        return Difference(path, f"expected {type(read).__name__}, got {_kind(said)}")
    if isinstance(said, Decimal) and said.is_nan():
        return Difference(path, "expected a number")
    meant = read if said is None else _meant(said)
    return None if meant == read else Difference(path, f"expected a {type(read).__name__} that is read as it is said")


def _between_times(said: object, read: datetime, path: str) -> Difference | None:
    if not isinstance(said, datetime):
        return Difference(path, f"expected datetime, got {_kind(said)}")
    offset, written = said.utcoffset(), read.utcoffset()
    if offset is not None and offset % timedelta(minutes=1):
        return Difference(path, "expected a datetime whose offset from UTC is in whole minutes")
    same = offset == written and _on_the_wall(said) == _on_the_wall(read)
    return None if same else Difference(path, "expected a datetime that is read as it is said")


def _on_the_wall(moment: datetime) -> datetime:
    """Without its zone: two equal times in zones are not equal to Python while a clock is being set back."""
    return cast("datetime", plain(moment)).replace(tzinfo=None)


def _is_of(said: object, wanted: type) -> bool:
    """Whether a value may stand where the class wants one of `wanted`: also one of a subclass, if it means the same."""
    if wanted is type(None):
        return said is None
    if isinstance(said, Enum) and not isinstance(said, (str, int)):
        return False
    if isinstance(said, bool) or wanted is bool:
        return type(said) is wanted
    if wanted in (float, Decimal) and isinstance(said, int):
        return True
    if wanted is bytes:
        return isinstance(said, (bytes, bytearray, memoryview))
    if wanted is UUID:
        return isinstance(said, UUIDS)
    if wanted is date and isinstance(said, datetime):
        return False
    return isinstance(said, wanted)


def _meant(said: object) -> object:
    if isinstance(said, (bytearray, memoryview)):
        return bytes(cast("bytearray", said))
    return said.value if isinstance(said, Enum) else plain(said)


def _is_array(said: object) -> bool:
    return isinstance(said, (tuple, list))


def _kind(said: object) -> str:
    return "None" if said is None else type(said).__name__


def _first(found: Iterator[Difference | None]) -> Difference | None:
    return next((one for one in found if one is not None), None)
