"""Frozen all the way down: which field types an event may have, and why another is refused."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from pathlib import PurePath
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, cast
from uuid import UUID

from msgspec import Struct

__all__ = ["field_problems", "secret_looking"]

_PLAIN: tuple[type, ...] = (
    str, int, float, bool, bytes, complex, type(None), datetime, date, time, timedelta, timezone,
    Decimal, Fraction, UUID, IPv4Address, IPv6Address,
)  # fmt: skip

_INSTEAD = {
    list: "tuple[…, ...]",
    set: "frozenset[…]",
    dict: "a frozen Struct, or a tuple of pairs",
    bytearray: "bytes",
}

_SECRET_WORDS = frozenset(
    [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "hash",
        "secret",
        "token",
        "pin",
        "otp",
        "credential",
        "credentials",
        "apikey",
        "cvv",
        "cvc",
    ]
)
_SECRET_PAIRS = frozenset({("api", "key"), ("private", "key"), ("access", "key"), ("secret", "key")})


def secret_looking(field_name: str) -> str | None:
    """The whole word that makes a name look like a secret, if any: `password_hash` yes, `hashtag` and `pink` no."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", field_name)]
    for word in words:
        if word in _SECRET_WORDS:
            return word
    for pair in pairwise(words):
        if pair in _SECRET_PAIRS:
            return " ".join(pair)
    return None


def field_problems(
    cls: type[Any], *, allow_unresolved: bool, home: str | None, not_secret: frozenset[str]
) -> Iterator[str]:
    """What is wrong with the fields of `cls`, one sentence each. `home`: the one module nested types may be from."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        if not allow_unresolved:
            yield f"a field's type cannot be resolved ({error}); import it at module level"
        return
    for name in _field_names(cls):
        if name in hints:
            yield from _check(hints[name], path=name, home=home, not_secret=not_secret, seen={cls})


def _field_names(cls: type[Any]) -> Iterable[str]:
    if issubclass(cls, Struct):
        return cls.__struct_fields__
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return cast("tuple[str, ...]", getattr(cls, "_fields", ()))


def _check(
    hint: Any, *, path: str, home: str | None, not_secret: frozenset[str], seen: set[type[Any]]
) -> Iterator[str]:
    """Walk one annotation. `seen` ends recursion in self-referring types."""

    def walk(inner: Any, where: str = path) -> Iterator[str]:
        return _check(inner, path=where, home=home, not_secret=not_secret, seen=seen)

    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Annotated:
        yield from walk(arguments[0])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from walk(argument)
    elif origin is Literal or hint is None:
        return
    elif origin in (tuple, frozenset):
        for argument in arguments:
            if argument is not Ellipsis:
                yield from walk(argument, f"{path}[]")
    elif isinstance(hint, NewType):
        yield from walk(hint.__supertype__)
    elif isinstance(hint, TypeVar):
        yield f"{path}: a type variable says nothing about what is inside; name the type"
    elif hint in (tuple, frozenset):
        yield f"{path}: say what is inside, like {hint.__name__}[str, ...]"
    elif isinstance(origin or hint, type):
        yield from _check_class(origin or hint, path=path, home=home, not_secret=not_secret, seen=seen)
    else:
        yield f"{path}: {hint!r} is not a type an event can hold; name a concrete, immutable one"


def _check_class(
    cls: type[Any], *, path: str, home: str | None, not_secret: frozenset[str], seen: set[type[Any]]
) -> Iterator[str]:
    for mutable, instead in _INSTEAD.items():
        if issubclass(cls, mutable):
            yield f"the field {path!r} is mutable ({cls.__name__}); use {instead}"
            return
    if cls in _PLAIN or issubclass(cls, PurePath):
        return
    if home is not None and cls.__module__ != home:
        yield (
            f"the field {path!r} has the type {cls.__name__} of {cls.__module__}; a contract holds plain data and types "
            f"declared beside it in {home}"
        )
        return
    if issubclass(cls, Enum) or cls in seen:
        return
    if not _is_frozen(cls):
        yield (
            f"the field {path!r} has the type {cls.__name__}, which is not known to be immutable; make it a frozen "
            f"Struct or a frozen dataclass"
        )
        return
    seen.add(cls)
    for name in _field_names(cls):
        if (word := secret_looking(name)) and name not in not_secret:
            yield f"the field {path}.{name} looks like a secret ({word!r}), and events are stored and logged"
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        return
    for name in _field_names(cls):
        if name in hints:
            yield from _check(hints[name], path=f"{path}.{name}", home=home, not_secret=not_secret, seen=seen)


def _is_frozen(cls: type[Any]) -> bool:
    if issubclass(cls, Struct):
        return cls.__struct_config__.frozen
    if dataclasses.is_dataclass(cls):
        parameters: Any = getattr(cls, "__dataclass_params__", None)
        return bool(parameters and parameters.frozen)
    return hasattr(cls, "_fields") and issubclass(cls, tuple)
