"""Frozen all the way down: which field types an event may have, and why another is refused."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from pathlib import PurePath
from typing import Annotated, Any, Literal, NewType, TypeVar, Union
from uuid import UUID

from msgspec import Struct, json

from cauce.events.generics import alias_value, defaults, field_hints, field_names
from cauce.events.plain import plain

__all__ = ["field_problems", "looks_like_a_secret", "secret_looking"]

_JSON: tuple[type, ...] = (
    str, int, float, bool, bytes, type(None), datetime, date, time, timedelta, Decimal, UUID,
)  # fmt: skip
"""Plain data that travels: what the codec writes and reads back as the same type."""

_LOCAL: tuple[type, ...] = (complex, timezone, Fraction, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
"""Immutable too, but not something the codec reads; only for events that stay in the process."""

_INSTEAD = {
    list: "tuple[…, ...]",
    set: "frozenset[…]",
    dict: "a frozen Struct, or a tuple of pairs",
    bytearray: "bytes",
}

_SECRET_WORDS = frozenset(
    (
        *("password", "passwd", "passphrase", "pwd", "contraseña", "contrasena", "pin", "cvv", "cvc"),
        *("hash", "secret", "token", "jwt", "otp", "totp", "credential", "apikey"),
    )
)
_SECRET_PAIRS = frozenset({("api", "key"), ("private", "key"), ("access", "key"), ("secret", "key")})
_SECRET_ANYWHERE = ("password", "passwd", "passphrase")
"""Also without a border between the words, as in `passwordhash`: no other word contains them."""


def secret_looking(field_name: str) -> str | None:
    """The whole word that makes a name look like a secret, if any: `passwordHash` and `tokens` yes, `hashtag` and
    `pinned` no. A plural is the same word."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+", field_name)]
    singular = [_singular(word) for word in words]
    for word in singular:
        if word in _SECRET_WORDS:
            return word
        for part in _SECRET_ANYWHERE:
            if part in word:
                return part
    for pair in pairwise(singular):
        if pair in _SECRET_PAIRS:
            return " ".join(pair)
    return None


def _singular(word: str) -> str:
    for end in ("es", "s"):
        if word.removesuffix(end) in _SECRET_WORDS or word.removesuffix(end) == "key":
            return word.removesuffix(end)
    return word


def looks_like_a_secret(path: str, word: str) -> str:
    """The sentence for a field that must go, or say why it is none."""
    return (
        f"the field {path!r} looks like a secret ({word!r}), and events are stored and logged. Leave it "
        f'out, or state why it is none: not_secret={{"{path}": "because …"}}'
    )


def field_problems(
    cls: type[Any],
    *,
    allow_unresolved: bool,
    homes: frozenset[str] | None,
    travels: bool,
    not_secret: frozenset[str],
    is_base: bool = False,
) -> Iterator[str]:
    """What is wrong with the fields of `cls`, one sentence each; the class's own field names are not judged here.

    `homes`: set for a contract, which holds types declared in these modules only. `travels`: it is written as JSON, so
    it holds plain data only. `not_secret`: dotted paths of nested fields that may look like secrets. With
    `allow_unresolved`, what holds an annotation that cannot be resolved yet is passed over. `is_base`: its type variables
    are given by those that derive from it.
    """
    walk = _Walk(
        allow_unresolved=allow_unresolved,
        homes=homes,
        travels=travels,
        not_secret=not_secret,
        is_base=is_base,
        seen={cls},
    )
    found = [*walk.fields(cls, path="")]
    yield from found
    if travels and not found and not walk.unresolved:
        yield from _codec_problems(cls)


def _codec_problems(cls: type[Any]) -> Iterator[str]:
    """Combinations no codec can tell apart on the wire, such as `str | UUID`."""
    try:
        json.Decoder(cls)
    except Exception as error:  # also RecursionError, for a type that is made of itself
        text = " ".join(str(error).split())
        yield f"it could not be read back from JSON: {text}{_way_out(text)}"


def _way_out(text: str) -> str:
    for words, way in _WAYS_OUT.items():
        if words in text:
            return f"; {way}"
    return ""


_WAYS_OUT = {
    "more than one str-like type": "use one of them, or a frozen Struct with a field for each",
    "more than one array-like type": "use one of them, or a frozen Struct with a field for each",
    "must be tagged": "give each a tag: class A(Struct, frozen=True, tag=True)",
    "multiple Struct types": "give each a tag: class A(Struct, frozen=True, tag=True)",
    "Type unions may not contain": "use frozen Structs, each with a tag: class A(Struct, frozen=True, tag=True)",
    "all str or all int": "give its members texts only, or whole numbers only",
    "recursion": "use a frozen Struct that holds others of its kind",
}


def _is_read_as_it_is(value: object, hint: Any) -> bool:
    """Whether listeners would be given this default as it is: not None for an int. True of a type that is no type."""
    try:
        decoder = json.Decoder(hint)
    except Exception:  # told by `_codec_problems`
        return True
    try:
        return bool(decoder.decode(json.encode(value, enc_hook=plain)) == value)
    except Exception:  # whatever the codec, a constraint or an odd value raises
        return False


