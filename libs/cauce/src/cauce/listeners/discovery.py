"""Listeners of modules, functions and objects."""

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import MethodType, ModuleType, UnionType
from typing import Any, cast

from cauce.listeners.listener import MARK, Listener, Parameter, Registration

__all__ = ["listeners_in", "unregistered_classes"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
            # A listener imported from elsewhere belongs to the module it was written in. A partial does not tell.
            own = home == thing.__name__ or home.startswith(thing.__name__ + ".") or _is_partial(value)
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


def _is_partial(value: object) -> bool:
    return isinstance(value, partial)


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
    function = _written(call)
    default_name = f"{function.__module__}.{function.__qualname__}".replace(".<locals>", "")
    code = getattr(function, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code is not None else default_name
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # an annotation is any expression, and evaluating it can raise anything
        problems.append(
            f"{default_name}: a parameter's type cannot be resolved ({error}); import it at module level, not under "
            f"TYPE_CHECKING · {where}"
        )
        return
    parameters = list(inspect.signature(call).parameters.values())
    if found := list(_parameter_problems(call, parameters)):
        problems.extend(f"{default_name}: {problem} · {where}" for problem in found)
        if not parameters or parameters[0].kind not in _POSITIONAL:
            return
    # A decorator may make a plain function of an async one, and the other way round.
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    for registration in registrations:
        name = registration.name or default_name
        problems.extend(_event_problems(name, registration, hints.get(parameters[0].name), where))
        if registration.blocking and inspect.iscoroutinefunction(call):
            problems.append(f"{name}: blocking=True is for plain functions; this one is async · {where}")
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            problems.append(f"{name} is a generator, so calling it would run nothing; remove the yield · {where}")
        yield Listener(
            name=name,
            call=call,
            registration=registration,
            is_async=is_async,
            parameters=tuple(_parameters(call, parameters[1:], hints)),
            where=where,
        )


def _written(call: Any) -> Any:
    """The function as it was written: behind a method, a partial, and what decorators with `wraps` made of it."""
    while True:
        if isinstance(call, partial):
            call = call.func
        elif hasattr(call, "__func__"):
            call = call.__func__
        elif hasattr(call, "__wrapped__"):
            call = call.__wrapped__
        elif not hasattr(call, "__qualname__"):  # an object that can be called, inside a partial
            call = type(call).__call__
        else:
            return call


def _parameter_problems(call: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> Iterator[str]:
    """What is wrong with the parameters, whatever the registration says."""
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        yield (
            "its parameters are hidden behind *args, as a decorator does that is written without functools.wraps; "
            "add @functools.wraps to it, or name the event as the first parameter"
        )
    elif not parameters or parameters[0].kind not in _POSITIONAL:
        yield "a listener's first parameter is the event"
    elif parameters[0].name == "self" and not hasattr(call, "__self__"):
        owner = str(getattr(call, "__qualname__", "")).rpartition(".")[0].rpartition(".")[2] or "TheClass"
        yield f"it is a method, and its object is missing; register the object: modules=[{owner}(…)]"
    for one in parameters[1:]:
        if one.kind is inspect.Parameter.POSITIONAL_ONLY:
            yield (
                f"the parameter {one.name!r} is positional-only, and what a listener needs is given by name; "
                "remove the '/'"
            )
        if _is_fastapis(one.default):
            yield (
                f"the parameter {one.name!r} has FastAPI's {type(one.default).__name__}(…) as its default, which is "
                "for requests, and nobody makes one here; remove the default, and let the service provide it: "
                "provide={TheType: lambda tx: …}"
            )


def _is_fastapis(default: object) -> bool:
    """Without importing it: a library for events need not have it."""
    return any(base.__module__ == "fastapi.params" for base in type(default).__mro__)


def _parameters(
    call: Callable[..., Any], declared: list[inspect.Parameter], hints: dict[str, Any]
) -> Iterator[Parameter]:
    bound = call.keywords if isinstance(call, partial) else {}
    for parameter in declared:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if parameter.name in bound:
            continue
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
