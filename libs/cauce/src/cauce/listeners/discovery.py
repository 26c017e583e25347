"""Listeners of modules, functions and objects."""

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from types import MethodType, ModuleType, UnionType
from typing import Any, cast

from cauce.listeners.listener import MARK, Listener, Parameter, Registration

__all__ = ["listeners_in", "unregistered_classes"]


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
                marked = any(hasattr(method, MARK) for method in vars(value).values())
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
        if hasattr(thing, MARK):
            yield cast("Callable[..., Any]", thing)
    elif not isinstance(thing, type):
        seen: set[str] = set()
        for base in reversed(type(thing).__mro__):
            for attribute in vars(base):
                if attribute not in seen and hasattr(getattr(type(thing), attribute, None), MARK):
                    seen.add(attribute)
                    yield cast("Callable[..., Any]", getattr(thing, attribute))


def _is_marked_function(value: object) -> bool:
    """Also what another decorator made of a listener, whatever it is, as long as it can be called."""
    return callable(value) and not isinstance(value, type) and hasattr(value, MARK)


def _nothing_found(thing: object) -> str:
    if isinstance(thing, type):
        return f"{thing.__name__} is a class; register an instance of it: {thing.__name__}(…)"
    label = getattr(thing, "__name__", None) or type(thing).__name__
    return f"{label} has no listener: no function of it is decorated with @on(…)"


def _listeners_of(call: Callable[..., Any], problems: list[str]) -> Iterable[Listener]:
    registrations: tuple[Registration, ...] = getattr(call, MARK)
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
