"""What listeners need beyond the event, found by type and made for one transaction."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from cauce.errors import ConfigurationError, did_you_mean
from cauce.events.envelope import Envelope
from cauce.listeners.context import Context
from cauce.listeners.listener import Listener

__all__ = ["Dependencies", "Factory", "Resolver", "Scope", "ScopeT"]

T = TypeVar("T")


class Scope(Protocol):
    """What things are made for, and what they are made from: a transaction, as far as it matters here."""

    @property
    def session(self) -> object: ...
    async def get(self, wanted: type[T], /) -> T: ...


ScopeT = TypeVar("ScopeT", bound=Scope)

Factory: TypeAlias = Callable[[ScopeT], object]
"""Makes one thing for one transaction. Called at most once in it."""

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

    def needs_transaction(self, listener: Listener) -> bool:
        return any(
            parameter.type not in (Context, Envelope) and self._knows(parameter.type)
            for parameter in listener.parameters
        )

    async def arguments(
        self, listener: Listener, envelope: Callable[[], Context], tx: ScopeT | None
    ) -> dict[str, object]:
        """The keyword arguments of one call."""
        given: dict[str, object] = {}
        for parameter in listener.parameters:
            if parameter.type is Context:
                given[parameter.name] = envelope()
            elif parameter.type is Envelope:
                given[parameter.name] = envelope().envelope
            elif tx is not None and self._knows(parameter.type):
                given[parameter.name] = await tx.get(parameter.type)
        return given

    async def make(self, wanted: type[Any], tx: ScopeT) -> object:
        """One fresh object for `tx`; the transaction keeps it. ConfigurationError if nothing provides the type."""
        if wanted in self._transaction_types:
            return tx
        if self._session_type is not None and wanted is self._session_type:
            return tx.session
        factory = self._provide.get(wanted)
        if factory is not None:
            made = factory(tx)
        elif self._resolver is not None:
            made = self._resolver(wanted, tx)
        else:
            known = [getattr(one, "__name__", str(one)) for one in self._provide]
            raise ConfigurationError(
                [f"nothing provides {wanted.__name__}.{did_you_mean(wanted.__name__, known)}"], where="the service"
            )
        return await made if inspect.isawaitable(made) else made

    def _knows(self, wanted: Any) -> bool:
        if wanted is None:
            return False
        return (
            wanted in (Context, Envelope, self._session_type)
            or wanted in self._transaction_types
            or wanted in self._provide
            or (self._resolver is not None and isinstance(wanted, type))
        )
