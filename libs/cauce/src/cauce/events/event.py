"""What an event is: plain, immutable data with a stable name.

The class body is the payload; everything else about an event is in its envelope. What a class says about itself
(name, version, key …) is checked when the class is made, so a mistake is an error at import, with the fix in it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Never, TypeAlias, dataclass_transform

from msgspec import Struct, StructMeta, field

from cauce.errors import DefinitionError, did_you_mean
from cauce.events.immutable import field_problems, looks_like_a_secret, secret_looking

__all__ = ["DomainEvent", "Event", "EventType", "IntegrationEvent", "check_fields", "describe", "find_field_problems"]


Rename: TypeAlias = Literal["camel", "kebab", "pascal", "lower", "upper"] | None
"""How field names are spelled on the wire; `rename="camel"` is what JavaScript peers expect."""

_RENAMES = ("camel", "kebab", "pascal", "lower", "upper")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """What an event class says about itself."""

    cls: "type[Event]"
    name: str
    """The stable wire name; never a class path."""
    version: int
    key: str | None
    """The field whose value orders events: same key, same order."""
    source: str | None
    """The service that publishes it; None for a domain event, which belongs to whoever runs it."""
    earlier_names: tuple[str, ...]
    """Names the event had before, still accepted from the wire."""
    earlier_sources: tuple[str, ...]
    """Services that published it before, whose events are still accepted from the wire."""
    not_secret: Mapping[str, str]
    """Fields (dotted paths for nested ones) that only look like secrets, each with the reason."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class EventMeta(StructMeta):
    """Turns the class keywords into an EventType and refuses what cannot work."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        name: str | None = None,
        version: int | None = None,
        key: str | None = None,
        source: str | None = None,
        earlier_names: Iterable[str] = (),
        earlier_sources: Iterable[str] = (),
        not_secret: Mapping[str, str] | None = None,
        rename: Rename = None,
        **unknown: Never,
    ) -> "EventMeta":
        if unknown:
            raise DefinitionError(_unknown_keywords(class_name, unknown))
        if rename is not None and rename not in _RENAMES:
            expected = f"rename is one of {', '.join(_RENAMES)}"
            raise DefinitionError(f"{class_name}: rename={rename!r}: {expected}.{did_you_mean(rename, _RENAMES)}")
        cls: Any = super().__new__(mcls, class_name, bases, namespace, frozen=True, kw_only=True, rename=rename)
        cls.__cauce__ = None
        if namespace.get("__module__") == __name__:
            return cls
        if isinstance(earlier_names, str):
            raise DefinitionError(f"{class_name}: earlier_names is a tuple of names; write ({earlier_names!r},)")
        if isinstance(earlier_sources, str):
            raise DefinitionError(f"{class_name}: earlier_sources is a tuple of names; write ({earlier_sources!r},)")
        cls.__cauce_not_secret__ = {
            **{word: why for base in reversed(cls.__mro__[1:]) for word, why in _not_secret_of(base).items()},
            **(not_secret or {}),
        }
        described = EventType(
            cls=cls,
            name="" if name is None else name,
            version=1 if version is None else version,
            key=key,
            source=source,
            earlier_names=tuple(earlier_names),
            earlier_sources=tuple(earlier_sources),
            not_secret=cls.__cauce_not_secret__,
        )
        said = {
            "version": version,
            "key": key,
            "source": source,
            "earlier_names": described.earlier_names or None,
            "earlier_sources": described.earlier_sources or None,
        }
        if name is None:
            problems = list(_problems_of_a_base(word for word, value in said.items() if value is not None))
        else:
            problems = list(_problems(described, versioned=version is not None))
        problems += _secret_problems(described)
        problems += find_field_problems(cls, allow_unresolved=True, is_base=name is None)
        if problems:
            raise DefinitionError(f"{class_name}: " + "; ".join(problems))
        if name is not None:
            cls.__cauce__ = described
        return cls


class Event(Struct, metaclass=EventMeta):
    """The base of both kinds. Not for direct use: an event is either inside a service or between services."""


class DomainEvent(Event):
    """Something happened inside this service. Free to change; may carry domain types, as long as they are frozen.

    `class PlaylistUpdated(DomainEvent, name="music.playlist-updated")` – a subclass without a name is only a base
    for others and cannot be published. DefinitionError is raised for a bad name, a mutable or secret-looking field,
    or a key that is no field.
    """


class IntegrationEvent(Event):
    """Something other services may rely on: named, versioned, with a source, and plain data only.

    `class UserCreated(IntegrationEvent, name="accounts.user-created", version=1, key="id", source="accounts")`.
    Raises DefinitionError like DomainEvent, and for a nested type that is declared in another module: a contract
    that contains domain types changes whenever the domain does.
    """


def describe(event_type: type[Event]) -> EventType:
    """What the class says about itself. DefinitionError if it has no name of its own."""
    described: EventType | None = getattr(event_type, "__cauce__", None)  # every class has its own
    if described is None:
        raise DefinitionError(
            f"{event_type.__name__} has no wire name, so it cannot be published or heard. "
            f'Declare it as class {event_type.__name__}({event_type.__mro__[1].__name__}, name="…").'
        )
    return described


_KEYWORDS = ("name", "version", "key", "source", "earlier_names", "earlier_sources", "not_secret", "rename")
_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*(?:\.[a-z0-9]+(?:[-_][a-z0-9]+)*)*")
_MAX_NAME_LENGTH = 200


def _unknown_keywords(class_name: str, unknown: Mapping[str, object]) -> str:
    word = next(iter(unknown))
    return (
        f"{class_name}: {word!r} is not something an event class can say.{did_you_mean(word, _KEYWORDS)} "
        f"It can say: {', '.join(_KEYWORDS)}."
    )


def _not_secret_of(base: type) -> Mapping[str, str]:
    return base.__dict__.get("__cauce_not_secret__") or {}


def _problems_of_a_base(said: Iterable[str]) -> Iterable[str]:
    """A class without a name is a base for others; whoever says more about it forgot the name."""
    for word in said:
        yield f'it says {word}=… and has no name, so it cannot be published; give it one: name="…"'


def _problems(described: EventType, *, versioned: bool) -> Iterable[str]:
    cls = described.cls
    for text in (described.name, *described.earlier_names):
        if not _is_name(text):
            yield (
                f"{text!r} is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
                f"at most {_MAX_NAME_LENGTH} characters, like 'accounts.user-created'"
            )
    for text in dict.fromkeys(described.earlier_names):
        if text == described.name or described.earlier_names.count(text) > 1:
            yield f"earlier_names repeats {text!r}"
    if issubclass(cls, IntegrationEvent):
        if not versioned:
            yield "an integration event is a contract and needs a version: version=1"
        if not described.source:
            yield 'an integration event says who publishes it: source="accounts-ms"'
    elif described.earlier_sources:
        yield "earlier_sources is for integration events; a domain event belongs to whoever runs it"
    for text in dict.fromkeys(described.earlier_sources):
        if text == described.source or described.earlier_sources.count(text) > 1:
            yield f"earlier_sources repeats {text!r}"
    if type(described.version) is not int or described.version < 1:
        yield f"version={described.version!r}: versions are whole numbers and count from 1"
    fields = cls.__struct_fields__
    if described.key is not None and described.key not in fields:
        yield (
            f"key={described.key!r} is not one of its fields ({', '.join(fields) or 'it has none'})."
            + did_you_mean(described.key, fields)
        )


def _is_name(text: object) -> bool:
    return isinstance(text, str) and len(text) <= _MAX_NAME_LENGTH and _NAME.fullmatch(text) is not None


def _secret_problems(described: EventType) -> Iterable[str]:
    fields = described.cls.__struct_fields__
    for allowed, reason in described.not_secret.items():
        if allowed.partition(".")[0] not in fields:
            yield f"not_secret names {allowed!r}, which is not a field.{did_you_mean(allowed, fields)}"
        if not reason.strip():
            yield f"not_secret[{allowed!r}] states no reason"
    for field_name in fields:
        if (word := secret_looking(field_name)) and field_name not in described.not_secret:
            yield looks_like_a_secret(field_name, word)


def check_fields(cls: type[Event], *, travels: bool = False) -> None:
    """Ask again, before the first publishing, what could not be seen when the class was made. DefinitionError.

    `travels`: it is written down, so all of its types must be known now, and JSON must carry them.
    """
    if problems := list(find_field_problems(cls, allow_unresolved=not travels, travels=travels)):
        raise DefinitionError(f"{cls.__name__}: " + "; ".join(problems))


def find_field_problems(
    cls: type[Event], *, allow_unresolved: bool = False, travels: bool = False, is_base: bool = False
) -> Iterable[str]:
    """Fields that are not frozen all the way down, or not plain data in an event that travels, as contracts do.

    With `allow_unresolved`, a class with an annotation that cannot be resolved yet (a forward reference) is passed
    over; a service asks again at start.
    """
    yield from field_problems(
        cls,
        allow_unresolved=allow_unresolved,
        homes=_homes(cls) if issubclass(cls, IntegrationEvent) else None,
        travels=travels or issubclass(cls, IntegrationEvent),
        not_secret=frozenset(_not_secret_of(cls)),
        is_base=is_base,
    )


def _homes(cls: type[Event]) -> frozenset[str]:
    """Where a contract's nested types may be declared: beside it, or beside a base whose fields it inherits."""
    return frozenset(base.__module__ for base in cls.__mro__ if issubclass(base, Event)) - {__name__}
