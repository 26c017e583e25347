"""What the services of a project say of one event: who publishes it, who hears it, how far back it could be resent."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from cauce.admin.database import read_only_connection
from cauce.admin.selection import UnclearError
from cauce.admin.targets import Target
from cauce.errors import did_you_mean
from cauce.ports.description import DescribedEvent, DescribedListener, Description
from cauce.stores.sql.outbox_status import read_outbox

__all__ = ["Explanation", "explain"]


class Explanation(Struct, frozen=True, kw_only=True):
    """An event in the configuration that runs. `publisher` is None if nobody in this project publishes it."""

    event: DescribedEvent
    publisher: Description | None
    heard_by: Sequence[tuple[Description, DescribedListener]]
    shortened_to_s: float | None
    """How far back the publisher's outbox can feed a broker now, where that is less than it promises."""


async def explain(query: str, services: Mapping[str, Description], targets: Sequence[Target]) -> Explanation:
    """`query`: a name, a former name, or a class; `services`: their descriptions. Raises UnclearError if none knows it."""
    events = {event.name: event for description in services.values() for event in description.events}
    event = next((one for one in events.values() if query in (one.name, one.cls, *one.earlier_names)), None)
    if event is None:
        words = [word for one in events.values() for word in (one.name, one.cls)]
        known = "\n".join(f"  {one.name}  ({one.cls})" for one in sorted(events.values(), key=lambda one: one.name))
        raise UnclearError(f"No service knows an event {query!r}.{did_you_mean(query, words)} There are:\n{known}")
    return Explanation(
        event=event,
        publisher=next((one for one in services.values() if event.name in one.publishes), None),
        heard_by=[
            (service, listener)
            for service in services.values()
            for listener in service.listeners
            if event.name in listener.events
        ],
        shortened_to_s=await _shortened(event, services, targets),
    )


async def _shortened(
    event: DescribedEvent, services: Mapping[str, Description], targets: Sequence[Target]
) -> float | None:
    for target in targets:
        if target.name in services and event.name in services[target.name].publishes:
            async with read_only_connection(target) as connection:
                status, _ = await read_outbox(connection)
            return status.shortened_to_s
    return None
