"""What an event is: plain, immutable data with a stable name.

The class body is the payload; everything else about an event is in its envelope. What a class says about itself
(name, version, key …) is checked when the class is made, so a mistake is an error at import, with the fix in it.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Never, TypeAlias, dataclass_transform

from msgspec import Struct, StructMeta, field

from cauce.errors import DefinitionError, did_you_mean

__all__ = ["DomainEvent", "Event", "EventType", "IntegrationEvent", "describe", "find_field_problems"]


Rename: TypeAlias = Literal["camel", "kebab", "pascal", "lower", "upper"] | None
"""How field names are spelled on the wire; `rename="camel"` is what JavaScript peers expect."""


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
    not_secret: Mapping[str, str]


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
        not_secret: Mapping[str, str] | None = None,
        rename: Rename = None,
        **unknown: Never,
    ) -> "EventMeta":
        if unknown:
            raise DefinitionError(_unknown_keywords(class_name, unknown))
        cls: Any = super().__new__(mcls, class_name, bases, namespace, frozen=True, kw_only=True, rename=rename)
        cls.__cauce__ = None
        if isinstance(earlier_names, str):
            raise DefinitionError(f"{class_name}: earlier_names is a tuple of names; write ({earlier_names!r},)")
        described = EventType(
            cls=cls,
            name=name or "",
            version=1 if version is None else version,
            key=key,
            source=source,
            earlier_names=tuple(earlier_names),
            not_secret=dict(not_secret or {}),
        )
        if bases[0] is Struct or cls.__module__ == __name__:
            return cls
        problems = list(_problems(described, named=name is not None, versioned=version is not None))
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
    described: EventType | None = event_type.__dict__.get("__cauce__")
    if described is None:
        raise DefinitionError(
            f"{event_type.__name__} has no wire name, so it cannot be published or heard. "
            f'Declare it as class {event_type.__name__}({event_type.__mro__[1].__name__}, name="…").'
        )
    return described


_KEYWORDS = ("name", "version", "key", "source", "earlier_names", "not_secret", "rename")
_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*(?:\.[a-z0-9]+(?:[-_][a-z0-9]+)*)*")
_MAX_NAME_LENGTH = 200


def _unknown_keywords(class_name: str, unknown: Mapping[str, object]) -> str:
    word = next(iter(unknown))
    return (
        f"{class_name}: {word!r} is not something an event class can say.{did_you_mean(word, _KEYWORDS)} "
        f"It can say: {', '.join(_KEYWORDS)}."
    )


def _problems(described: EventType, *, named: bool, versioned: bool) -> Iterable[str]:
    cls = described.cls
    if named:
        for text in (described.name, *described.earlier_names):
            if len(text) > _MAX_NAME_LENGTH or not _NAME.fullmatch(text):
                yield (
                    f"{text!r} is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
                    f"at most {_MAX_NAME_LENGTH} characters, like 'accounts.user-created'"
                )
        if issubclass(cls, IntegrationEvent):
            if not versioned:
                yield "an integration event is a contract and needs a version: version=1"
            if not described.source:
                yield 'an integration event says who publishes it: source="accounts-ms"'
        if described.version < 1:
            yield f"version={described.version}: versions count from 1"
    fields = cls.__struct_fields__
    if described.key is not None and described.key not in fields:
        yield (
            f"key={described.key!r} is not one of its fields ({', '.join(fields) or 'it has none'})."
            + did_you_mean(described.key, fields)
        )
    for allowed, reason in described.not_secret.items():
        if allowed not in fields:
            yield f"not_secret names {allowed!r}, which is not a field.{did_you_mean(allowed, fields)}"
        if not reason.strip():
            yield f"not_secret[{allowed!r}] states no reason"
    from cauce.immutable import secret_looking

    for field_name in fields:
        if (word := secret_looking(field_name)) and field_name not in described.not_secret:
            yield (
                f"the field {field_name!r} looks like a secret ({word!r}), and events are stored and logged. Leave it "
                f'out, or state why it is none: not_secret={{"{field_name}": "because …"}}'
            )
    yield from find_field_problems(cls)


def find_field_problems(cls: type[Event]) -> Iterable[str]:
    """Fields that are not frozen all the way down, or not plain data in a contract.

    Annotations that cannot be resolved yet (a forward reference) are passed over; a service asks again at start.
    """
    from cauce.immutable import field_problems

    yield from field_problems(
        cls,
        allow_unresolved=_is_being_made(cls),
        home=cls.__module__ if issubclass(cls, IntegrationEvent) else None,
        not_secret=frozenset(described.not_secret) if (described := cls.__dict__.get("__cauce__")) else frozenset(),
    )


def _is_being_made(cls: type) -> bool:
    """Whether the module still runs: its names need not all be there yet."""
    module = sys.modules.get(cls.__module__)
    return getattr(module, cls.__qualname__.partition(".")[0], None) is None
