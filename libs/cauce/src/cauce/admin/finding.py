"""Find what listeners were given and did not handle, in several databases: by the listener's name, or by ids."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.admin.database import DatabaseUnavailableError, ask_each, read_only_connection
from cauce.admin.selection import AmbiguousIdError, Selectable, Selection, UnknownIdError
from cauce.admin.targets import Target
from cauce.ports.figures import NoTablesError
from cauce.stores.sql.audit import AuditEntry, history_of
from cauce.stores.sql.listeners import NoSuchListenerError

__all__ = ["ListenerSelection", "UnknownDeliveryError", "find_by_ids", "find_by_listener"]

T = TypeVar("T", bound=Selectable)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSelection(Selection[T], Generic[T]):
    """`strangers`: services that have no such listener, and the nearest they have."""

    strangers: Mapping[str, str]

    @property
    def unknown_listener(self) -> str | None:
        """What is wrong with the listener's name, if no service that answered has one of that name."""
        if not self.strangers or len(self.strangers) < len(self.by_service):
            return None
        return "\n".join(f"{name}: {why}" for name, why in self.strangers.items())


class UnknownDeliveryError(UnknownIdError):
    """Nothing here has an id that begins so. `history`: by service, what was done to one that did."""

    def __init__(
        self,
        message: str,
        prefix: str,
        *,
        unreachable: Sequence[str] = (),
        history: Mapping[str, Sequence[AuditEntry]] | None = None,
    ) -> None:
        super().__init__(message, unreachable=unreachable)
        self.prefix = prefix
        self.history = history or {}


async def find_by_listener(
    targets: Sequence[Target], look: Callable[[AsyncConnection, Target], Awaitable[Sequence[T]]]
) -> ListenerSelection[T]:
    """What `look` finds in each database; it may raise NoSuchListenerError."""
    strangers: dict[str, str] = {}

    async def asked(target: Target) -> Sequence[T]:
        async with read_only_connection(target) as connection:
            try:
                return await look(connection, target)
            except NoSuchListenerError as error:
                strangers[target.name] = str(error)
                return []

    found, unreachable = await ask_each(targets, asked)
    return ListenerSelection(by_service=found, unreachable=unreachable, strangers=strangers)


async def find_by_ids(
    targets: Sequence[Target],
    ids: Sequence[str],
    look: Callable[[AsyncConnection, Target, str], Awaitable[Sequence[T]]],
    *,
    nothing: str,
) -> Sequence[T]:
    """What each id, or beginning of one, means to `look`.

    Raises AmbiguousIdError, UnknownDeliveryError with the text `nothing` about its `{prefix}`.
    """
    chosen: dict[str, T] = {}
    for prefix in (one.lower() for one in ids):
        candidates: list[T] = []
        history: dict[str, Sequence[AuditEntry]] = {}
        unreachable: list[str] = []
        for target in targets:
            try:
                async with read_only_connection(target) as connection:
                    found = await look(connection, target, prefix)
                    candidates += found
                    history[target.name] = [] if found else await history_of(connection, prefix)
            except (DatabaseUnavailableError, NoTablesError) as error:
                unreachable.append(str(error))  # of no interest if another database knows the id
        if not candidates:
            raise UnknownDeliveryError(
                nothing.format(prefix=repr(prefix)), prefix, unreachable=unreachable, history=history
            )
        if len(candidates) > 1:
            raise AmbiguousIdError(prefix, candidates)
        chosen[candidates[0].id] = candidates[0]
    return list(chosen.values())
