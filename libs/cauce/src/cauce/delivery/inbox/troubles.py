"""Events that meet trouble with our database while it serves others: counted, logged, and in the end charged to them.

Trouble costs no attempt. But what keeps happening to one event while others are handled is that event's doing, whatever
the error says: a listener may end its own connection, or lock what it waits for. Sans-I/O.
"""

import logging
import time
from collections.abc import Callable, Container
from random import random

from msgspec import Struct

from cauce.events.envelope import Envelope
from cauce.ports.lanes import Lane
from cauce.telemetry.storable import describe_error

__all__ = ["CHARGED_AFTER", "Trouble", "Troubles"]

log = logging.getLogger("cauce.durable")

CHARGED_AFTER = 20
"""How often an event may meet trouble while others are handled; from then on each time is a failed attempt."""
_FIRST_S = 0.1
_CAP_S = 5.0
_NOT_READY_AFTER = 3
_LOGGED_EVERY_S = 60.0
_FORGOTTEN_AFTER_S = 60.0
"""An event that has met no trouble for so long was settled somewhere else."""
_SHOWN = 300


class Trouble(Struct):
    """One event in trouble, for one listener."""

    listener: str
    event: str
    lane: Lane
    since: float
    last: float
    tries: int
    times: int
    """How often, and others were handled in between."""
    handled_before: int
    cause: str = ""
    logged_at: float | None = None

    @property
    def charged(self) -> bool:
        """Whether it is the event's own by now, and counts as a failed attempt."""
        return self.times > CHARGED_AFTER

    @property
    def shown(self) -> str:
        """The cause as it is stored: an operator sees it while the event waits."""
        return f"trouble with the database, no attempt is counted: {self.cause}"

    def pause_s(self, random: Callable[[], float]) -> float:
        return min(_CAP_S, _FIRST_S * 2 ** min(self.tries - 1, 10)) * (0.8 + 0.4 * random())


class Troubles:
    """What is in trouble in this process, and whether the database serves anybody."""

    def __init__(
        self, service: str, *, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = random
    ) -> None:
        self._service = service
        self._clock = clock
        self._random = random
        self._handled = 0
        self._outage_since: float | None = None
        self._found: dict[tuple[str, str, str], Trouble] = {}

    @property
    def outage(self) -> bool:
        """Whether the database did not take anything when it was asked last."""
        return self._outage_since is not None

    def met(self, listener: str, envelope: Envelope, lane: Lane, error: BaseException, *, before: int) -> Trouble:
        """An event met trouble. `before`: how often so far, as far as its row tells."""
        now, event = self._clock(), (listener, envelope.source, envelope.id)
        one = self._found.get(event)
        if one is None:
            key = "" if envelope.key is None else f" of key {envelope.key}"
            label = f"{envelope.name} {envelope.id}{key}"
            one = Trouble(listener, label, lane, now, now, 0, before + 1, self._handled)
            self._found[event] = one
        elif self._handled > one.handled_before:
            one.times += 1
            one.handled_before = self._handled
        one.tries += 1
        one.lane, one.last, one.cause = lane, now, describe_error(error)[:_SHOWN]
        return one

    def given_back(self, one: Trouble, delay_s: float) -> None:
        """The database took the event back: it waits there. Logged at first, and once a minute."""
        self._outage_since = None
        self._log(one, f"it waits, and is tried again in {delay_s:.1f} s")

    def charged(self, one: Trouble) -> None:
        """The trouble was counted as a failed attempt of the event's own."""
        self._outage_since = None
        if one.times == CHARGED_AFTER + 1:
            log.error(
                "%s: %s cannot handle %s: trouble with the database %d times, while others were handled: from now on "
                "each time counts as a failed attempt",
                self._service, one.listener, one.event, one.times,
            )  # fmt: skip

    def serves_others(self, one: Trouble) -> bool:
        """Whether others were handled since the event met trouble last: it alone is to wait, in memory if need be."""
        if self._handled == one.handled_before:
            return False
        self._log(one, "it cannot be written down either, and waits in memory")
        return True

    def settled(self, listener: str, envelope: Envelope, *, handled: bool) -> None:
        """The database took the outcome of an event."""
        self._outage_since = None
        self._handled += handled
        self._found.pop((listener, envelope.source, envelope.id), None)

    def outage_pause_s(self) -> float:
        """How long to leave alone a database that takes nothing: the longer it lasts, the longer."""
        now = self._clock()
        if self._outage_since is None:
            self._outage_since = now
        return min(_CAP_S, max(_FIRST_S, (now - self._outage_since) / 2)) * (0.8 + 0.4 * self._random())

    def delay_s(self, one: Trouble) -> float:
        return one.pause_s(self._random)

    def problem(self, lanes: Container[Lane]) -> str | None:
        """What of these lanes is in trouble, in one line; None if nothing is, or only for a moment."""
        now = self._clock()
        self._found = {event: one for event, one in self._found.items() if now - one.last < _FORGOTTEN_AFTER_S}
        stuck = [one for one in self._found.values() if one.tries >= _NOT_READY_AFTER and one.lane in lanes]
        if not stuck:
            return None
        first = min(stuck, key=lambda one: one.since)
        more = f", and {len(stuck) - 1} more" if stuck[1:] else ""
        return (
            f"{first.listener} cannot handle {first.event} for {now - first.since:.0f} s: {first.cause}{more} "
            "→ cauce doctor"
        )

    def _log(self, one: Trouble, what: str) -> None:
        now = self._clock()
        if one.logged_at is not None and now - one.logged_at < _LOGGED_EVERY_S:
            return
        one.logged_at = now
        log.warning(
            "%s: %s cannot handle %s: trouble with the database (%d times in %.0f s): %s · no attempt is counted; %s",
            self._service, one.listener, one.event, one.tries, now - one.since, one.cause, what,
        )  # fmt: skip
