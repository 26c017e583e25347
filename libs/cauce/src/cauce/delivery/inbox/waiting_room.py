"""The loop of the waiting room (retry queue): what is due in our lanes goes to the workers, once."""

import logging
from collections.abc import Callable
from functools import partial

from cauce.concurrency.backoff import Backoff
from cauce.delivery.inbox.failures import Failures
from cauce.delivery.inbox.listening import Listening
from cauce.delivery.inbox.workers import BOUND, Job, Workers
from cauce.delivery.lanes.ownership import Ownership
from cauce.errors import DecodeError
from cauce.formats.cloudevents import from_json
from cauce.formats.decoding import typed
from cauce.ports.inbox import WaitingDelivery
from cauce.ports.lanes import Epoch, Lane
from cauce.ports.message_store import MessageStore
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["WaitingRoom"]

log = logging.getLogger("cauce.durable")

_POLL_FIRST_S = 0.05
_POLL_CAP_S = 1.0


class WaitingRoom:
    """Finds deliveries that are due. Its table is the port cauce.ports.inbox.WaitingRoom, in `message_store`."""

    def __init__(
        self,
        listening: Listening,
        *,
        message_store: MessageStore,
        ownership: Ownership,
        workers: Workers,
        failures: Failures,
        trouble: DatabaseStatus,
        count: Callable[[str, int], None],
    ) -> None:
        self._listening = listening
        self._message_store = message_store
        self._ownership = ownership
        self._workers = workers
        self._failures = failures
        self._trouble = trouble
        self._count = count
        self._taken: set[int] = set()
        """Positions of deliveries that the workers have."""
        self._left_since_read: set[int] = set()
        """Positions the workers were done with after the last read began: its rows may be older than their outcome."""
        self._unreadable: set[int] = set()
        """Positions of deliveries that this code cannot decode, or has no class for: another version may."""
        self._lanes_swept: dict[Lane, Epoch] = {}
        """Lanes whose waiting deliveries were read since we own them, with their epochs."""
        self._backoff = Backoff(_POLL_FIRST_S, _POLL_CAP_S)

    def wake(self) -> None:
        """Look now: something may be due."""
        self._backoff.wake()

    async def run(self) -> None:
        """Take what is due to the workers, until cancelled."""
        while True:
            if await self._round():
                self._backoff.reset()
            else:
                self._backoff.grow()
            await self._backoff.pause()

    async def _round(self) -> bool:
        """Whether the workers were given anything."""
        worked = False
        try:
            lanes = self._ownership.lanes()
            new = {lane for lane, epoch in lanes.items() if self._lanes_swept.get(lane) != epoch}
            self._left_since_read.clear()
            due = await self._message_store.due(
                list(lanes), limit=BOUND, known=self._listening.known, besides=self._unreadable
            )
            for waiting in due:
                suspect = waiting.lane in new and self._ownership.was_abandoned(waiting.lane)
                worked = await self._take(waiting, lanes[waiting.lane], suspect=suspect) or worked
            self._lanes_swept = dict(lanes)
        except Exception as error:
            self._trouble.down(error, retry_in_s=self._backoff.pause_s)
        return worked

    async def _take(self, waiting: WaitingDelivery, tenure: Epoch, *, suspect: bool) -> bool:
        """Submit the delivery unless the workers have it, or it cannot be handled here; whether it was submitted."""
        position, listener = waiting.position, self._listening.by_consumer.get(waiting.consumer)
        if position is None or position in self._taken or position in self._left_since_read:
            return False
        if listener is None:
            return False
        name = "?"
        try:
            envelope = from_json(waiting.message)
            name = envelope.name
            event_type = self._listening.types.get(name)
            if event_type is None:  # written by a version of Cauce that did not say so in the row
                self._unreadable.add(position)
                return False
            emission = typed(envelope, event_type)
        except DecodeError as error:
            await self._not_readable(position, waiting, name, error)
            return False
        self._taken.add(position)
        job = Job(
            emission=emission,
            listeners=(listener,),
            lane=waiting.lane,
            tenure=tenure,
            suspect=suspect,
            waiting=waiting,
            left=partial(self._left, position),
        )
        await self._workers.submit(job)
        return True

    def _left(self, position: int) -> None:
        self._taken.discard(position)
        self._left_since_read.add(position)
        self._backoff.wake()

    async def _not_readable(self, position: int, waiting: WaitingDelivery, name: str, error: DecodeError) -> None:
        """Refuse a replay again; anything else may be a later version's, and waits for it."""
        if position in self._unreadable:
            return
        why = f"{error.path}: {error.expectation}"
        if await self._failures.refuse_replay(waiting, name, why):
            self._count("dead", 1)
            log.error("dead: %s for %s was replayed and is refused again: %s", waiting.event_id, waiting.consumer, why)
        else:
            self._unreadable.add(position)
            log.error("waiting delivery %d cannot be read by this version: %s", position, error)
