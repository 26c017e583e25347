"""Goal 13: what one failing key costs the others."""

import time
from dataclasses import dataclass

from durability.paced_services import PacedServices

__all__ = ["Failing", "one_key_fails"]


@dataclass(frozen=True, slots=True)
class Failing:
    slower: float
    """How many times as long the others' median is while one key fails."""
    waited: int
    recovered_s: float
    """From the end of the cause to the last waiting event applied, all in order."""


async def one_key_fails(services: PacedServices, window_s: float, *, bad: str) -> Failing:
    """Fifty keys, each of them once a second: well for a while, then one of them failing for as long."""
    count = int(window_s * 50)
    well, _ = await services.at_pace(count, 0.02, keys=50)
    well_ms = await services.typical_ms(well)
    services.bad, services.cause = bad, True
    others, _ = await services.at_pace(count, 0.02, keys=50)
    failing_ms = await services.typical_ms(others)
    services.bad, services.cause = "", False
    began = time.perf_counter()
    await services.everything_applied()
    return Failing(failing_ms / well_ms, count - len(others), time.perf_counter() - began)
