"""From a delivery to the listeners: decoded once, in order per key, every listener in a transaction of its own.

Sixteen lanes run side by side; a lane handles one delivery after the other. The key decides the lane, so two events
of one key never overtake each other, and a slow listener delays a sixteenth of the keys at most.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from cauce.errors import DecodeError
from cauce.events.envelope import Emission, current_emission
from cauce.events.event import IntegrationEvent
from cauce.formats.decoding import typed
from cauce.listeners.calling import log_failure
from cauce.listeners.listener import Listener
from cauce.ports.lanes import LANES, lane_of
from cauce.ports.transport import Delivery
from cauce.telemetry.log_text import one_line

__all__ = ["VolatileConsumer"]

log = logging.getLogger("cauce.consumer")

_QUEUE_PER_LANE = 256

Handle = Callable[[Listener, Emission, Delivery], Awaitable[None]]
"""Run one listener; raises what it raises."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A delivery that is an event somebody here hears."""

    event_type: type[IntegrationEvent]
    emission: Emission
    delivery: Delivery


class VolatileConsumer:
    """The lanes between a transport and the listeners of integration events."""

    def __init__(
        self,
        *,
        service: str,
        types: Mapping[str, type[IntegrationEvent]],
        listeners: Mapping[type[IntegrationEvent], Sequence[Listener]],
        handle: Handle,
        count: Callable[[str], None],
    ) -> None:
        """`types`: event classes by every name they are accepted under."""
        self._service = service
        self._types = types
        self._listeners = listeners
        self._handle = handle
        self._count = count
        self._lanes: list[asyncio.Queue[_Job]] = [asyncio.Queue(_QUEUE_PER_LANE) for _ in range(LANES)]
        self._unfinished = 0
        self._closed = False

    async def deliver(self, delivery: Delivery) -> None:
        """Accept a delivery; waits while its lane is full. What is no event of ours is said, counted and done with."""
        if self._closed:
            return
        self._count("received")
        job = self._understand(delivery)
        if job is None:
            await _acknowledge(delivery)
            return
        self._unfinished += 1
        try:
            await self._lanes[lane_of(job.emission.envelope)].put(job)
        except BaseException:
            self._unfinished -= 1  # not accepted: the transport is being stopped
            raise

    async def run(self) -> None:
        """Work the lanes until cancelled. What was not handled then is forgotten, and nobody waits for room."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for lane in self._lanes:
                    tasks.create_task(self._work(lane))
        finally:
            self._closed = True
            for lane in self._lanes:
                while not lane.empty():
                    lane.get_nowait()

    @property
    def unfinished(self) -> int:
        """How many deliveries were accepted and are not handled yet."""
        return self._unfinished

    def _understand(self, delivery: Delivery) -> _Job | None:
        envelope = delivery.envelope
        if envelope is None:
            self._refuse(delivery, delivery.problem or "not an event")
            return None
        event_type = self._types.get(envelope.name)
        if event_type is None:
            self._count("unheard")
            return None
        try:
            # The key is what this service's class says: no lane of a broker depends on it.
            return _Job(event_type, typed(replace(envelope, key=None), event_type), delivery)
        except DecodeError as error:
            self._refuse(delivery, f"{error.path}: {error.expectation}", event_type)
            return None

    async def _work(self, lane: "asyncio.Queue[_Job]") -> None:
        while True:
            job = await lane.get()
            try:
                await self._tell(job)
                await _acknowledge(job.delivery)
            finally:
                self._unfinished -= 1

    async def _tell(self, job: _Job) -> None:
        """Every listener once. Whatever goes wrong with one is said and counted; the others and the lane go on."""
        token = current_emission.set(job.emission)
        try:
            for listener in self._listeners.get(job.event_type, ()):
                try:
                    await self._handle(listener, job.emission, job.delivery)
                except Exception as error:  # one listener's error is not the others'
                    self._count("failed")
                    log_failure(log, self._service, listener, job.emission.envelope, error)
                else:
                    self._count("handled")
        finally:
            current_emission.reset(token)

    def _refuse(self, delivery: Delivery, problem: str, event_type: type[IntegrationEvent] | None = None) -> None:
        """One line: what, where it does not fit, who sent it, what to do. Never the value: it may be a secret."""
        self._count("refused")
        envelope = delivery.envelope
        if envelope is None or event_type is None:
            what, sender, fix = f"a message on {delivery.channel}", "", " → correct whoever publishes it there"
        else:
            what, sender = f"{envelope.name} {envelope.id}", f" · from {envelope.source or 'unknown'}"
            home = f"{event_type.__module__}.{event_type.__qualname__}"
            fix = f" → correct the sender, or {home}"
        line = f"{self._service} refused {what} · {problem}{sender} · {len(delivery.raw)} bytes, not kept{fix}"
        log.error("%s", one_line(line))


async def _acknowledge(delivery: Delivery) -> None:
    try:
        await delivery.ack()
    except Exception as error:  # the broker's trouble is reported by the transport
        log.warning("%s", one_line(f"{delivery.channel}: could not be acknowledged: {error}"))
