"""From a delivery to the listeners: decoded once, in order per key, every listener in a transaction of its own.

Sixteen lanes run side by side; a lane handles one delivery after the other. The key decides the lane, so two events
of one key never overtake each other, and a slow listener delays a sixteenth of the keys at most.
"""

import asyncio
import logging
import os
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cauce.envelope import Emission, Envelope, current_emission, key_of
from cauce.errors import DecodeError
from cauce.events import Event, IntegrationEvent, describe
from cauce.listeners import Listener
from cauce.transport import LANES, Delivery, lane_of

__all__ = ["Consumer", "decode", "log_failure"]

log = logging.getLogger("cauce.consumer")

_QUEUE_PER_LANE = 256

Handle = Callable[[Listener, Emission, Delivery], Awaitable[None]]
"""Run one listener; raises what it raises."""


def decode(raw: bytes | msgspec.Raw, event_type: type[IntegrationEvent]) -> IntegrationEvent:
    """The typed event. DecodeError says where in the payload it does not fit, never what stands there."""
    name = describe(event_type).name
    try:
        return msgspec.json.decode(raw, type=event_type)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at ")
        raise DecodeError(name, path=path.strip("`") or "$", expectation=_without_values(text)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(name, path="$", expectation=f"not JSON ({type(error).__name__})") from None


def _without_values(text: str) -> str:
    """msgspec names types, and for enums the value; the value may be somebody's data."""
    return re.sub(r"value .*", "value", text)[:200].replace("`", "")


@dataclass(frozen=True, slots=True)
class _Job:
    """A delivery that is an event somebody here hears."""

    event_type: type[IntegrationEvent]
    emission: Emission
    delivery: Delivery


class Consumer:
    """The lanes between a transport and the listeners of integration events."""

    def __init__(
        self,
        *,
        types: Mapping[str, type[IntegrationEvent]],
        listeners: Mapping[type[IntegrationEvent], Sequence[Listener]],
        handle: Handle,
        count: Callable[[str], None],
    ) -> None:
        """`types`: event classes by every name they are accepted under."""
        self._types = types
        self._listeners = listeners
        self._handle = handle
        self._count = count
        self._lanes: list[asyncio.Queue[_Job]] = [asyncio.Queue(_QUEUE_PER_LANE) for _ in range(LANES)]
        self._unfinished = 0

    async def deliver(self, delivery: Delivery) -> None:
        """Accept a delivery; waits while its lane is full. What is no event of ours is said, counted and done with."""
        self._count("received")
        job = self._understand(delivery)
        if job is None:
            await _acknowledge(delivery)
            return
        self._unfinished += 1
        await self._lanes[lane_of(job.emission.envelope)].put(job)

    async def run(self) -> None:
        """Work the lanes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(self._work(lane))

    async def drain(self) -> None:
        """Return when everything accepted so far is handled."""
        for lane in self._lanes:
            await lane.join()

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
            event = envelope.payload if isinstance(envelope.payload, Event) else decode(envelope.payload, event_type)
        except DecodeError as error:
            self._refuse(delivery, f"{error.path}: {error.expectation}")
            return None
        described = describe(event_type)
        # Whatever name it came under, from here on it has its own.
        known = msgspec.structs.replace(envelope, name=described.name, payload=event, key=key_of(event, described))
        return _Job(event_type, Emission(event, None, known.source, known), delivery)

    async def _work(self, lane: "asyncio.Queue[_Job]") -> None:
        while True:
            job = await lane.get()
            try:
                await self._tell(job)
                await _acknowledge(job.delivery)
            finally:
                self._unfinished -= 1
                lane.task_done()

    async def _tell(self, job: _Job) -> None:
        """Every listener once. Whatever goes wrong with one is said and counted; the others and the lane go on."""
        token = current_emission.set(job.emission)
        try:
            for listener in self._listeners.get(job.event_type, ()):
                try:
                    await self._handle(listener, job.emission, job.delivery)
                except Exception as error:  # one listener's error is not the others'
                    self._count("failed")
                    log_failure(log, listener, job.emission.envelope, error)
                else:
                    self._count("handled")
        finally:
            current_emission.reset(token)

    def _refuse(self, delivery: Delivery, problem: str) -> None:
        self._count("refused")
        envelope = delivery.envelope
        what = f"{envelope.name} {envelope.id} from {envelope.source or 'unknown'}" if envelope else delivery.channel
        log.error("refused: %s · %s · %d bytes", what, problem, len(delivery.raw))


async def _acknowledge(delivery: Delivery) -> None:
    try:
        await delivery.ack()
    except Exception as error:  # the broker's trouble is reported by the transport
        log.warning("%s: could not be acknowledged: %s", delivery.channel, error)


def log_failure(log: logging.Logger, listener: Listener, envelope: Envelope, error: Exception) -> None:
    """One line with who, what, why and where, and the traceback beneath it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" · {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    log.error("%s failed on %s %s: %s%s", listener.name, envelope.name, envelope.id, reason, place, exc_info=error)
