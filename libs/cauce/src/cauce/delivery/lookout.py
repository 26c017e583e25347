"""Look once a second whether anything waits in our lanes: one question for all loops, and for whoever asks how the database is.

Loops are woken when something is committed; what no hint told of is found here. Each loop asked for itself once, and the
health port as well: an idle service had three trips to its database a second instead of one.
"""

import asyncio
from collections.abc import Callable, Mapping

from msgspec import Struct

from cauce.delivery.lanes.ownership import Ownership
from cauce.ports.lanes import Epoch, Lane
from cauce.ports.message_store import MessageStore
from cauce.telemetry.connectivity import DatabaseStatus, no_answer

__all__ = ["DatabaseSeen", "Lookout"]

_EVERY_S = 0.95
"""A little less than the second after which a connection that has rested is tested before it is used."""
_ANSWER_LIMIT_S = 2.0


class DatabaseSeen(Struct, frozen=True):
    """Whether the database answered when it was asked last. `problem`: why not."""

    problem: str | None


class Lookout:
    """Wakes loops that have work. What it sees is a hint: they look for themselves then, and seldom without it."""

    def __init__(
        self,
        *,
        message_store: MessageStore,
        ownership: Ownership,
        trouble: DatabaseStatus,
        to_send: Callable[[], None],
        due: Callable[[], None],
    ) -> None:
        """`to_send` and `due` are called when there is something, and when our lanes are other ones than before."""
        self._message_store = message_store
        self._ownership = ownership
        self._trouble = trouble
        self._to_send = to_send
        self._due = due
        self._lanes: Mapping[Lane, Epoch] = {}
        self.seen: DatabaseSeen | None = None
        """None before the first look."""

    async def run(self) -> None:
        """Look until cancelled. A database that does not answer is asked again."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(_EVERY_S)
        finally:
            self.seen = None

    async def _look(self) -> None:
        lanes = self._ownership.lanes()
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                work = await self._message_store.work(list(lanes))
        except TimeoutError as error:  # it may be busy: loops that get no answer at all report it
            self.seen = DatabaseSeen(no_answer(error))
            return
        except Exception as error:
            self.seen = DatabaseSeen(no_answer(error))
            self._trouble.down(error, retry_in_s=_EVERY_S)
            return
        self.seen = DatabaseSeen(None)
        others, self._lanes = lanes != self._lanes, lanes
        if work.to_send or others:
            self._to_send()
        if work.due or others:
            self._due()
