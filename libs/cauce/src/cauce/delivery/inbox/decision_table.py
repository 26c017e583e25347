"""The decision table: what a delivery means to a listener that may have received it before. Sans-I/O.

arrives                                        means                        does
─────────────────────────────────────────────  ───────────────────────────  ─────────────────────────────────
id known                                       duplicate                    acknowledge
no key                                         first time                   run
no key, delivered before, with the broker      perhaps handled long ago     dead letter `too old to dedupe`
  for longer than the inbox's retention
seq more than 1,000,000 above last, or above   cannot be true               dead letter `impossible number`;
  zero where none is known of its incarnation                                 nothing moves, nothing is held
same incarnation, seq > last                   next for this listener       run, remember seq
same incarnation, seq ≤ last, younger than     order was broken upstream    dead letter `late`; never dropped
  the inbox's retention
same incarnation, seq ≤ last, older            duplicate from long ago      acknowledge
another incarnation                            the producer's database was  run, sequence restarts
                                                recreated or restored

A sequence number that this listener did not receive says nothing: the event may not be for it. Missing numbers are
counted where all events of a lane pass (gaps.py).
"""

from typing import Literal

from msgspec import Struct

from cauce.ports.inbox import FURTHEST, Position

__all__ = ["Decision", "decide"]


class Decision(Struct, frozen=True):
    do: Literal["run", "acknowledge", "dead_letter"]
    why: Literal["first", "next", "duplicate", "old_duplicate", "late", "too_old", "new_incarnation", "impossible"]


def decide(
    *,
    id_known: bool,
    key_seq: int | None,
    incarnation: str | None,
    position: Position | None,
    age_s: float,
    retention_s: float,
    repeated_s: float | None = None,
    elsewhere: int = 0,
) -> Decision:
    """Apply the table. `elsewhere`: the last number of its key and incarnation that another listener of the service has
    handled. `age_s`: of the event, at least; `retention_s`: how long the inbox remembers ids;
    `repeated_s`: the event was delivered to a process of this service before, and this is how long the broker has had it,
    by the broker's own clock: it may have been handled that long ago, and no longer."""
    if id_known:
        return Decision("acknowledge", "duplicate")
    if key_seq is None or incarnation is None:
        return (
            Decision("dead_letter", "too_old")
            if repeated_s is not None and repeated_s >= retention_s
            else Decision("run", "first")
        )
    last = position.last_seq if position is not None and position.incarnation == incarnation else 0
    if key_seq > max(last, elsewhere) + FURTHEST:
        return Decision("dead_letter", "impossible")
    if position is None:
        return Decision("run", "first")
    if incarnation != position.incarnation:
        return Decision("run", "new_incarnation")
    if key_seq > position.last_seq:
        return Decision("run", "next")
    if age_s < retention_s:
        return Decision("dead_letter", "late")
    return Decision("acknowledge", "old_duplicate")
