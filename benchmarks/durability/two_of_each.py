"""Goal 13: how long an event takes when there are two processes of each service instead of one, and little to do."""

from cauce.ports.lanes import LANES
from processes import Child

from durability.paced_services import PacedServices
from durability.waiting import until

__all__ = ["p50_and_p90", "shared_out"]

_EVERY_S = 0.25
"""So seldom that nobody is looking when an event comes: a loop that finds nothing looks less and less often."""


async def p50_and_p90(services: PacedServices, count: int) -> tuple[float, float]:
    """Milliseconds, of the events that are handled here; whoever sends them."""
    ids, _ = await services.at_pace(count, _EVERY_S, keys=1000)
    taken = await services.taken_ms(services.of_lanes(ids, services.lanes()))
    return taken[len(taken) // 2], taken[len(taken) * 9 // 10]


async def shared_out(services: PacedServices, others: tuple[Child, Child]) -> None:
    """The second process of each service runs, and has its half of the lanes."""
    for other in others:
        await other.report("ready")
    await until(lambda: len(services.lanes()) == LANES // 2 == len(services.lanes_to_send()))
