"""`@on`: how a function or method says which events it hears.

The decorator only writes down what was said and hands the function back unchanged; a Bus or a Service collects it
later and checks everything at once. Nothing is registered anywhere by importing a module.
"""

import typing
from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from cauce.errors import DefinitionError
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe
from cauce.listeners.effects import Effect
from cauce.listeners.listener import MARK, Kind, Registration, When
from cauce.listeners.retry import Retry

__all__ = ["on"]


E = TypeVar("E", bound=Event)
S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")

_WHEN = typing.get_args(When)


class _On(Generic[E]):
    """The decorator made by `on`: it accepts a function or a method whose event parameter can be an E."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration

    @overload
    def __call__(self, listener: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]: ...
    @overload
    def __call__(self, listener: Callable[Concatenate[S, E, P], R]) -> Callable[Concatenate[S, E, P], R]: ...
    def __call__(self, listener: Callable[..., Any]) -> Callable[..., Any]:
        wrapper = type(listener).__name__
        if wrapper in ("staticmethod", "classmethod"):
            raise DefinitionError(f"@on above @{wrapper} is not seen; write @on(…) beneath it")
        label = getattr(listener, "__name__", None) or repr(listener)
        if isinstance(listener, MethodType):
            raise DefinitionError(
                f"@on({label}): a method of an object cannot be marked; write @on(…) above it in its class, and register "
                "the object"
            )
        if isinstance(listener, type) or not (callable(listener) and _is_function(listener)):
            raise DefinitionError(f"@on is for functions and methods, and {label} is neither")
        earlier: tuple[Registration, ...] = getattr(listener, MARK, ())
        # Decorators apply from the bottom up; keep the order a reader sees.
        try:
            setattr(listener, MARK, (self._registration, *earlier))
        except AttributeError:
            raise DefinitionError(f"@on({label}): it cannot be marked; write a function that calls it") from None
        return listener


def _is_function(listener: Callable[..., Any]) -> bool:
    """Also a partial, on every version of Python, and what other decorators make of functions."""
    return isinstance(listener, partial) or callable(getattr(type(listener), "__get__", None))


@overload
def on(
    target: type[E],
    /,
    *targets: type[E],
    when: When | None = None,
    name: str | None = None,
    earlier_names: Sequence[str] = (),
    blocking: bool = False,
    retry: Retry | None = None,
    effect: Effect | None = None,
    limit_s: float = 30.0,
    shared_transaction: bool = False,
) -> _On[E]: ...
@overload
def on(
    target: str,
    /,
    *targets: str,
    kind: type[E],
    when: When | None = None,
    name: str | None = None,
    earlier_names: Sequence[str] = (),
    blocking: bool = False,
    retry: Retry | None = None,
    effect: Effect | None = None,
    limit_s: float = 30.0,
    shared_transaction: bool = False,
) -> _On[E]: ...
def on(
    *targets: type[Event] | str,
    kind: type[Event] | None = None,
    when: When | None = None,
    name: str | None = None,
    earlier_names: Sequence[str] = (),
    blocking: bool = False,
    retry: Retry | None = None,
    effect: Effect | None = None,
    limit_s: float = 30.0,
    shared_transaction: bool = False,
) -> _On[Any]:
    """Hear these events: by class, by several classes, by exact name, or by pattern.

    For names and patterns `kind` says which of the two kinds is meant. `when` is for domain events:
    `"in_transaction"` (the default) runs at publish, on the publisher's transaction, and its error reaches the
    publisher; `"after_commit"` runs once the transaction is known to be committed, and is lost if the process dies
    first; `"durable"` is written down in the publisher's transaction and runs after it, in one of its own, until it
    has succeeded or is a dead letter. Integration events are heard when they arrive, in a transaction of the
    listener's own; over a durable transport they are tried again like durable ones.

    `retry` says how often and when; `effect` is for a listener whose effect is outside the database (a mail, an HTTP
    call): it runs without a transaction, and says what is to happen when a process dies in the middle. `limit_s`
    bounds one call of a durable or integration listener; running longer is a failure like any other.

    `shared_transaction=True` is for a listener of integration events that does nothing but change the session: up to
    a hundred events of different keys may then share one transaction, which is several times faster. If one of them
    fails, all are rolled back and handled again one by one; so a call may be repeated whose own work succeeded, and
    what it did outside the session stays done. An event that is also heard by a listener without it is handled alone.

    `name` is the listener's stable identity (default: module and qualified name): under it a service's database keeps
    what the listener has handled, what waits for it and its dead letters. `earlier_names`: the names it had before, so
    that it keeps all that when it, or its module, is renamed. A plain function must not block;
    one that does says `blocking=True` and runs in a thread, without a transaction.

    Raises DefinitionError for what can be seen here; the rest is checked when the service starts.
    """
    if not targets:
        raise DefinitionError("@on() hears nothing. Name an event class: @on(UserCreated)")
    if when is not None and when not in _WHEN:
        raise DefinitionError(f"@on(when={when!r}): when is one of {', '.join(map(repr, _WHEN))}")
    kinds = {_kind_of(target, kind) for target in targets}
    if len(kinds) > 1:
        raise DefinitionError(
            "@on: one listener hears domain events or integration events, not both; write two @on lines"
        )
    heard = kinds.pop()
    if heard is IntegrationEvent and when is not None:
        raise DefinitionError(
            f"@on(…, when={when!r}): integration events are heard when they arrive from another service, in a "
            "transaction of their own; leave `when` out"
        )
    if heard is DomainEvent and when != "durable" and (retry is not None or effect is not None):
        raise DefinitionError('@on(…, retry= or effect=): only what is written down is tried again; add when="durable"')
    if isinstance(earlier_names, str):
        raise DefinitionError(f"@on(…, earlier_names={earlier_names!r}): a tuple of names: ({earlier_names!r},)")
    if earlier_names and heard is DomainEvent and when != "durable":
        raise DefinitionError('@on(…, earlier_names=…): only what is written down has a past; add when="durable"')
    if shared_transaction and (heard is DomainEvent or effect is not None or blocking):
        raise DefinitionError(
            "@on(…, shared_transaction=True): only for integration events whose whole effect is in the session; a call "
            "with an effect elsewhere, or in a thread, could not be undone when another one fails"
        )
    registration = Registration(
        targets=targets,
        kind=heard,
        when=when or "in_transaction",
        name=name,
        earlier_names=tuple(earlier_names),
        blocking=blocking,
        retry=Retry() if retry is None else retry,
        effect=effect,
        limit_s=limit_s,
        shared_transaction=shared_transaction,
    )
    return _On(registration)


def _kind_of(target: object, kind: type[Event] | None) -> Kind:
    if isinstance(target, str):
        if kind not in (DomainEvent, IntegrationEvent):
            raise DefinitionError(f"@on({target!r}): say which kind: kind=DomainEvent or kind=IntegrationEvent")
        return kind
    if not (isinstance(target, type) and issubclass(target, Event)):
        label = cast("type[Any]", target).__name__ if isinstance(target, type) else repr(target)
        raise DefinitionError(
            f"@on({label}): not an event. "
            "Derive the class from DomainEvent or IntegrationEvent, or give a name with kind=…"
        )
    describe(target)
    own: Kind = IntegrationEvent if issubclass(target, IntegrationEvent) else DomainEvent
    if kind is not None and kind is not own:
        raise DefinitionError(f"@on({target.__name__}, kind={kind.__name__}): {target.__name__} is a {own.__name__}")
    return own
