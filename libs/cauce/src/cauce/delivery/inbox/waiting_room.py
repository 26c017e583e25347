"""The loop of the waiting room (retry queue): what is due in our lanes goes to the workers, once."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from cauce.concurrency.backoff import Backoff
from cauce.delivery.inbox.jobs import Job, RefusedJob
from cauce.delivery.inbox.listening import Listening
from cauce.delivery.inbox.reading import Refusal, read
from cauce.delivery.inbox.workers import BOUND, Workers
from cauce.delivery.lanes.ownership import Ownership
from cauce.errors import DecodeError
from cauce.events.envelope import Emission, Envelope
from cauce.events.event import Event
from cauce.formats.cloudevents import from_json
from cauce.listeners.listener import Listener
from cauce.ports.inbox import WaitingDelivery
from cauce.ports.lanes import Epoch, Lane
from cauce.ports.message_store import MessageStore
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["WaitingRoom"]

_POLL_FIRST_S = 0.05
_POLL_CAP_S = 30.0
"""The table is looked into so seldom when nothing wakes this loop: the Lookout looks each second."""
_RETRY_CAP_S = 1.0
_LOOK_AGAIN_EVERY_S = 300.0
_IN_TROUBLE = BOUND // 4
"""How many that have met trouble the workers are given at most: each may take long, and the room is for the others too."""


class WaitingRoom:
    """Finds deliveries that are due. Its table is the port cauce.ports.inbox.WaitingRoom, in `message_store`."""

    def __init__(
        self,
        listening: Listening,
        *,
        message_store: MessageStore,
        ownership: Ownership,
        workers: Workers,
        trouble: DatabaseStatus,
    ) -> None:
        self._listening = listening
        self._message_store = message_store
        self._ownership = ownership
        self._workers = workers
        self._trouble = trouble
        self._taken: set[int] = set()
        """Positions of deliveries that the workers have."""
        self._in_trouble: set[int] = set()
        """Those of them that have met trouble with the database."""
        self._left_since_read: set[int] = set()
        """Positions the workers were done with after the last read began: its rows may be older than their outcome."""
        self._lanes_swept: dict[Lane, Epoch] = {}
        """Lanes whose waiting deliveries were read since we own them, with their epochs."""
        self._look_at = time.monotonic() + _LOOK_AGAIN_EVERY_S
        self._backoff = Backoff(_POLL_FIRST_S, _POLL_CAP_S)

    def wake(self) -> None:
        """Look now: something may be due."""
        self._backoff.wake()

    async def run(self) -> None:
        """Take what is due to the workers, until cancelled."""
        while True:
            await self._round()
            await self._backoff.pause()

    async def _round(self) -> None:
        worked = False
        try:
            lanes = self._ownership.lanes()
            new = {lane for lane, epoch in lanes.items() if self._lanes_swept.get(lane) != epoch}
            self._left_since_read.clear()
            await self._look_again(lanes, new)
            for waiting in await self._due(list(lanes)):
                suspect = waiting.lane in new and self._ownership.was_abandoned(waiting.lane)
                worked = await self._take(waiting, lanes[waiting.lane], suspect=suspect) or worked
            self._lanes_swept = dict(lanes)
        except Exception as error:
            self._backoff.grow(cap_s=_RETRY_CAP_S)
            self._trouble.down(error, retry_in_s=self._backoff.pause_s)
            return
        if worked:
            self._backoff.reset()
        else:
            self._backoff.grow()

    async def _due(self, lanes: Sequence[Lane]) -> Sequence[WaitingDelivery]:
        """What is due, and of what has met trouble only as much as there is room for."""
        known, room = self._listening.known, _IN_TROUBLE - len(self._in_trouble)
        due = await self._message_store.due(lanes, limit=BOUND, known=known)
        troubled = [one for one in due if one.troubles and one.position not in self._taken]
        if len(troubled) <= room:
            return due
        others = await self._message_store.due(lanes, limit=BOUND, known=known, in_trouble=False)
        return [*others, *troubled[:room]]

    async def _look_again(self, lanes: Collection[Lane], new: Collection[Lane]) -> None:
        """What was postponed is looked at when we take a lane over: our code may read it. And now and then, because its
        earlier owner may have postponed something at the same moment."""
        if now_and_then := time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_AGAIN_EVERY_S
        if again := lanes if now_and_then else new:
            await self._message_store.look_again(sorted(again))

    async def _take(self, waiting: WaitingDelivery, tenure: Epoch, *, suspect: bool) -> bool:
        """Submit the delivery unless the workers have it, or it cannot be handled here; whether it was submitted."""
        position, listener = waiting.position, self._listening.by_consumer.get(waiting.consumer)
        if position is None or position in self._taken or position in self._left_since_read:
            return False
        if listener is None:
            return False
        self._taken.add(position)
        if waiting.troubles:
            self._in_trouble.add(position)
        job = self._job(waiting, listener, tenure, suspect=suspect, left=partial(self._left, position))
        await self._workers.submit(job)
        return True

    def _left(self, position: int) -> None:
        self._taken.discard(position)
        self._in_trouble.discard(position)
        self._left_since_read.add(position)
        self._backoff.wake()

    def _job(
        self, waiting: WaitingDelivery, listener: Listener, tenure: Epoch, *, suspect: bool, left: Callable[[], None]
    ) -> Job | RefusedJob:
        envelope, found = _read(waiting, self._listening.types)
        if isinstance(found, Refusal):
            return RefusedJob(
                envelope=envelope,
                refusal=found,
                consumers=[waiting.consumer],
                queue=(waiting.source, waiting.key if waiting.key is not None else waiting.event_id),
                lane=waiting.lane,
                tenure=tenure,
                waiting=waiting,
                left=left,
            )
        return Job(
            emission=found,
            listeners=(listener,),
            lane=waiting.lane,
            tenure=tenure,
            suspect=suspect,
            waiting=waiting,
            troubled=waiting.troubles > 0,
            left=left,
        )


def _read(
    waiting: WaitingDelivery, types: Mapping[str, type[Event]]
) -> tuple[Envelope, Emission | Refusal] | tuple[None, Refusal]:
    try:
        envelope = from_json(waiting.message)
    except DecodeError as error:
        return None, Refusal("undecodable", f"{error.path}: {error.expectation}")
    return envelope, read(envelope, types)
