"""Goal 13: what a killed process costs the other one."""

from collections.abc import Callable
from dataclasses import dataclass

from cauce.ports.lanes import LANES

from durability.events import KEYS
from durability.paced_services import PacedServices
from durability.waiting import until

__all__ = ["Died", "one_process_dies"]


@dataclass(frozen=True, slots=True)
class Died:
    slower: float
    """How many times as long the median of the lanes of the living is, after another process was killed."""
    delayed_s: float
    """The longest that an event of the dead one's lanes was under way."""


async def one_process_dies(services: PacedServices, window_s: float, *, kill: Callable[[], None]) -> Died:
    """Half of the lanes are another process's, which is killed in the middle. 100 events a second."""
    await until(lambda: len(services.lanes()) == LANES // 2)
    ours, count = set(services.lanes()), int(window_s * 100)
    before, _ = await services.at_pace(count, 0.01, keys=KEYS)
    before_ms = await services.typical_ms(services.of_lanes(before, ours))
    kill()
    after, _ = await services.at_pace(count, 0.01, keys=KEYS)
    after_ms = await services.typical_ms(services.of_lanes(after, ours))
    return Died(after_ms / before_ms, await services.slowest_s(after))
