"""The fields of a class with their types: type variables replaced by what they stand for, aliases by what they name."""

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from msgspec import NODEFAULT, Struct

__all__ = ["alias_value", "defaults", "field_hints", "field_names"]

Given = Mapping[Any, Any]
"""Type variables, and what stands for each."""


def field_hints(hint: Any) -> dict[str, Any]:
    """The annotations of a class, or of a generic one with its arguments (`Page[Song]`).

    Raises what evaluating an annotation raises, a NameError usually.
    """
    cls = typing.get_origin(hint) or hint
    hints = typing.get_type_hints(cls, include_extras=True)
    given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))
    for base, stands_for in reversed(_bases(cls, given)):
        for name in inspect.get_annotations(base):
            if name in hints:
                hints[name] = _replace(hints[name], stands_for)
    return {name: hints[name] for name in field_names(cls) if name in hints}


def field_names(cls: type[Any]) -> Iterable[str]:
    """The fields of a struct, a dataclass or a named tuple; none of anything else."""
    if issubclass(cls, Struct):
        return cls.__struct_fields__
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return cast("tuple[str, ...]", getattr(cls, "_fields", ()))


def defaults(cls: type[Any]) -> Mapping[str, object]:
    """The defaults that a struct's fields have been given, but for those that a factory makes."""
    if not issubclass(cls, Struct):
        return {}
    given = cls.__struct_defaults__
    names = cls.__struct_fields__[len(cls.__struct_fields__) - len(given) :]
    return {name: one for name, one in zip(names, given, strict=True) if type(one) not in _NO_VALUE}


class _WithFactory(Struct):
    made: list[int] = []  # the codec makes a factory of it


_NO_VALUE: tuple[type, ...] = (type(NODEFAULT), type(cast("object", _WithFactory.__struct_defaults__[0])))


def alias_value(hint: Any) -> tuple[Any, Any] | None:
    """An alias (`type X = …`) and what it stands for, with its arguments if it has any; None for what is no alias."""
    alias = typing.get_origin(hint) or hint
    if type(alias).__name__ != "TypeAliasType":
        return None
    return alias, _replace(alias.__value__, dict(zip(alias.__type_params__, typing.get_args(hint), strict=False)))


def _bases(cls: type[Any], given: Given) -> list[tuple[type[Any], Given]]:
    """The class and what it derives from, the nearest first, each with what its own variables stand for."""
    found: list[tuple[type[Any], Given]] = [(cls, given)]
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = typing.get_origin(base) or base
        if not isinstance(origin, type) or origin in (object, typing.Generic):
            continue
        arguments = [_replace(one, given) for one in typing.get_args(base)]
        found += _bases(origin, dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False)))
    return found


def _replace(hint: Any, given: Given) -> Any:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    variables = getattr(hint, "__parameters__", ())
    if not given or not variables or isinstance(hint, type):
        return hint
    return hint[tuple(given.get(one, one) for one in variables)]
