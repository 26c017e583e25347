"""From the broker to the workers, or out of the way with its bytes kept."""

import logging
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from cauce.concurrency.backoff import Backoff
from cauce.delivery.inbox.failures import delivery_of_bytes
from cauce.delivery.inbox.gaps import Gaps
from cauce.delivery.inbox.jobs import Job, RefusedJob, queue_of
from cauce.delivery.inbox.listening import Listening
from cauce.delivery.inbox.reading import Refusal, read
from cauce.delivery.inbox.workers import Workers
from cauce.delivery.lanes.ownership import Ownership
from cauce.errors import TransportUnavailableError
from cauce.events.envelope import Envelope
from cauce.ports.lanes import Epoch, Lane, lane_of
from cauce.ports.message_store import MessageStore
from cauce.ports.transport import BrokerId, Delivery, DurableTransport, Status
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["DurableConsumer"]

log = logging.getLogger("cauce.durable")

_RETRY_S = 1.0


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
        trouble: DatabaseStatus,
        count: Callable[[str, int], None],
        may_read: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_read`: whether what the broker has for the service's name is ours; asked before every read."""
        self._may_read = may_read
        self._listening = listening
        self._message_store = message_store
        self._ownership = ownership
        self._workers = workers
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
            await self._no_event(delivery)
            return
        event_type = self._listening.types.get(envelope.name)
        if event_type is None:
            self._report_gap(envelope, delivery.tenure)
            self._count("unheard", 1)
            await delivery.ack()
            return
        lane = delivery.lane if delivery.lane is not None else lane_of(envelope)
        listeners = self._listening.listeners.get(event_type, ())
        found = read(envelope, self._listening.types)
        if isinstance(found, Refusal):
            consumers = self._listening.identities.consumers(listeners)
            await self._refuse(delivery, envelope, found, consumers, lane)
            return
        self._report_gap(envelope, delivery.tenure)
        await self._workers.submit(
            Job(
                emission=found,
                listeners=listeners,
                lane=lane,
                tenure=delivery.tenure,
                suspect=delivery.redelivered and self._ownership.was_abandoned(lane),
                delivery=delivery,
            )
        )

    async def _refuse(
        self, delivery: Delivery, envelope: Envelope, refusal: Refusal, consumers: Sequence[str], lane: Lane
    ) -> None:
        """Submit an event that no listener can be given. One of a wrong source has no place among those of its key."""
        if refusal.reason == "wrong source":
            self._count("wrong_source", 1)
        else:
            self._report_gap(envelope, delivery.tenure)
        if refusal.reason == "newer version":
            self._count("newer_version", 1)
        await self._workers.submit(
            RefusedJob(
                envelope=envelope,
                refusal=refusal,
                consumers=consumers,
                queue=envelope.id if refusal.reason == "wrong source" else queue_of(envelope),
                lane=lane,
                tenure=delivery.tenure,
                delivery=delivery,
            )
        )

    async def _no_event(self, delivery: Delivery) -> None:
        """An entry that may be of any size: from here on only as much of it is held as its dead letter keeps."""
        lane = delivery.lane if delivery.lane is not None else Lane(0)
        if delivery.foreign:
            self._count("wrong_source", 1)
        kept = delivery_of_bytes(self._listening.service, delivery.channel, lane, delivery.raw)
        await self._workers.submit(
            RefusedJob(
                envelope=None,
                refusal=Refusal(
                    "wrong source" if delivery.foreign else "undecodable", delivery.problem or "not an event"
                ),
                consumers=[self._listening.service],
                queue=kept.event_id,
                lane=lane,
                tenure=delivery.tenure,
                delivery=replace(delivery, raw=kept.message),
                kept=kept,
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

    def _lanes_to_read(self) -> Mapping[Lane, Epoch]:
        lanes: Mapping[Lane, Epoch] = self._ownership.lanes() if self._may_read() else {}
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
