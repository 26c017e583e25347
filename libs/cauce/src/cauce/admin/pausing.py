"""Pause one listener of a project's services, and resume it."""

from collections.abc import Sequence

from msgspec import Struct

from cauce.admin.database import ask_each, open_engine, read_only_connection
from cauce.admin.selection import UnclearError
from cauce.admin.targets import Target
from cauce.errors import CauceError
from cauce.ports.figures import listener_of
from cauce.stores.sql import pauses
from cauce.stores.sql.listeners import NoSuchListenerError, resolve_listener
from cauce.stores.sql.pauses import PauseResult
from cauce.stores.sql.registry import description_of

__all__ = ["ChosenListener", "UnknownListenerError", "find_listener", "pause", "resume"]


class ChosenListener(Struct, frozen=True, kw_only=True):
    """One listener, and the service whose database knows it."""

    target: Target
    consumer: str

    @property
    def listener(self) -> str:
        return listener_of(self.consumer)


class UnknownListenerError(CauceError):
    """No service that answered has such a listener. `unreachable`: why some databases could not be asked."""

    def __init__(self, message: str, *, unreachable: Sequence[str]) -> None:
        super().__init__(message)
        self.unreachable = unreachable


async def find_listener(targets: Sequence[Target], name: str) -> ChosenListener:
    """Find the listener of that name, or of that last word. Raises UnknownListenerError, UnclearError."""
    strangers: dict[str, str] = {}

    async def look(target: Target) -> str | None:
        async with read_only_connection(target) as connection:
            try:
                return await resolve_listener(connection, name)
            except NoSuchListenerError as error:
                strangers[target.name] = str(error)
                return None

    found, unreachable = await ask_each(targets, look)
    chosen = [
        ChosenListener(target=target, consumer=consumer)
        for target in targets
        if (consumer := found.get(target.name)) is not None
    ]
    if len(chosen) > 1:
        services = ", ".join(one.target.name for one in chosen)
        raise UnclearError(f"{name} is a listener of {services}: say which, with --service.")
    if not chosen:
        message = "\n".join(f"{service}: {why}" for service, why in strangers.items())
        raise UnknownListenerError(message, unreachable=list(unreachable.values()))
    return chosen[0]


async def pause(chosen: ChosenListener, *, why: str) -> PauseResult:
    """Give it no further event, in no process. Raises CauceError for one whose events would not wait."""
    async with read_only_connection(chosen.target) as connection:
        description = await description_of(connection)
    if description is not None and (description.transport is not None and not description.transport.durable):
        here = {one.consumer for one in description.listeners if one.when == "durable"}
        if chosen.consumer not in here:
            raise CauceError(
                f"{chosen.listener} cannot be paused: {description.transport.name} remembers nothing, so its events "
                "would not wait but be lost."
            )
    async with open_engine(chosen.target) as engine:
        return await pauses.pause(engine, chosen.consumer, why=why)


async def resume(chosen: ChosenListener, *, why: str | None) -> PauseResult:
    """Let it have its events again, those that waited first."""
    async with open_engine(chosen.target) as engine:
        return await pauses.resume(engine, chosen.consumer, why=why)
