"""A callable that hears, its registration, and its stable identity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from cauce.errors import DefinitionError
from cauce.events import names
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe
from cauce.listeners.effects import Effect
from cauce.listeners.retry import Retry

__all__ = ["MARK", "Kind", "Listener", "Parameter", "Registration", "When", "consumer_name"]


When: TypeAlias = Literal["in_transaction", "after_commit", "durable"]


Kind: TypeAlias = type[DomainEvent] | type[IntegrationEvent]


MARK = "__cauce_on__"

_WEEK_S = 604_800
"""The longest limit: a database is told of it, and PostgreSQL counts to 24 days."""
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One `@on(...)`, as written."""

    targets: tuple[type[Event] | str, ...]
    kind: Kind
    when: When
    name: str | None
    earlier_names: tuple[str, ...]
    blocking: bool
    retry: Retry
    effect: Effect | None
    limit_s: float
    shared_transaction: bool

    def __post_init__(self) -> None:
        """Raise DefinitionError for what would be found when an event comes, or never."""
        retry, effect, limit_s = cast("tuple[object, object, object]", (self.retry, self.effect, self.limit_s))
        if not isinstance(retry, Retry):
            raise DefinitionError(f"@on(…, retry={_said(retry)}): write retry=Retry(attempts=…)")
        if effect is not None and not isinstance(effect, Effect):
            raise DefinitionError(f"@on(…, effect={_said(effect)}): write effect=AtLeastOnce() or effect=AtMostOnce()")
        if not (isinstance(limit_s, (int, float)) and 0 < limit_s <= _WEEK_S):
            raise DefinitionError(f"@on(…, limit_s={limit_s!r}): seconds, more than 0, and {_WEEK_S} (a week) at most")
        for name in (*(() if self.name is None else (self.name,)), *self.earlier_names):
            if not _is_name(name):
                raise DefinitionError(
                    f"@on(…): {_said(name)} is no name of a listener: 1 to {_LONGEST_NAME} printable characters, "
                    "without a space at either end"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What a listener needs beyond the event: by type, optional if it has a default."""

    name: str
    type: Any
    optional: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A callable that hears something, ready to be bound to what it needs."""

    name: str
    call: Callable[..., Any]
    registration: Registration
    is_async: bool
    parameters: tuple[Parameter, ...]
    where: str
    """`file:line` of the function, for messages."""

    def hears(self, event_type: type[Event]) -> Literal["exactly", "by_pattern"] | None:
        """How this listener hears the class, if it does."""
        if not issubclass(event_type, self.registration.kind):
            return None
        name = describe(event_type).name
        best: Literal["exactly", "by_pattern"] | None = None
        for target in self.registration.targets:
            if target is event_type or target == name:
                return "exactly"
            if isinstance(target, str) and names.is_pattern(target) and names.matches(target, name):
                best = "by_pattern"
        return best

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two listeners that are the same function, or the same method of the same object."""
        own: Any = getattr(self.call, "__self__", None)
        return (getattr(self.call, "__func__", self.call), id(own) if own is not None else None)


def consumer_name(service: str, listener: Listener) -> str:
    """The stable identity under which a listener's past is kept."""
    return f"{service}/{listener.name}"


def _is_name(name: object) -> bool:
    """Whether every database takes it as a key, and a person can type it."""
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip()


def _said(value: object) -> str:
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"
