"""The two ports application code publishes to, and the bus inside one process.

Listeners run in turn, in this order: those that named the event (by class or exact name) as they were registered,
then those that hear it by pattern, as they were registered.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, Protocol, TypeAlias, cast

from cauce.errors import ConfigurationError, ListenersFailedError, PublishError, did_you_mean
from cauce.events.envelope import Emission, Envelope, current_emission
from cauce.events.event import DomainEvent, Event, IntegrationEvent, check_fields, describe
from cauce.listeners.calling import finish, in_a_thread, refuse_lazy
from cauce.listeners.catalog import collect, in_order, known_events, problems_between
from cauce.listeners.context import Context
from cauce.listeners.listener import Listener

__all__ = ["Bus", "DomainEventBus", "IntegrationEventBus", "not_an_event"]


class DomainEventBus(Protocol):
    """What code inside a service asks for to say that something happened."""

    async def publish(self, event: DomainEvent, /) -> None:
        """Tell this service's listeners. When it returns, those that run at publish have run."""
        ...


class IntegrationEventBus(Protocol):
    """What code inside a service asks for to tell other services."""

    async def publish(self, event: IntegrationEvent, /) -> Envelope:
        """Accept the event for sending, as part of the running transaction. The envelope holds its id.

        Nothing has left the process when it returns: the event goes out after the commit, or never.
        """
        ...


def not_an_event(thing: object, known: Iterable[type[Event]] = ()) -> str:
    """What to say to somebody who publishes this; `known` are the events that could be published instead."""
    if isinstance(thing, type) and issubclass(cast("type[object]", thing), Event):
        name = cast("type[Event]", thing).__name__
        return f"publish({name}): {name} is the class; publish one of it: {name}(…)."
    name = type(thing).__name__
    names = sorted({one.__name__ for one in known})
    instead = f", or publish one of: {', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}" if names else ""
    return (
        f"publish({name}): {name} is not an event.{did_you_mean(name, names)} "
        f"Derive it from DomainEvent or IntegrationEvent{instead}."
    )


_NAMED = 8


_Call: TypeAlias = Callable[[Any], Any]
_MAX_PLANS = 4096

# Half of what publishing costs is these. Bound once: for an imported name, Python builds the method anew at every call.
_current, _enter, _leave = current_emission.get, current_emission.set, current_emission.reset
_here = cast("Callable[[], Emission]", _current)
"""Inside a listener's call, where there always is one."""


class Bus:
    """Domain events between the modules of one process, without a transaction, a store or a broker.

    `things` are modules, decorated functions, or objects with decorated methods. Every listener is independent: all
    run, in turn, and the errors of those that failed are raised together as ListenersFailedError. Nothing is committed
    here, so `when` makes no difference. Listeners may ask for a Context or an Envelope; whoever needs a Transaction
    needs a Service.

    Raises ConfigurationError with everything that is wrong with the listeners.
    """

    __slots__ = ("_async_plans", "_listeners", "_sync_plans", "_things", "source")

    def __init__(self, things: Iterable[object] = (), *, source: str = "bus") -> None:
        self.source = source
        self._things: list[object] = []
        self._listeners: list[Listener] = []
        self._sync_plans: dict[type, tuple[_Call, bool, str]] = {}
        """One call that makes them all, whether one of them asks for the envelope, and the name of the only one."""
        self._async_plans: dict[type, tuple[tuple[_Call, bool, str], ...]] = {}
        self.subscribe(*things)

    def subscribe(self, *things: object) -> None:
        """Add listeners; those already there stay before them. On ConfigurationError nothing was added."""
        problems: list[str] = []
        everything = [*self._things, *things]
        listeners = collect(everything, problems)
        problems.extend(problems_between(listeners, known_events(everything, listeners), apart=_once))
        for listener in listeners:
            problems.extend(_needs_a_service(listener))
        if problems:
            raise ConfigurationError(problems, where="the listeners")
        self._things = everything
        self._listeners = listeners
        self._sync_plans.clear()
        self._async_plans.clear()

    def emit(self, event: DomainEvent) -> None:
        """Call the listeners here and now, from plain code. All must be plain functions (PublishError otherwise).

        One that returns something to await has failed: PublishError is among its errors, and nothing waits for it.
        """
        try:
            call, asked, only = self._sync_plans[type(event)]
        except KeyError:
            call, asked, only = self._plan_sync(event)
        outer = _current()
        if outer is not None and outer.outer is not None:
            outer.settle()
        made = None
        if asked:  # the time is taken before anybody runs
            made = Envelope.of(event, source=self.source, cause=None if outer is None else outer.envelope)
        token = _enter(Emission(event, outer, self.source, made))
        errors: list[Exception] | None = None
        try:
            result = call(event)
            if result is not None:
                _refuse_unfinished(result, only)
        except _SeveralFailedError as several:
            errors = several.errors
        except Exception as error:
            errors = [error]
        finally:
            _leave(token)
        if errors:
            raise ListenersFailedError(describe(type(event)).name, errors)

    async def publish(self, event: DomainEvent, /) -> None:
        """Await the listeners, one after the other. Their errors are raised together when all have run."""
        try:
            calls = self._async_plans[type(event)]
        except KeyError:
            calls = self._plan_async(event)
        outer = _current()
        if outer is not None and outer.outer is not None:
            outer.settle()
        token = _enter(Emission(event, outer, self.source))
        errors: list[Exception] | None = None
        try:
            for call, is_async, name in calls:
                try:
                    result = await call(event) if is_async else call(event)
                    if result is not None:
                        await finish(result, name)
                except Exception as error:  # independent listeners: the rest still run
                    errors = [*(errors or ()), error]
        finally:
            _leave(token)
        if errors:
            raise ListenersFailedError(describe(type(event)).name, errors)

    def _plan_sync(self, event: object) -> tuple[_Call, bool, str]:
        listeners = self._listeners_for(event)
        for listener in listeners:
            if listener.is_async or listener.registration.blocking:
                how = "is async" if listener.is_async else "blocks"
                raise PublishError(f"{listener.name} {how}, and emit() cannot wait for it. Use: await bus.publish(…)")
        if len(self._sync_plans) >= _MAX_PLANS:
            self._sync_plans.clear()
        if len(listeners) == 1:  # the usual case: a function between it and `emit` would cost a tenth of the whole
            call, only = _bound(listeners[0]), listeners[0].name
        else:
            call, only = _in_turn([_complete(_bound(listener), listener.name) for listener in listeners]), ""
        plan = call, any(map(_asks, listeners)), only
        self._sync_plans[type(event)] = plan
        return plan

    def _plan_async(self, event: object) -> tuple[tuple[_Call, bool, str], ...]:
        listeners = self._listeners_for(event)
        if len(self._async_plans) >= _MAX_PLANS:
            self._async_plans.clear()
        plan = tuple((_bound(one), _always_awaited(one), one.name) for one in listeners)
        if any(map(_asks, listeners)):
            plan = ((_stamp, False, ""), *plan)
        self._async_plans[type(event)] = plan
        return plan

    def _known(self) -> list[type[Event]]:
        return [one for one in known_events(self._things, self._listeners) if issubclass(one, DomainEvent)]

    def _listeners_for(self, event: object) -> list[Listener]:
        if not isinstance(event, Event):
            raise PublishError(not_an_event(event, self._known()))
        if not isinstance(event, DomainEvent):
            raise PublishError(
                f"{type(event).__name__} is an integration event: it is for other services, and a Bus ends with this "
                "process. Publish it in a service's transaction."
            )
        describe(type(event))
        check_fields(type(event))
        return in_order(self._listeners, type(event))


