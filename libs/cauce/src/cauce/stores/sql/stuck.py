"""What waits and nothing makes move: for the doctor, the readiness page and the status. A search reads all of
cauce_waiting."""

from collections import Counter
from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.ports.description import Description
from cauce.ports.figures import LeftBehind, StuckFigures, listener_of
from cauce.ports.inbox import Known
from cauce.stores.sql.outbox import count_unsent_elsewhere
from cauce.stores.sql.waiting_deliveries import WaitingState, count_by_listener
from cauce.stores.sql.waiting_room import count_overdue, count_unhandled

__all__ = ["read_stuck"]

_OVERDUE_S = 60.0


async def read_stuck(
    connection: AsyncConnection, description: Description | None, names: Mapping[str, str]
) -> StuckFigures:
    """Read it in the caller's snapshot. `description` is the code of the last start: without one, nothing counts as
    left behind by it. `names`: what listeners are called now, by consumer."""
    unsent: Mapping[str, int] = {}
    if description is not None and description.sends_to is not None:
        unsent = await count_unsent_elsewhere(connection, description.sends_to)
    return StuckFigures(
        overdue=await count_overdue(connection, longer_than_s=_OVERDUE_S),
        postponed=await _by_listener(connection, "postponed", names),
        held=await _by_listener(connection, "held", names),
        left_behind=await _left_behind(connection, description, names) if description is not None else (),
        unsent_elsewhere=unsent,
    )


async def _by_listener(connection: AsyncConnection, state: WaitingState, names: Mapping[str, str]) -> Mapping[str, int]:
    found = Counter[str]()
    for consumer, count in (await count_by_listener(connection, state)).items():
        found[names.get(consumer) or listener_of(consumer)] += count
    return found


async def _left_behind(
    connection: AsyncConnection, description: Description, names: Mapping[str, str]
) -> tuple[LeftBehind, ...]:
    consumers = {one.consumer for one in description.listeners}
    events = {name for one in description.events for name in (one.name, *one.earlier_names)}
    return tuple(
        LeftBehind(
            listener=names.get(one.consumer) or listener_of(one.consumer),
            event=one.name,
            count=one.count,
            listener_in_code=one.consumer in consumers,
        )
        for one in await count_unhandled(connection, Known(consumers=consumers, names=events))
    )
