"""How often the loops of durable delivery poll: noticing sooner costs more queries."""

from dataclasses import astuple, dataclass

from cauce.errors import DefinitionError

__all__ = ["Pace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds. The same for every process of a service.

    `lease_s`: how long a dead process keeps its lanes. `beat_every_s`: how often a process renews its lease and looks
    for its fair share. `verify_every_s`: how often a broker without errors is asked whether it still holds what it
    confirmed. `prune_every_s`: how often expired rows and entries are removed. `watch_every_s`: how often alarm
    thresholds are checked.
    """

    lease_s: float = 10.0
    beat_every_s: float = 3.0
    verify_every_s: float = 60.0
    prune_every_s: float = 30.0
    watch_every_s: float = 10.0

    def __post_init__(self) -> None:
        if min(astuple(self)) <= 0:
            raise DefinitionError(f"{self}: every pace is a number of seconds above 0")
        if self.beat_every_s * 2 > self.lease_s:
            raise DefinitionError(
                f"Pace(lease_s={self.lease_s:g}, beat_every_s={self.beat_every_s:g}): one beat may fail, so a lease "
                f"lasts at least two of them; beat_every_s={self.lease_s / 3:.3g} fits"
            )
