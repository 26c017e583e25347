"""Waiting deliveries of several services: found, retried now, moved to another listener, discarded."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.admin.bulk import BulkResult, act_on_each
from cauce.admin.database import read_only_connection
from cauce.admin.finding import ListenerSelection, find_by_ids, find_by_listener
from cauce.admin.selection import UnclearError
from cauce.admin.targets import Target
from cauce.errors import did_you_mean
from cauce.ports.description import DescribedListener, Description
from cauce.stores.sql import waiting_deliveries
from cauce.stores.sql.registry import description_of
from cauce.stores.sql.waiting_deliveries import Waiting, WaitingFilter

__all__ = [
    "ChosenDelivery",
    "brief",
    "choose_deliveries",
    "deliveries_of_ids",
    "discard",
    "find_waiting",
    "move",
    "retry",
    "soonest_failing",
]

_BRIEF = 12
_IN_ALL = 200
"""Of one service, however many causes there are."""


@dataclass(frozen=True, slots=True)
class ChosenDelivery:
    """A waiting delivery, and where it is. `of`: how many there are like it asked for in this service."""

    target: Target
    delivery: Waiting
    of: int = 1

    @property
    def id(self) -> str:
        return self.delivery.id

    @property
    def short(self) -> str:
        return brief(self.delivery.id)

    @property
    def about(self) -> str:
        return f"{self.delivery.name} → {self.delivery.listener}"


def brief(delivery_id: str) -> str:
    """The beginning of its id that is shown: to find the shortest one, all others would have to be read."""
    return delivery_id[:_BRIEF]


async def find_waiting(
    targets: Sequence[Target], filters: WaitingFilter, *, each: int
) -> ListenerSelection[ChosenDelivery]:
    """Those that fit: `each` of every cause at most, and so many in all that a person can read them."""

    async def look(connection: AsyncConnection, target: Target) -> Sequence[ChosenDelivery]:
        found, count = await waiting_deliveries.overview(connection, filters, each=each, limit=_IN_ALL)
        return [ChosenDelivery(target, one, count) for one in found]

    return await find_by_listener(targets, look)


async def choose_deliveries(targets: Sequence[Target], filters: WaitingFilter) -> ListenerSelection[ChosenDelivery]:
    """All that fit, the events of a key in their order."""

    async def look(connection: AsyncConnection, target: Target) -> Sequence[ChosenDelivery]:
        return [ChosenDelivery(target, one) for one in await waiting_deliveries.choose(connection, filters)]

    return await find_by_listener(targets, look)


async def deliveries_of_ids(targets: Sequence[Target], ids: Sequence[str]) -> Sequence[ChosenDelivery]:
    """The delivery that each id, or beginning of one, means. Raises AmbiguousIdError, UnknownDeliveryError."""

    async def look(connection: AsyncConnection, target: Target, prefix: str) -> Sequence[ChosenDelivery]:
        return [ChosenDelivery(target, one) for one in await waiting_deliveries.by_prefix(connection, prefix)]

    nothing = "Nothing that waits begins with {prefix}. To see it all: cauce waiting list"
    return await find_by_ids(targets, ids, look, nothing=nothing)


async def soonest_failing(
    connection: AsyncConnection, target: Target, *, limit: int
) -> tuple[Sequence[ChosenDelivery], int]:
    """The failing deliveries that are tried next, and how many fail in all."""
    found, count = await waiting_deliveries.soonest_failing(connection, limit=limit)
    return [ChosenDelivery(target, one, count) for one in found], count


async def retry(
    chosen: Sequence[ChosenDelivery], *, why: str | None, dry_run: bool = False
) -> BulkResult[ChosenDelivery]:
    """Let their listeners try them now. What cannot be tried is refused with the reason."""
    refused = [(one, reason) for one in chosen if (reason := _not_now(one)) is not None]
    return await act_on_each(
        [one for one in chosen if _not_now(one) is None],
        lambda engine, one: waiting_deliveries.retry(engine, one.delivery, why=why),
        dry_run=dry_run,
        refused=refused,
    )


async def discard(chosen: Sequence[ChosenDelivery], *, why: str, dry_run: bool = False) -> BulkResult[ChosenDelivery]:
    """Give them up for good: their listener never handles them. The next event of the same key is then due."""
    return await act_on_each(
        chosen, lambda engine, one: waiting_deliveries.discard(engine, one.delivery, why=why), dry_run=dry_run
    )


async def move(
    chosen: Sequence[ChosenDelivery], *, to: str, why: str | None, dry_run: bool = False
) -> BulkResult[ChosenDelivery]:
    """Give them to the listener `to` of the same service. Raises UnclearError if there is none of that name."""
    movable: list[tuple[ChosenDelivery, str]] = []
    refused: list[tuple[ChosenDelivery, str]] = []
    for target in dict.fromkeys(one.target for one in chosen):
        async with read_only_connection(target) as connection:
            description = await description_of(connection)
        listener = _listener_named(to, description, target)
        for one in (one for one in chosen if one.target is target):
            if one.delivery.consumer == listener.consumer:
                refused.append((one, f"it waits for {listener.name} already"))
            elif one.delivery.name not in _heard_by(listener, description):
                refused.append((one, f"{listener.name} does not listen to {one.delivery.name}"))
            else:
                movable.append((one, listener.consumer))
    consumers = {one.id: consumer for one, consumer in movable}
    return await act_on_each(
        [one for one, _ in movable],
        lambda engine, one: waiting_deliveries.move(engine, one.delivery, to=consumers[one.id], why=why),
        dry_run=dry_run,
        refused=refused,
    )


def _not_now(one: ChosenDelivery) -> str | None:
    delivery, listener = one.delivery, one.delivery.listener
    match delivery.state:
        case "dead":
            return f"it is a dead letter: cauce dead replay {one.short}"
        case "gone":
            return f"nobody here can handle it: cauce waiting show {one.short}"
        case "paused":
            return f"{listener} is paused: cauce listener resume {listener}"
        case "behind":
            head = brief(delivery.head_id or "")
            way = f"cauce dead show {head}" if delivery.head_dead else f"cauce waiting retry {head}"
            return f"an earlier event of its key is first: {way}"
        case "failing" | "trouble" | "due" | "held" | "postponed":
            return None


def _listener_named(name: str, description: Description | None, target: Target) -> DescribedListener:
    """The listener in the code that a name means: the whole name, or its last segments."""
    durable = [one for one in (description.listeners if description else ()) if one.when in ("arrival", "durable")]
    found = [one for one in durable if name in (one.name, one.consumer)]
    found = found or [one for one in durable if one.name.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    names = [one.name for one in durable]
    if found:
        raise UnclearError(f"{name!r} is several listeners: {', '.join(sorted(one.name for one in found))}")
    nearest = did_you_mean(name, names) or did_you_mean(name, [one.rpartition(".")[2] for one in names])
    raise UnclearError(
        f"{target.name}: no listener {name!r} in its code.{nearest} There is {', '.join(sorted(names)) or 'none'}."
    )


def _heard_by(listener: DescribedListener, description: Description | None) -> set[str]:
    """The names, earlier ones too, of the events that it listens to."""
    described = description.events if description else ()
    return {name for one in described if one.name in listener.events for name in (one.name, *one.earlier_names)}
