"""The inbox in memory, on the rows as a listener's own transaction sees them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from msgspec.structs import replace

from cauce.events.envelope import Envelope
from cauce.ports.inbox import (
    FURTHEST,
    Arrival,
    Dead,
    Failure,
    Position,
    Refused,
    WaitingDelivery,
    letter_id,
    sequence_of,
)
from cauce.ports.registration import Joined
from cauce.stores.memory.tables import Clock, Due, Event, Tables, add_waiting, event_of
from cauce.stores.storable import bounded_delivery, storable_failure, storable_line

__all__ = ["MemoryInbox"]


class MemoryInbox:
    """The Inbox of the ports. `rows` waits for the turn of this transaction."""

    def __init__(self, rows: Callable[[], Awaitable[Tables]], clock: Clock, joined: Mapping[str, Joined]) -> None:
        """`joined`: consumers that are new to the service."""
        self._joined = joined
        self._rows = rows
        self._clock = clock

    async def arrive(self, consumer: str, envelopes: Sequence[Envelope], *, idle_s: float) -> Sequence[Arrival]:
        rows = await self._rows()
        return [self._arrive(rows, consumer, envelope) for envelope in envelopes]

    def _arrive(self, rows: Tables, consumer: str, envelope: Envelope) -> Arrival:
        joined = self._joined.get(consumer)
        if joined is not None and _handled_before(rows, joined, envelope):
            return Arrival(known=True)
        if not self._remember(rows, (consumer, envelope.source, envelope.id)):
            return Arrival(known=True)
        if envelope.key is None:
            return Arrival(known=False)
        place = (consumer, envelope.source, envelope.key)
        position = self._position(rows, place)
        seq, incarnation = sequence_of(envelope), envelope.incarnation
        last = position if position is not None and position.incarnation == incarnation else None
        elsewhere = 0
        if seq is not None and seq > FURTHEST + (0 if last is None else last.last_seq):
            others = (one for (_, *key), (one, _) in rows.positions.items() if tuple(key) == place[1:])
            elsewhere = max((one.last_seq for one in others if one.incarnation == incarnation), default=0)
        if seq is not None and seq <= FURTHEST + max(elsewhere, 0 if last is None else last.last_seq):
            self._move(rows, place, envelope)
        return Arrival(known=False, position=position, parked=bool(rows.waiting_at(*place)), elsewhere=elsewhere)

    def _move(self, rows: Tables, place: tuple[str, str, str], envelope: Envelope) -> None:
        seq, incarnation, before = sequence_of(envelope), envelope.incarnation, self._position(rows, place)
        if seq is None or incarnation is None:
            return
        if before is None or before.incarnation != incarnation or before.last_seq < seq:
            rows.positions[place] = (Position(seq, incarnation, envelope.occurred_on.timestamp()), self._clock())

    def _position(self, rows: Tables, place: tuple[str, str, str]) -> Position | None:
        if (found := rows.positions.get(place)) is None:
            return None
        last, moved_at = found
        return replace(last, since_s=self._clock() - moved_at)

    async def move(self, consumer: str, envelope: Envelope) -> None:
        if envelope.key is not None:
            self._move(await self._rows(), (consumer, envelope.source, envelope.key), envelope)

    def _remember(self, rows: Tables, event: Event) -> bool:
        if event in rows.inbox:
            return False
        rows.inbox[event] = (self._clock(), "done")
        return True

    async def first_time(self, consumer: str, source: str, event_id: str) -> bool:
        return self._remember(await self._rows(), (consumer, source, event_id))

    async def mark_started(self, consumer: str, source: str, event_id: str) -> int:
        rows = await self._rows()
        event = (consumer, source, event_id)
        marks = rows.started.get(event, (0, 0.0))[0] + 1
        rows.started[event] = (marks, self._clock())
        return marks

    async def unmark_started(self, consumer: str, source: str, event_id: str) -> None:
        (await self._rows()).started.pop((consumer, source, event_id), None)

    async def begin_effect(self, consumer: str, source: str, event_id: str) -> Literal["first", "in_doubt"]:
        if await self.is_in_doubt(consumer, source, event_id):
            return "in_doubt"
        self._set_state(await self._rows(), (consumer, source, event_id), "sending")
        return "first"

    async def is_in_doubt(self, consumer: str, source: str, event_id: str) -> bool:
        return (await self._rows()).inbox.get((consumer, source, event_id), (0.0, "done"))[1] == "sending"

    async def end_effect(self, consumer: str, source: str, event_id: str) -> None:
        self._set_state(await self._rows(), (consumer, source, event_id), "done")

    def _set_state(self, rows: Tables, event: Event, state: Literal["done", "sending"]) -> None:
        rows.inbox[event] = (rows.inbox.get(event, (self._clock(),))[0], state)

    async def keep(
        self, delivery: WaitingDelivery, *, delay_s: float | None, error: str | None, place: str | None = None
    ) -> None:
        rows, now = await self._rows(), self._clock()
        there = rows.waiting_as(*event_of(delivery))
        next_at = None if delay_s is None else now + delay_s
        if there is not None:
            first = there.delivery.first_failed_at
            failed = replace(
                there.delivery, attempts=delivery.attempts, first_failed_at=now if first is None else first
            )
            rows.waiting[there.position] = Due(there.position, failed, next_at)
            return
        if delay_s is None and error is None and not rows.waiting_at(delivery.consumer, delivery.source, delivery.key):
            next_at = now  # those before it have left meanwhile: nothing else would make it due
        add_waiting(rows, replace(delivery, first_failed_at=None if error is None else now), next_at=next_at)

    async def postpone(self, delivery: WaitingDelivery, *, until_s: float, reason: Refused, error: str) -> None:
        rows, now = await self._rows(), self._clock()
        if rows.waiting_as(*event_of(delivery)) is None:
            add_waiting(rows, delivery, next_at=None)
        there = rows.waiting_as(*event_of(delivery))
        assert there is not None  # noqa: S101  # it was put there just now
        first = now if there.delivery.first_failed_at is None else there.delivery.first_failed_at
        waits = replace(there.delivery, first_failed_at=first)
        rows.waiting[there.position] = Due(there.position, waits, first + until_s, reason)

    async def waited_s(self, delivery: WaitingDelivery) -> float:
        there = (await self._rows()).waiting_as(*event_of(delivery))
        first = None if there is None else there.delivery.first_failed_at
        return 0.0 if first is None else max(0.0, self._clock() - first)

    async def give_back(self, delivery: WaitingDelivery, *, delay_s: float, cause: str) -> None:
        rows = await self._rows()
        next_at = self._clock() + delay_s
        there = rows.waiting_as(*event_of(delivery))
        if there is None:
            add_waiting(rows, delivery, next_at=next_at)
        else:
            kept = replace(there.delivery, troubles=delivery.troubles)
            rows.waiting[there.position] = Due(there.position, kept, next_at)

    async def claim(self, delivery: WaitingDelivery, *, idle_s: float) -> bool:
        if delivery.position is None or not await self.lock(delivery):
            return False
        del (await self._rows()).waiting[delivery.position]
        return True

    async def lock(self, delivery: WaitingDelivery) -> bool:
        rows = await self._rows()
        there = None if delivery.position is None else rows.waiting.get(delivery.position)
        if there is None or there.next_at is None:
            return False
        return there.next_at <= self._clock() and there.delivery.attempts == delivery.attempts

    async def is_paused(self, consumer: str) -> bool:
        return False  # only from the command line, which does not reach into a process

    async def release_next(self, delivery: WaitingDelivery) -> None:
        rows = await self._rows()
        behind = rows.waiting_at(delivery.consumer, delivery.source, delivery.key)
        if behind and behind[0].next_at is None:
            rows.waiting[behind[0].position] = replace(behind[0], next_at=self._clock())

    async def remove_dead_letter(self, delivery: WaitingDelivery) -> bool:
        return (await self._rows()).dead.pop(event_of(delivery), None) is not None

    async def remove(self, delivery: WaitingDelivery) -> None:
        rows = await self._rows()
        if (there := rows.waiting_as(*event_of(delivery))) is not None:
            del rows.waiting[there.position]

    async def write_dead_letter(self, delivery: WaitingDelivery, name: str, failure: Failure) -> None:
        rows, now, failure = await self._rows(), self._clock(), storable_failure(failure)
        event, delivery = event_of(delivery), bounded_delivery(delivery)
        before = rows.dead.get(event)
        first = now if delivery.first_failed_at is None else delivery.first_failed_at
        rows.dead[event] = Dead(
            id=letter_id(delivery),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            name=storable_line(name),
            lane=delivery.lane,
            key=delivery.key,
            channel=storable_line(delivery.channel),
            message=delivery.message,
            reason=failure.reason,
            error=failure.error,
            stack=failure.stack,
            attempts=failure.attempts,
            first_at=first if before is None else before.first_at,
            last_at=now,
            worker=failure.worker,
            whole=delivery.whole,
        )


def _handled_before(rows: Tables, joined: Joined, envelope: Envelope) -> bool:
    events = ((other, envelope.source, envelope.id) for other in joined.others)
    return any(event in rows.inbox and rows.inbox[event][0] < joined.at for event in events)
