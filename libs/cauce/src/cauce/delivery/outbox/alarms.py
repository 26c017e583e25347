"""Alarms for an operator: events that are not sent, keys that many events wait behind, events of a newer version.

An alarm stops nothing and drops nothing: a slow group, a full broker and a parked key cost space in the database, and
that is what is watched. Only a service with `refuse_at` refuses new events from some point on (OutboxFullError, HTTP
503).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cauce.delivery.lanes.ownership import Ownership
from cauce.errors import DefinitionError, OutboxFullError
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import Backlog

__all__ = ["Alarms", "Watch"]

log = logging.getLogger("cauce.alarms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarms:
    """Thresholds. `outbox_age_s`: age of the oldest unsent event, in seconds; `outbox_rows`: how many are unsent;
    `behind_key`: how many wait behind one key of a listener. `refuse_at`: with so many unsent events, `publish` of
    integration events is refused (None: never)."""

    outbox_age_s: float = 60.0
    outbox_rows: int = 100_000
    behind_key: int = 1_000
    refuse_at: int | None = None

    def __post_init__(self) -> None:
        if (
            min(self.outbox_age_s, self.outbox_rows, self.behind_key, 1 if self.refuse_at is None else self.refuse_at)
            <= 0
        ):
            raise DefinitionError(f"{self}: every limit of an alarm is above 0")

    def raised(self, backlog: Backlog) -> Iterator[tuple[str, str]]:
        """The name of every alarm that is due, and its text."""
        if (waits_s := backlog.oldest_unsent_s or 0.0) >= self.outbox_age_s:
            age, why = f"{waits_s:.0f} s", "is the broker there, and does it take them? → cauce doctor"
            yield "outbox_age", f"the oldest of {backlog.unsent} events waits for {age} to be sent: {why}"
        if backlog.unsent >= self.outbox_rows:
            yield "outbox_rows", f"{backlog.unsent} events wait to be sent → cauce outbox status"
        if backlog.longest >= self.behind_key:
            where = f"key {backlog.longest_key} of {backlog.longest_consumer}"
            yield "behind_key", f"{backlog.longest} events wait behind {where} → cauce dead list, cauce status"
        if backlog.newer_version:
            what = f"{backlog.newer_version} deliveries are of a newer version than this code reads, and wait"
            yield "newer_version", f"{what} → deploy the version that reads them"


class Watch:
    """Checks the thresholds every `every_s` seconds. Only the owner of lane 0 logs: one process of a service."""

    def __init__(
        self,
        alarms: Alarms,
        *,
        message_store: MessageStore,
        ownership: Ownership,
        count: Callable[[str, int], None],
        every_s: float,
    ) -> None:
        self._alarms = alarms
        self._message_store = message_store
        self._ownership = ownership
        self._count = count
        self._every_s = every_s
        self._ringing: frozenset[str] = frozenset()
        self._unsent = 0

    def check_room(self) -> None:
        """Raise OutboxFullError if the last check found `refuse_at` unsent events."""
        limit = self._alarms.refuse_at
        if limit is not None and self._unsent >= limit:
            raise OutboxFullError(self._unsent, limit)

    async def run(self) -> None:
        """Check until cancelled. Other loops report a database that does not answer."""
        while True:
            reports = 0 in self._ownership.lanes()
            if reports or self._alarms.refuse_at is not None:
                try:
                    backlog = await self._message_store.backlog()
                except Exception as error:  # readiness reports it
                    log.debug("the backlog could not be read: %s", type(error).__name__)
                else:
                    self._unsent = backlog.unsent
                    self._report(dict(self._alarms.raised(backlog)) if reports else {})
            await asyncio.sleep(self._every_s)

    def _report(self, raised: dict[str, str]) -> None:
        """Log when an alarm begins and when it is over; in between it is in the figures."""
        for name, what in raised.items():
            if name not in self._ringing:
                self._count("alarms", 1)
                log.error("alarm %s: %s", name, what)
        for name in self._ringing - raised.keys():
            log.warning("alarm %s is over", name)
        self._ringing = frozenset(raised)
