"""How often a listener is tried again, and when. Sans-I/O; the random generator is injected.

Full jitter: `random(0, min(cap, base · 2ⁿ))`, so that a crowd of failures does not come back as a crowd.
Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import random
from typing import cast

from cauce.errors import CauceError, DefinitionError
from cauce.telemetry.causes import find_error, leaves, real_cause

__all__ = ["Reject", "Retry", "RetryAfter", "decisive_error"]

_YEAR_S = 31_536_000
"""The longest delay. More is a mistake, as a date in place of seconds, and no calendar has what is far beyond."""


class Reject(CauceError):
    """Raised by a listener: this event will never work, whatever the number of tries. It is a dead letter at once."""


class RetryAfter(CauceError):
    """Raised by a listener: try again, not before so many seconds. Counts as an attempt."""

    def __init__(self, seconds: float, why: str = "") -> None:
        if not _is_delay(seconds):
            raise DefinitionError(f"RetryAfter({seconds!r}): expected seconds from now, 0 to {_YEAR_S} (a year)")
        self.seconds = seconds
        super().__init__(why or f"to be tried again after {seconds:g} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`attempts` in all, the first one included; delays in seconds."""

    attempts: int = 8
    base: float = 1.0
    cap: float = 300.0

    def __post_init__(self) -> None:
        counts = isinstance(cast("object", self.attempts), int) and self.attempts >= 1
        if not (counts and _is_delay(self.base) and _is_delay(self.cap)):
            raise DefinitionError(f"{self}: attempts count from 1, base and cap are seconds, 0 to {_YEAR_S} (a year)")

    def delay_s(self, attempt: int, error: BaseException, *, random: Callable[[], float] = random) -> float | None:
        """How long to wait after `attempt` (1 is the first) failed with `error`; None: give up.

        Reject and RetryAfter count inside exception groups, too: Reject first, then the longest RetryAfter.
        """
        if find_error(error, Reject) is not None or attempt >= self.attempts:
            return None
        if asked := [one.seconds for one in leaves(error) if isinstance(one, RetryAfter)]:
            return max(asked)
        return random() * min(self.cap, self.base * 2 ** min(attempt - 1, 62))


def _is_delay(seconds: object) -> bool:
    return isinstance(seconds, (int, float)) and 0 <= seconds <= _YEAR_S


def decisive_error(error: BaseException) -> BaseException:
    """Return the error of a group that decides what happens next: a Reject, else a RetryAfter, else the first."""
    return real_cause(error, Reject, RetryAfter)
