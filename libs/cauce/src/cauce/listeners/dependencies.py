"""What listeners need beyond the event, found by type; made for one transaction, or for one call that has none."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from cauce.errors import ConfigurationError, did_you_mean
from cauce.events.envelope import Envelope
from cauce.listeners.context import Context
from cauce.listeners.listener import Listener, Parameter
from cauce.listeners.opened import Opened

__all__ = ["Dependencies", "Factory", "Resolver", "Scope", "ScopeT"]

T = TypeVar("T")


class Scope(Protocol):
    """What things are made for, and what they are made from: a transaction, as far as it matters here."""

    @property
    def session(self) -> object: ...
    async def get(self, wanted: type[T], /) -> T: ...


ScopeT = TypeVar("ScopeT", bound=Scope)

Factory: TypeAlias = Callable[[ScopeT], object] | Callable[[], object]
"""Makes one thing for one transaction; called at most once in it. One that takes nothing needs no transaction.

What it returns is awaited if it is a coroutine. A generator, or what `contextmanager` and `asynccontextmanager` make, is
entered, and left at the end of the transaction or call.
"""

Resolver: TypeAlias = Callable[[type[Any], ScopeT], object | Awaitable[object]]
"""The door to a container: asked for every type that `provide` does not name; raises LookupError if it cannot."""


class Dependencies(Generic[ScopeT]):
    """`provide`, `resolver`, and what Cauce itself gives: Transaction, Context, Envelope and the store's session."""

    def __init__(
        self,
        provide: Mapping[type[Any], Factory[ScopeT]],
        resolver: Resolver[ScopeT] | None,
        *,
        transaction_types: tuple[type[Any], ...],
        session_type: type[Any] | None,
    ) -> None:
        self._provide = dict(provide)
        self._without_transaction = {wanted for wanted, factory in self._provide.items() if _takes_nothing(factory)}
        self._resolver = resolver
        self._transaction_types = transaction_types
        self._session_type = session_type

    def wrong_factories(self) -> Iterator[str]:
        """Entries of `provide` that cannot make anything."""
        for wanted, factory in self._provide.items():
            name = getattr(wanted, "__name__", repr(wanted))
            if isinstance(wanted, str):
                yield f"provide[{wanted!r}]: things are found by type, not by name; write the class"
            if not callable(factory):
                yield (
                    f"provide[{name}] is {factory!r}, not something to call with the transaction: "
                    f"provide={{{name}: lambda tx: …}}, or without one: provide={{{name}: lambda: …}}"
                )
            elif not _takes_at_most_one(factory):
                yield (
                    f"provide[{name}] takes several arguments, and it is called with the transaction alone: "
                    f"provide={{{name}: lambda tx: …}}"
                )

    def problems(self, listener: Listener) -> Iterator[str]:
        """Parameters nothing can fill, and combinations that cannot work."""
        for parameter in listener.parameters:
            if parameter.optional or self._knows(parameter.type):
                continue
            label = getattr(parameter.type, "__name__", None)
            if label is None:
                yield f"{listener.name}: the parameter {parameter.name!r} has no type to find it by · {listener.where}"
            else:
                known = [getattr(one, "__name__", str(one)) for one in self._provide]
                yield (
                    f"{listener.name} needs {label} ({parameter.name!r}), and nothing provides it."
                    f"{did_you_mean(label, known)} Add it to the service: provide={{{label}: lambda tx: …}} · "
                    f"{listener.where}"
                )
        if listener.registration.blocking and self.needs_transaction(listener):
            yield f"{listener.name}: blocking=True runs in a thread, where the transaction cannot go · {listener.where}"
        if listener.registration.effect is not None:
            yield from self._not_for_effects(listener)

    def _not_for_effects(self, listener: Listener) -> Iterator[str]:
        for parameter in listener.parameters:
            if parameter.optional or not self._from_transaction(parameter):
                continue
            label = getattr(parameter.type, "__name__", str(parameter.type))
            if self._is_transaction(parameter.type):
                fix = "change the tables in another listener, which publishes what this one is to do"
            else:
                fix = f"if it needs none, provide it without: provide={{{label}: lambda: …}}"
            yield (
                f"{listener.name} needs {label} ({parameter.name!r}), which belongs to a transaction, and effect=… is "
                f"called without one; {fix} · {listener.where}"
            )

    def needs_transaction(self, listener: Listener) -> bool:
        """Whether one is to be opened for a call of it. An effect outside the database never has one."""
        return listener.registration.effect is None and any(map(self._from_transaction, listener.parameters))

    async def arguments(
        self, listener: Listener, context: Callable[[], Context], tx: ScopeT | None, opened: Opened
    ) -> dict[str, object]:
        """The keyword arguments of one call. What is made for this call alone is left with `opened`."""
        given: dict[str, object] = {}
        for parameter in listener.parameters:
            if parameter.type is Context:
                given[parameter.name] = context()
            elif parameter.type is Envelope:
                given[parameter.name] = context().envelope
            elif self._knows(parameter.type) and (tx is not None or not self._from_transaction(parameter)):
                try:
                    made = await (self.make(parameter.type, None, opened) if tx is None else tx.get(parameter.type))
                except LookupError:
                    if parameter.optional and self._asks_resolver(parameter.type):
                        continue  # the container does not have it, and the listener can do without
                    raise
                given[parameter.name] = made
        return given

    async def make(self, wanted: type[Any], tx: ScopeT | None, opened: Opened) -> object:
        """One fresh object for `tx`, which keeps it; without `tx`, for one call. What has an end is left with `opened`.

        ConfigurationError if nothing provides the type.
        """
        if tx is not None and wanted in self._transaction_types:
            return tx
        if tx is not None and self._session_type is not None and wanted is self._session_type:
            return tx.session
        factory: Callable[..., object] | None = self._provide.get(wanted)
        if factory is not None:
            made = factory() if wanted in self._without_transaction else factory(tx)
        elif self._resolver is not None and tx is not None:
            made = self._resolver(wanted, tx)
        else:
            known = [getattr(one, "__name__", str(one)) for one in self._provide]
            raise ConfigurationError(
                [f"nothing provides {wanted.__name__}.{did_you_mean(wanted.__name__, known)}"], where="the service"
            )
        return await opened.enter(made)

    def _knows(self, wanted: Any) -> bool:
        if wanted is None:
            return False
        return (
            wanted in (Context, Envelope, self._session_type)
            or wanted in self._transaction_types
            or wanted in self._provide
            or self._asks_resolver(wanted)
        )

    def _from_transaction(self, parameter: Parameter) -> bool:
        """Whether it can be made in a transaction only."""
        wanted = parameter.type
        return wanted not in (Context, Envelope) and wanted not in self._without_transaction and self._knows(wanted)

    def _is_transaction(self, wanted: Any) -> bool:
        return wanted in self._transaction_types or wanted is self._session_type

    def _asks_resolver(self, wanted: Any) -> bool:
        own = wanted in (Context, Envelope) or self._is_transaction(wanted) or wanted in self._provide
        return self._resolver is not None and isinstance(wanted, type) and not own


def _takes_nothing(factory: object) -> bool:
    parameters = _parameters_of(factory)
    return parameters is not None and not parameters


def _takes_at_most_one(factory: object) -> bool:
    required = [
        one
        for one in _parameters_of(factory) or ()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    return len(required) <= 1 and all(one.kind is not one.KEYWORD_ONLY for one in required)


def _parameters_of(factory: object) -> list[inspect.Parameter] | None:
    """None for what does not tell: it is called with the transaction."""
    if not callable(factory):
        return None
    try:
        return list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        return None
