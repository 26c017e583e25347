"""How often an effect outside the database may happen: the listener's author chooses, because nobody can have both.

A mail that was handed over just before a crash, and one that was not, look the same afterwards. `AtLeastOnce` does it
again (with the same idempotency key, so that the other side can tell); `AtMostOnce` leaves it to a person.
"""

from dataclasses import dataclass

from cauce.errors import CauceError

__all__ = ["AtLeastOnce", "AtMostOnce", "Effect", "EffectNotDoneError"]


@dataclass(frozen=True, slots=True)
class AtLeastOnce:
    """After a crash in the middle: once more, with the same `context.idempotency_key`."""


@dataclass(frozen=True, slots=True)
class AtMostOnce:
    """Never again once it may have happened: after a crash in the middle, and after any error that does not say
    otherwise (EffectNotDoneError), it is a dead letter with the reason `uncertain`, for a person to decide."""


Effect = AtLeastOnce | AtMostOnce


class EffectNotDoneError(CauceError):
    """Raised by a listener: the effect surely has not happened, so it is tried again, also under `AtMostOnce`."""
