"""`@on`: how a function or method says which events it hears.

The decorator only writes down what was said and hands the function back unchanged; a Bus or a Service collects it
later and checks everything at once. Nothing is registered anywhere by importing a module.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import MethodType, ModuleType, UnionType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeAlias, TypeVar, cast, overload

from cauce.errors import DefinitionError
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe
from cauce.events.names import is_pattern
from cauce.listeners.effects import Effect
from cauce.listeners.retry import Retry

__all__ = ["Kind", "Listener", "Parameter", "Registration", "When", "listeners_in", "on", "unregistered_classes"]

When: TypeAlias = Literal["in_transaction", "after_commit", "durable"]
Kind: TypeAlias = type[DomainEvent] | type[IntegrationEvent]

E = TypeVar("E", bound=Event)
S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")

_MARK = "__cauce_on__"
_WHEN = typing.get_args(When)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One `@on(...)`, as written."""

    targets: tuple[type[Event] | str, ...]
    kind: Kind
    when: When
    name: str | None
    blocking: bool
    retry: Retry
    effect: Effect | None
    limit_s: float
    shared_transaction: bool


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
        if isinstance(listener, type) or not callable(getattr(listener, "__get__", None)):
            label = getattr(listener, "__name__", None) or repr(listener)
            raise DefinitionError(f"@on is for functions and methods, and {label} is neither")
        earlier: tuple[Registration, ...] = getattr(listener, _MARK, ())
        # Decorators apply from the bottom up; keep the order a reader sees.
        setattr(listener, _MARK, (self._registration, *earlier))
        return listener