def _once(_: Listener) -> None:
    """Here is no commit, so before and after it are the same."""


def _needs_a_service(listener: Listener) -> Iterator[str]:
    if listener.registration.kind is IntegrationEvent:
        yield f"{listener.name} hears integration events, which arrive over a transport; give it to a Service"
    for parameter in listener.parameters:
        if parameter.type not in (Context, Envelope) and not parameter.optional:
            yield (
                f"{listener.name} needs {parameter.name!r} ({getattr(parameter.type, '__name__', parameter.type)}), "
                "which a Bus cannot provide; give it to a Service"
            )


class _SeveralFailedError(Exception):
    """On its way from `_in_turn` to `emit`."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors


def _in_turn(calls: Sequence[_Call]) -> _Call:
    """One call that makes them all, whatever becomes of each."""

    def in_turn(event: object) -> None:
        errors: list[Exception] | None = None
        for call in calls:
            try:
                call(event)
            except Exception as error:  # independent listeners: the rest still run
                errors = [*(errors or ()), error]
        if errors:
            raise _SeveralFailedError(errors)

    return in_turn


def _complete(call: _Call, name: str) -> _Call:
    """The call, and an error if what it returns is still to be done."""

    def complete(event: object) -> None:
        result = call(event)
        if result is not None:
            _refuse_unfinished(result, name)

    return complete


def _refuse_unfinished(result: object, name: str) -> None:
    refuse_lazy(result, name)
    if inspect.isawaitable(result):
        if isinstance(result, CoroutineType):
            result.close()
        raise PublishError(f"{name} returned something to await, and emit() cannot wait. Use: await bus.publish(…)")


def _asks(listener: Listener) -> bool:
    return any(parameter.type in (Context, Envelope) for parameter in listener.parameters)


def _stamp(_: object) -> None:
    _here().stamp()


def _always_awaited(listener: Listener) -> bool:
    return listener.registration.blocking or inspect.iscoroutinefunction(listener.call)


def _bound(listener: Listener) -> _Call:
    call = _with_circumstances(listener) if _asks(listener) else listener.call
    if listener.registration.blocking:
        name = listener.name

        async def in_thread(event: object) -> object:
            return await in_a_thread(partial(call, event), name)

        return in_thread
    return call


def _with_circumstances(listener: Listener) -> _Call:
    call, name = listener.call, listener.name
    wanted = {one.name: one.type for one in listener.parameters if one.type in (Context, Envelope)}
    second = list(inspect.signature(call).parameters.values())[1]

    def with_context(event: object) -> Any:
        return call(event, Context(envelope=_here().envelope, listener=name))

    def with_envelope(event: object) -> Any:
        return call(event, _here().envelope)

    def with_names(event: object) -> Any:
        envelope = _here().envelope
        context = Context(envelope=envelope, listener=name)
        return call(event, **{word: context if type_ is Context else envelope for word, type_ in wanted.items()})

    if list(wanted) == [second.name] and second.kind is second.POSITIONAL_OR_KEYWORD:
        # Given by its place, which costs a fifth of giving it by name.
        return with_context if wanted[second.name] is Context else with_envelope
    return with_names
