"""What all checks share: when something is slow or stuck, whether two clocks agree, and which verdict counts."""

from collections.abc import Sequence

from cauce.ports.transport import State, Verdict

__all__ = ["QUIET_S", "STUCK_S", "age_state", "clock_verdict", "worst"]

STUCK_S = 600.0
QUIET_S = 24 * 3600.0
_SLOW_S = 60.0
_SKEW_S = 2.0
_ORDER = ("good", "unknown", "weak", "bad")


def worst(verdicts: Sequence[Verdict]) -> str:
    """The state that counts: bad, weak, unknown or good."""
    return max((one.state for one in verdicts), key=_ORDER.index, default="good")


def age_state(oldest_s: float) -> State:
    """How things stand where the oldest of what waits is of that age."""
    return "good" if oldest_s < _SLOW_S else "weak" if oldest_s < STUCK_S else "bad"


def clock_verdict(clock: str, skew: float) -> Verdict:
    """`skew`: how many seconds the clock is ahead of this machine's."""
    if abs(skew) < _SKEW_S:
        return Verdict("clock", "good", f"{clock} and this machine's agree within {max(abs(skew), 0.01):.2f} s")
    direction = "ahead of" if skew > 0 else "behind"
    fact = f"{clock} is {abs(skew):,.1f} s {direction} this machine's; times shown here and --since are off by that"
    return Verdict("clock", "weak" if abs(skew) < STUCK_S else "bad", fact, "timedatectl status, on both machines")
