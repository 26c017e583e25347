"""Events that the broker rejects permanently, set aside in the outboxes of several services: which ones are meant;
released, discarded."""

from collections.abc import Sequence
from dataclasses import dataclass

from cauce.admin.bulk import BulkResult, act_on_each
from cauce.admin.database import ask_each, read_only_connection
from cauce.admin.selection import AmbiguousIdError, Selection, UnknownIdError
from cauce.admin.short_ids import shortest_beginnings
from cauce.admin.targets import Target
from cauce.stores.sql import set_aside
from cauce.stores.sql.set_aside import SetAside

__all__ = ["ChosenEvent", "discard", "events_of_ids", "find_set_aside", "release"]


@dataclass(frozen=True, slots=True)
class ChosenEvent:
    """An event that was set aside, where it is, and its id as short as it may be."""

    target: Target
    event: SetAside
    short: str

    @property
    def id(self) -> str:
        return self.event.event_id

    @property
    def about(self) -> str:
        return self.event.name if self.event.key is None else f"{self.event.name}, key {self.event.key}"


async def find_set_aside(targets: Sequence[Target], *, name: str | None = None) -> Selection[ChosenEvent]:
    """Those whose event's name fits (`name` may be a pattern), in the order in which they were published."""

    async def look(target: Target) -> Sequence[ChosenEvent]:
        async with read_only_connection(target) as connection:
            short = shortest_beginnings(one.event_id for one in await set_aside.select_set_aside(connection))
            found = await set_aside.select_set_aside(connection, name=name)
        return [ChosenEvent(target, one, short[one.event_id]) for one in found]

    found, unreachable = await ask_each(targets, look)
    return Selection(by_service=found, unreachable=unreachable)


async def events_of_ids(targets: Sequence[Target], ids: Sequence[str]) -> Sequence[ChosenEvent]:
    """The event that each id, or beginning of one, means. Raises AmbiguousIdError, UnknownIdError."""
    selection = await find_set_aside(targets)
    chosen: dict[str, ChosenEvent] = {}
    for prefix in ids:
        candidates = [one for one in selection.everything if one.id.startswith(prefix)]
        if len(candidates) > 1:
            raise AmbiguousIdError(prefix, candidates)
        if not candidates:
            raise UnknownIdError(
                f"No event that was set aside begins with {prefix!r}. To see them: cauce outbox status",
                unreachable=list(selection.unreachable.values()),
            )
        chosen[candidates[0].id] = candidates[0]
    return list(chosen.values())


async def release(chosen: Sequence[ChosenEvent], *, why: str | None, dry_run: bool = False) -> BulkResult[ChosenEvent]:
    """Let the running services try them again, before what waits behind them."""
    return await act_on_each(chosen, lambda engine, one: set_aside.release(engine, one.event, why=why), dry_run=dry_run)


async def discard(chosen: Sequence[ChosenEvent], *, why: str, dry_run: bool = False) -> BulkResult[ChosenEvent]:
    """Give them up for good. The next event of the same key is then sent."""
    return await act_on_each(chosen, lambda engine, one: set_aside.discard(engine, one.event, why=why), dry_run=dry_run)