@overload
def on(
    target: type[E],
    /,
    *targets: type[E],
    when: When | None = None,
    name: str | None = None,
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

    `name` is the listener's stable identity (default: module and qualified name). A plain function must not block;
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
        blocking=blocking,
        retry=retry or Retry(),
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
        from cauce.events.names import matches

        if not issubclass(event_type, self.registration.kind):
            return None
        name = describe(event_type).name
        best: Literal["exactly", "by_pattern"] | None = None
        for target in self.registration.targets:
            if target is event_type or target == name:
                return "exactly"
            if isinstance(target, str) and is_pattern(target) and matches(target, name):
                best = "by_pattern"
        return best

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two listeners that are the same function, or the same method of the same object."""
        own: Any = getattr(self.call, "__self__", None)
        return (getattr(self.call, "__func__", self.call), id(own) if own is not None else None)


def listeners_in(thing: object, problems: list[str]) -> list[Listener]:
    """The listeners of a module, a decorated function, or an object with decorated methods, in written order.

    What cannot be a listener is described in `problems`.
    """
    decorated = list(_decorated(thing))
    if not decorated:
        problems.append(_nothing_found(thing))
    return [listener for call in decorated for listener in _listeners_of(call, problems)]


def unregistered_classes(things: Iterable[object]) -> Iterator[str]:
    """Classes of the modules with decorated methods and no instance among `things`: they would hear nothing."""
    everything = list(things)
    for module in everything:
        if isinstance(module, ModuleType):
            for value in dict.fromkeys(_classes_of(module)):
                marked = any(hasattr(method, _MARK) for method in vars(value).values())
                if marked and not any(isinstance(thing, value) for thing in everything):
                    yield (
                        f"{module.__name__}.{value.__name__} has listeners, and no instance of it is registered: "
                        f"modules=[…, {value.__name__}(…)]"
                    )


def _classes_of(module: ModuleType) -> Iterator[type[Any]]:
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield value


def _decorated(thing: object) -> Iterator[Callable[..., Any]]:
    if isinstance(thing, ModuleType):
        seen_functions: list[object] = []  # an alias of a function is the same listener
        for value in vars(thing).values():
            home = str(getattr(value, "__module__", ""))
            # A listener imported from elsewhere belongs to the module it was written in.
            own = home == thing.__name__ or home.startswith(thing.__name__ + ".")
            if own and _is_marked_function(value) and not any(value is other for other in seen_functions):
                seen_functions.append(value)
                yield value
    elif isinstance(thing, MethodType) or _is_marked_function(thing):
        if hasattr(thing, _MARK):
            yield cast("Callable[..., Any]", thing)
    elif not isinstance(thing, type):
        seen: set[str] = set()
        for base in reversed(type(thing).__mro__):
            for attribute in vars(base):
                if attribute not in seen and hasattr(getattr(type(thing), attribute, None), _MARK):
                    seen.add(attribute)
                    yield cast("Callable[..., Any]", getattr(thing, attribute))


def _is_marked_function(value: object) -> bool:
    """Also what another decorator made of a listener, whatever it is, as long as it can be called."""
    return callable(value) and not isinstance(value, type) and hasattr(value, _MARK)


def _nothing_found(thing: object) -> str:
    if isinstance(thing, type):
        return f"{thing.__name__} is a class; register an instance of it: {thing.__name__}(…)"
    label = getattr(thing, "__name__", None) or type(thing).__name__
    return f"{label} has no listener: no function of it is decorated with @on(…)"


def _listeners_of(call: Callable[..., Any], problems: list[str]) -> Iterable[Listener]:
    registrations: tuple[Registration, ...] = getattr(call, _MARK)
    function: Any = inspect.unwrap(getattr(call, "__func__", call))
    default_name = f"{function.__module__}.{function.__qualname__}".replace(".<locals>", "")
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # an annotation is any expression, and evaluating it can raise anything
        problems.append(
            f"{default_name}: a parameter's type cannot be resolved ({error}); import it at module level, not under "
            f"TYPE_CHECKING · {where}"
        )
        return
    parameters = list(inspect.signature(call).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional:
        problems.append(f"{default_name}: a listener's first parameter is the event · {where}")
        return
    problems.extend(
        f"{default_name}: the parameter {one.name!r} is positional-only, and what a listener needs is given by name; "
        f"remove the '/' · {where}"
        for one in parameters[1:]
        if one.kind is inspect.Parameter.POSITIONAL_ONLY
    )
    # A decorator may make a plain function of an async one, and the other way round.
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    for registration in registrations:
        name = registration.name or default_name
        problems.extend(_event_problems(name, registration, hints.get(parameters[0].name), where))
        if registration.blocking and is_async:
            problems.append(f"{name}: blocking=True is for plain functions; this one is async · {where}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            problems.append(f"{name} is a generator, so calling it would run nothing; remove the yield · {where}")
        yield Listener(
            name=name,
            call=call,
            registration=registration,
            is_async=is_async,
            parameters=tuple(_parameters(parameters[1:], hints)),
            where=where,
        )


def _parameters(declared: list[inspect.Parameter], hints: dict[str, Any]) -> Iterator[Parameter]:
    for parameter in declared:
        if parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            optional = parameter.default is not inspect.Parameter.empty
            wanted = _without_none(hints.get(parameter.name))
            yield Parameter(name=parameter.name, type=wanted, optional=optional)


def _without_none(hint: Any) -> Any:
    """`Transaction | None` asks for a Transaction."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return options[0] if len(options) == 1 else hint
    return hint


def _event_problems(name: str, registration: Registration, hint: Any, where: str) -> Iterator[str]:
    """A listener registered for one event and written for another."""
    accepted = [option for option in (typing.get_args(hint) or (hint,)) if isinstance(option, type)]
    if hint is None or hint is Any or not accepted:
        return
    for target in registration.targets:
        wanted = target if isinstance(target, type) else registration.kind
        if not any(issubclass(wanted, option) for option in accepted):
            label = wanted.__name__ if isinstance(target, type) else repr(target)
            written_for = " | ".join(option.__name__ for option in accepted)
            better = "" if isinstance(target, type) or len(accepted) > 1 else f"; name the class: @on({written_for})"
            yield f"{name} is registered for {label}, and its event parameter is a {written_for}{better} · {where}"
