"""From the broker to the workers, or out of the way with its bytes kept."""

import logging
from collections.abc import Callable, Mapping

from cauce.concurrency.backoff import Backoff
from cauce.delivery.inbox.failures import Failures
from cauce.delivery.inbox.gaps import Gaps
from cauce.delivery.inbox.listening import Listening
from cauce.delivery.inbox.workers import Job, Workers
from cauce.delivery.lanes.ownership import Ownership
from cauce.errors import DecodeError, TransportUnavailableError
from cauce.events.envelope import Envelope
from cauce.formats.decoding import typed
from cauce.listeners.listener import consumer_name
from cauce.ports.lanes import Epoch, Lane, lane_of
from cauce.ports.message_store import MessageStore
from cauce.ports.transport import BrokerId, Delivery, DurableTransport, Status
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["DurableConsumer"]

log = logging.getLogger("cauce.durable")

_RETRY_S = 1.0
_REFUSE_AGAIN_FIRST_S = 0.1
_REFUSE_AGAIN_CAP_S = 5.0


class _Reading:
    """The status of the subscription; while it is down, no read is under way."""

    def __init__(self, status: Status, ended: Callable[[], None]) -> None:
        self._status = status
        self._ended = ended

    def up(self) -> None:
        self._status.up()

    def down(self, reason: str, *, retry_in_s: float) -> None:
        self._ended()
        self._status.down(reason, retry_in_s=retry_in_s)


class DurableConsumer:
    """Takes the entries of our lanes from the broker."""

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
        self._gaps = Gaps()
        self._lanes_being_read: frozenset[Lane] = frozenset()

    async def run(self, transport: DurableTransport, status: Status) -> None:
        """Consume until cancelled. `status` is told whether the subscription is up."""
        since = await self._since(transport, status)
        await transport.consume(
            self._listening.subscription,
            self.deliver,
            _Reading(status, self._nothing_is_read),
            group=self._listening.service,
            lanes=self._lanes_to_read,
            since=since,
        )

    def reads(self, lane: Lane) -> bool:
        """Whether a read of the lane may be under way, and may still be given an entry."""
        return lane in self._lanes_being_read

    async def deliver(self, delivery: Delivery) -> None:
        """Take an entry of the broker to the listeners of its event, or out of the way with its bytes kept."""
        self._count("received", 1)
        envelope = delivery.envelope
        if delivery.lost:
            # Nothing can be done here: the producer misses it when it verifies the lane, and sends it again.
            self._count("loss_detected", 1)
            log.error("%s: %s", delivery.channel, delivery.problem)
            await delivery.ack()
            return
        if envelope is None:
            await self._refuse_everywhere(delivery, None, delivery.problem or "not an event")
            return
        lane = delivery.lane if delivery.lane is not None else lane_of(envelope)
        self._report_gap(envelope, delivery.tenure)
        event_type = self._listening.types.get(envelope.name)
        if event_type is None:
            self._count("unheard", 1)
            await delivery.ack()
            return
        try:
            emission = typed(envelope, event_type)
        except DecodeError as error:
            await self._refuse_everywhere(delivery, envelope, f"{error.path}: {error.expectation}")
            return
        await self._workers.submit(
            Job(
                emission=emission,
                listeners=self._listening.listeners.get(event_type, ()),
                lane=lane,
                tenure=delivery.tenure,
                suspect=delivery.redelivered and self._ownership.was_abandoned(lane),
                delivery=delivery,
            )
        )

    def _report_gap(self, envelope: Envelope, tenure: int | None) -> None:
        if tenure is not None and (missing := self._gaps.missing_before(envelope, tenure)):
            self._count("gap_detected", missing)
            log.error(
                "%s: before event %s of key %s (number %s) %d of its key did not come: lost, or discarded at %s "
                "→ cauce outbox status, there",
                self._listening.service, envelope.id, envelope.key, envelope.key_seq, missing, envelope.source,
            )  # fmt: skip

    async def _refuse_everywhere(self, delivery: Delivery, envelope: Envelope | None, why: str) -> None:
        """Write a dead letter for every listener the delivery was for, then acknowledge it."""
        service = self._listening.service
        event_type = self._listening.types.get(envelope.name) if envelope else None
        listeners = self._listening.listeners.get(event_type, ()) if event_type else ()
        backoff = Backoff(_REFUSE_AGAIN_FIRST_S, _REFUSE_AGAIN_CAP_S)
        for consumer in [consumer_name(service, listener) for listener in listeners] or [service]:
            while True:
                try:
                    await self._failures.refuse(consumer, envelope, delivery.channel, delivery.raw, why)
                    break
                except Exception as error:
                    self._trouble.down(error, retry_in_s=backoff.pause_s)
                    await backoff.pause()
                    backoff.grow()
            self._count("dead", 1)
        log.error("dead: %s · raw bytes kept (%d)", _what(delivery, envelope, why), len(delivery.raw))
        await delivery.ack()

    def _lanes_to_read(self) -> Mapping[Lane, Epoch]:
        lanes = self._ownership.lanes()
        self._lanes_being_read = frozenset(lanes)
        return lanes

    def _nothing_is_read(self) -> None:
        self._lanes_being_read = frozenset()

    async def _since(self, transport: DurableTransport, status: Status) -> Mapping[str, BrokerId]:
        """Where our group begins in every topic, by the broker's clock where it begins now."""
        topics = sorted(self._listening.subscription.topics)
        backoff = Backoff(_RETRY_S, _RETRY_S)
        while True:
            try:
                return {topic: await self._since_in(topic, transport) for topic in topics}
            except TransportUnavailableError as error:
                status.down(str(error), retry_in_s=backoff.pause_s)
            except Exception as error:
                self._trouble.down(error, retry_in_s=backoff.pause_s)
            await backoff.pause()
            backoff.grow()

    async def _since_in(self, topic: str, transport: DurableTransport) -> BrokerId:
        begin = "0-0" if self._listening.starts[topic] == "retained" else await transport.now(topic)
        return BrokerId(await self._message_store.since(topic, begin))


def _what(delivery: Delivery, envelope: Envelope | None, why: str) -> str:
    if envelope is None:
        return f"{delivery.channel} · {why}"
    version = f" {envelope.source_version}" if envelope.source_version else ""
    return f"{envelope.name} {envelope.id} · {why} · from {envelope.source}{version}"
