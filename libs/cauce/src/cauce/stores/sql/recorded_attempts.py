"""The attempts of a delivery as a row keeps them: a line for each, its time and its error.

Tables: cauce_waiting and cauce_dead_letter, the column `attempt_log` of both.
"""

from collections.abc import Sequence

from msgspec import Struct

__all__ = ["RecordedAttempt", "recorded_attempts", "recorded_lines"]


class RecordedAttempt(Struct, frozen=True):
    """When an attempt failed, in seconds since the epoch by the database's clock, and with what."""

    at: float
    error: str


def recorded_attempts(lines: str | None) -> tuple[RecordedAttempt, ...]:
    """Read them; a line that is none is left out."""
    found: list[RecordedAttempt] = []
    for line in (lines or "").splitlines():
        at, _, error = line.partition(" ")
        try:
            found.append(RecordedAttempt(float(at), error))
        except ValueError:
            continue
    return tuple(found)


def recorded_lines(attempts: Sequence[RecordedAttempt]) -> str:
    """Spell them as a row keeps them."""
    return "".join(f"{one.at} {one.error}\n" for one in attempts)
