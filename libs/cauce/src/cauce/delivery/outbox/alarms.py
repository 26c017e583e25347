"""What a person should hear of before it hurts: events that do not leave, and keys that many events wait behind.

Nothing is stopped by an alarm and nothing is dropped: a slow group, a full broker and a parked key cost room in the
database, and the room is what is watched. Only a service that says so (`refuse_at`) takes no more events at some point,
which its callers then see (OutboxFullError, HTTP 503).
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
    """From where on something is said. `outbox_age_s`: the oldest event that is not sent, in seconds; `outbox_rows`: how
    many are not sent; `behind_key`: how many wait behind one key of a listener. `refuse_at`: with so many events not
    sent, `publish` of integration events refuses (None: never)."""

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
        """The name of every alarm that is due, and what it says."""
        if (waits_s := backlog.oldest_unsent_s or 0.0) >= self.outbox_age_s:
            age, why = f"{waits_s:.0f} s", "is the broker there, and does it take them? → cauce doctor"
            yield "outbox_age", f"the oldest of {backlog.unsent} events waits for {age} to be sent: {why}"
        if backlog.unsent >= self.outbox_rows:
            yield "outbox_rows", f"{backlog.unsent} events wait to be sent → cauce outbox status"
        if backlog.longest >= self.behind_key:
            where = f"key {backlog.longest_key} of {backlog.longest_consumer}"
            yield "behind_key", f"{backlog.longest} events wait behind {where} → cauce dead list, cauce status"


class Watch:
    """Looks every `every_s`; the owner of lane 0 speaks, so that one process of a service does."""

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
        """OutboxFullError if events were not sent for so long that no more are to be taken. By the last look."""
        limit = self._alarms.refuse_at
        if limit is not None and self._unsent >= limit:
            raise OutboxFullError(self._unsent, limit)

    async def run(self) -> None:
        """Until cancelled. A database that cannot be asked is the trouble of those who need it."""
        while True:
            speaks = 0 in self._ownership.lanes()
            if speaks or self._alarms.refuse_at is not None:
                try:
                    backlog = await self._message_store.backlog()
                except Exception as error:  # readiness reports it
                    log.debug("the backlog could not be read: %s", type(error).__name__)
                else:
                    self._unsent = backlog.unsent
                    self._say(dict(self._alarms.raised(backlog)) if speaks else {})
            await asyncio.sleep(self._every_s)

    def _say(self, raised: dict[str, str]) -> None:
        """When an alarm begins, and when it is over; what lasts is in the figures."""
        for name, what in raised.items():
            if name not in self._ringing:
                self._count("alarms", 1)
                log.error("alarm %s: %s", name, what)
        for name in self._ringing - raised.keys():
            log.warning("alarm %s is over", name)
        self._ringing = frozenset(raised)
