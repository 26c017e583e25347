"""A callable that hears, its registration, and its stable identity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from cauce.events import names
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe
from cauce.listeners.effects import Effect
from cauce.listeners.retry import Retry

__all__ = ["MARK", "Kind", "Listener", "Parameter", "Registration", "When", "consumer_name"]


When: TypeAlias = Literal["in_transaction", "after_commit", "durable"]


Kind: TypeAlias = type[DomainEvent] | type[IntegrationEvent]


MARK = "__cauce_on__"


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