@dataclass
class _Walk:
    """One walk over a class's annotations. `seen` ends recursion in self-referring types."""

    allow_unresolved: bool
    homes: frozenset[str] | None
    travels: bool
    not_secret: frozenset[str]
    is_base: bool
    seen: set[Any]
    unresolved: bool = False

    def fields(self, hint: Any, *, path: str) -> Iterator[str]:
        """The fields of a class, or of a generic one with its arguments."""
        cls = typing.get_origin(hint) or hint
        for name, default in defaults(cls).items():
            if (maker := _maker_of_other_classes(default)) is not None:
                yield (
                    f"the field {_joined(path, name)!r} has {maker}(…) as its default, which means "
                    "nothing here; write the value itself, or msgspec.field(default_factory=…)"
                )
        try:
            hints = field_hints(hint)
        except Exception as error:  # an annotation is any expression, and evaluating it can raise anything
            self.unresolved = True
            if not self.allow_unresolved:
                where = f"a field's type of {cls.__name__}" if path else "a field's type"
                yield f"{where} cannot be resolved ({error}); import it at module level, not under TYPE_CHECKING"
            return
        for name, of_field in hints.items():
            yield from self.annotation(of_field, path=_joined(path, name))
        for name, default in defaults(cls).items() if self.travels else ():
            if (
                name in hints
                and _maker_of_other_classes(default) is None
                and not _is_read_as_it_is(default, hints[name])
            ):
                where = _joined(path, name)
                yield f"the default of the field {where!r} is not of the field's type, so it could not be read back"

    def annotation(self, hint: Any, *, path: str) -> Iterator[str]:
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if (alias := alias_value(hint)) is not None:
            yield from self.alias(hint, *alias, path=path)
        elif origin is Annotated:
            yield from self.annotation(arguments[0], path=path)
        elif origin in (Union, types.UnionType):
            for argument in arguments:
                yield from self.annotation(argument, path=path)
        elif origin is Literal or hint is None:
            return
        elif hint in (tuple, frozenset, typing.Tuple, typing.FrozenSet):  # noqa: UP006  # people still write them
            yield f"the field {path!r}: say what is inside, like {(origin or hint).__name__}[str, ...]"
        elif origin in (tuple, frozenset):
            for argument in arguments:
                if argument is not Ellipsis:
                    yield from self.annotation(argument, path=f"{path}[]")
        elif isinstance(hint, NewType):
            yield from self.annotation(hint.__supertype__, path=path)
        elif isinstance(hint, TypeVar):
            if not self.is_base:
                yield f"the field {path!r}: a type variable says nothing about what is inside; name the type"
        elif hint is not Any and isinstance(origin or hint, type):
            yield from self.klass(hint, path=path)
        else:
            yield f"the field {path!r}: {_shown(hint)} is not a type an event can hold; name a concrete, immutable one"

    def alias(self, hint: Any, alias: Any, value: Any, *, path: str) -> Iterator[str]:
        if self.travels and not isinstance(alias, getattr(typing, "TypeAliasType", ())):
            yield (
                f"the field {path!r}: {alias.__name__} is an alias of typing_extensions, which JSON is not read into; "
                f"write type {alias.__name__} = … (Python 3.12), or {alias.__name__}: TypeAlias = …"
            )
        elif hint not in self.seen:
            self.seen.add(hint)
            yield from self.annotation(value, path=path)

    def klass(self, hint: Any, *, path: str) -> Iterator[str]:
        """A class, or a generic one with its arguments."""
        cls: type[Any] = typing.get_origin(hint) or hint
        for mutable, instead in _INSTEAD.items():
            if issubclass(cls, mutable):
                yield f"the field {path!r} is mutable ({cls.__name__}); use {instead}"
                return
        if cls in _JSON:
            return
        if cls in _LOCAL or issubclass(cls, PurePath):
            if self.travels:
                yield f"the field {path!r} has the type {cls.__name__}, which JSON cannot carry; use str"
            return
        if self.homes is not None and cls.__module__ not in self.homes:
            yield (
                f"the field {path!r} has the type {cls.__name__} of {cls.__module__}; a contract holds plain data and "
                f"types declared beside it in {' or '.join(sorted(self.homes))}"
            )
            return
        if issubclass(cls, Enum) or hint in self.seen:
            return
        if (base := next((one for one in _JSON if issubclass(cls, one)), None)) is not None:
            yield (
                f"the field {path!r} has the type {cls.__name__}, which is read back as no more than {base.__name__}; use "
                f'{base.__name__}, or NewType("{cls.__name__}", {base.__name__})'
            )
            return
        if not _is_frozen(cls):
            yield (
                f"the field {path!r} has the type {cls.__name__}, which is not known to be immutable; make it a frozen "
                "Struct or a frozen dataclass"
            )
            return
        self.seen.add(hint)
        for name in field_names(cls):
            if (word := secret_looking(name)) and f"{path}.{name}" not in self.not_secret:
                yield looks_like_a_secret(f"{path}.{name}", word)
        yield from self.fields(hint, path=path)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(hint: Any) -> str:
    return getattr(hint, "__name__", None) or repr(hint)


def _maker_of_other_classes(default: object) -> str | None:
    """How other kinds of classes say a field's default: to a struct, the object they make is the default itself."""
    kind = type(default)
    return _MAKERS.get(f"{kind.__module__}.{kind.__name__}")


_MAKERS = {
    "dataclasses.Field": "dataclasses.field",
    "pydantic.fields.FieldInfo": "pydantic.Field",
    "attr._make._CountingAttr": "attrs.field",
}


def _is_frozen(cls: type[Any]) -> bool:
    if issubclass(cls, Struct):
        return cls.__struct_config__.frozen
    if dataclasses.is_dataclass(cls):
        parameters: Any = getattr(cls, "__dataclass_params__", None)
        return bool(parameters and parameters.frozen)
    return hasattr(cls, "_fields") and issubclass(cls, tuple)
