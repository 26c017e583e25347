"""Which events a bus or a service can meet, and what is wrong between them and the listeners."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from cauce.errors import did_you_mean
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe, find_field_problems
from cauce.events.names import is_pattern
from cauce.listeners.discovery import listeners_in, unregistered_classes
from cauce.listeners.listener import Listener

__all__ = ["collect", "in_order", "known_events", "problems_between"]


def collect(things: Iterable[object], problems: list[str]) -> list[Listener]:
    """The listeners of all `things`, in order; whatever is wrong with them goes to `problems`."""
    things = list(things)
    found = [listener for thing in things for listener in listeners_in(thing, problems)]
    problems.extend(unregistered_classes(things))
    problems.extend(_doubles(found))
    return found


def in_order(listeners: Iterable[Listener], event_type: type[Event]) -> list[Listener]:
    """Those that hear `event_type`: by name first, then by pattern, each as registered."""
    found = [(listener, listener.hears(event_type)) for listener in listeners]
    return [
        *(listener for listener, how in found if how == "exactly"),
        *(listener for listener, how in found if how == "by_pattern"),
    ]


def known_events(
    things: Iterable[object], listeners: Iterable[Listener], published: Iterable[type[Event]] = ()
) -> tuple[type[Event], ...]:
    """The event classes that listeners and `published` name, that modules contain, or that are heard by text."""
    listeners = list(listeners)
    found: dict[type[Event], None] = {}
    for listener in listeners:
        found.update((target, None) for target in listener.registration.targets if not isinstance(target, str))
    found.update((event_type, None) for event_type in published)
    for thing in things:
        if isinstance(thing, ModuleType):
            found.update((event_type, None) for event_type in _events_in(thing))
    # Whoever hears by name or pattern need not name the class; it is looked for where the listener was written.
    by_text = [one for one in listeners if any(isinstance(target, str) for target in one.registration.targets)]
    for home in dict.fromkeys(map(_home, by_text)):
        if home in sys.modules:
            visible = _events_in(sys.modules[home])
            found.update((one, None) for one in visible if any(listener.hears(one) for listener in by_text))
    return tuple(found)


def _events_in(module: ModuleType) -> list[type[Event]]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Event) and value.__dict__.get("__cauce__")
    ]


def problems_between(
    listeners: Sequence[Listener], known: Iterable[type[Event]], *, apart: Callable[[Listener], object]
) -> Iterator[str]:
    """What cannot work between these listeners and these events, one sentence each.

    `apart`: a function may hear one event twice if this differs, as before and after the commit.
    """
    known = list(known)
    for event_type in known:
        travels = any(one.registration.when == "durable" and one.hears(event_type) for one in listeners)
        for problem in find_field_problems(event_type, travels=travels):
            yield f"{event_type.__name__}: {problem}"
    yield from _clashes(known)
    yield from _unheard_names(listeners, known)
    yield from _heard_twice(listeners, known, apart)


def _doubles(listeners: Sequence[Listener]) -> Iterator[str]:
    heard: set[tuple[object, ...]] = set()
    names: dict[str, Listener] = {}
    for listener in listeners:
        for target in listener.registration.targets:
            registered = (listener.key, target, listener.registration.when)
            if registered in heard:
                label = target if isinstance(target, str) else target.__name__
                yield f"{listener.name} is registered twice for {label} · {listener.where}"
            heard.add(registered)
        other = names.setdefault(listener.name, listener)
        if other.key != listener.key:
            yield (
                f"two listeners are called {listener.name}: {other.where} and {listener.where}; "
                'give one a name of its own: @on(…, name="…")'
            )


def _clashes(known: Iterable[type[Event]]) -> Iterator[str]:
    by_name: dict[str, type[Event]] = {}
    for event_type in known:
        described = describe(event_type)
        for name in (described.name, *described.earlier_names):
            other = by_name.setdefault(name, event_type)
            if other is not event_type:
                yield f"two event classes are called {name!r}: {_path(other)} and {_path(event_type)}"


def _unheard_names(listeners: Iterable[Listener], known: Iterable[type[Event]]) -> Iterator[str]:
    """Exact names in `@on` that no event bears: a typo, nearly always."""
    names: dict[type[Event], set[str]] = {
        # What arrives must be decoded, so its class must be at hand; a domain event is made by whoever publishes it.
        IntegrationEvent: {describe(one).name for one in known if issubclass(one, IntegrationEvent)},
        DomainEvent: {described.name for one in _all_below(DomainEvent) if (described := one.__dict__["__cauce__"])},
    }
    for listener in listeners:
        possible = names[listener.registration.kind]
        for target in listener.registration.targets:
            if isinstance(target, str) and not is_pattern(target) and target not in possible:
                yield (
                    f"{listener.name} hears {target!r}, and no event known here has that name."
                    f"{did_you_mean(target, possible)} Correct it, or import the event's class there · {listener.where}"
                )


def _all_below(cls: type[Event]) -> Iterator[type[Event]]:
    for below in cls.__subclasses__():
        yield below
        yield from _all_below(below)


def _heard_twice(
    listeners: Sequence[Listener], known: Iterable[type[Event]], apart: Callable[[Listener], object]
) -> Iterator[str]:
    several = [one for one in listeners if sum(other.key == one.key for other in listeners) > 1]
    for event_type in known:
        heard: dict[tuple[object, ...], Listener] = {}
        for listener in several:
            if listener.hears(event_type):
                first = heard.setdefault((listener.key, apart(listener)), listener)
                if first is not listener and not _same_target(first, listener):
                    yield (
                        f"{listener.name} would be called twice for {event_type.__name__}, by "
                        f"{_said(first)} and by {_said(listener)}; leave one out · {listener.where}"
                    )


def _same_target(one: Listener, other: Listener) -> bool:
    """Told already, as registered twice."""
    return (
        not set(one.registration.targets).isdisjoint(other.registration.targets)
        and one.registration.when == other.registration.when
    )


def _said(listener: Listener) -> str:
    targets = (one if isinstance(one, str) else one.__name__ for one in listener.registration.targets)
    return f"@on({', '.join(targets)})"


def _home(listener: Listener) -> str:
    function: Any = getattr(listener.call, "__func__", listener.call)
    return str(getattr(function, "__module__", ""))


def _path(event_type: type[Event]) -> str:
    return f"{event_type.__module__}.{event_type.__qualname__}"
