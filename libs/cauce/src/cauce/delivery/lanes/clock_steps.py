"""Notice that the database's clock was set: it is compared with this machine's monotonic clock. Sans-I/O."""

__all__ = ["ClockSteps"]

_TOLERANCE_S = 1.0
"""Less is drift, or a clock that is being slewed; no lease and no delay depends on it."""


class ClockSteps:
    """What one process knows about the database's clock."""

    def __init__(self) -> None:
        self._between: tuple[float, float] | None = None
        """Bounds of the database's clock minus ours: its answer was given at some moment between two of ours."""
        self._total_s = 0.0

    def now(self, at: float) -> float | None:
        """What the database's clock shows at our time `at`, had it not been set forward; None if it was never seen.

        By it nothing that is stored is older than it is, also not in the moment before a step is noticed.
        """
        return None if self._between is None else self._between[0] + at - max(0.0, self._total_s)

    def step(self, clock: float, *, asked_at: float, answered_at: float) -> float:
        """By how many seconds the clock was set since it was last seen: above 0 forward, below 0 back, 0 not at all."""
        low, high = clock - answered_at, clock - asked_at
        before, self._between = self._between, (low, high)
        if before is None:
            return 0.0
        forward, back = low - before[1], high - before[0]
        step_s = forward if forward > _TOLERANCE_S else back if back < -_TOLERANCE_S else 0.0
        self._total_s += step_s
        return step_s
