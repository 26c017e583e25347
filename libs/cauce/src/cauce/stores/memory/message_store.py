"""The message store in memory: rows in dictionaries, and transactions that see their own changes before others do.

Listeners' transactions take turns, as writers of SQLite do. The relay's side needs none: each of its methods is one
step that nothing can interrupt, on what is committed.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any, Generic, Literal, TypeVar
from uuid import uuid4

from msgspec.structs import replace as with_fields

from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import outgoing as message_of
from cauce.ports.inbox import Arrival, Dead, Failure, Position, WaitingDelivery, letter_id, sequence_of
from cauce.ports.lanes import LANES, Epoch, Lane, LaneRow, MemberId, lane_of
from cauce.ports.message_store import belongs_to_another
from cauce.ports.outbox import Backlog, OutboxRow, Outgoing
from cauce.ports.transport import BrokerId

__all__ = ["MemoryInbox", "MemoryMessageStore", "Tables", "write_outgoing"]

K = TypeVar("K")
V = TypeVar("V")
Clock = Callable[[], float]
Event = tuple[str, str, str]
"""Consumer, source, event id."""

_MEMBER_FORGOTTEN_S = 3600.0


class Layer(MutableMapping[K, V], Generic[K, V]):
    """Changes over other rows, which have them only once they are merged."""

    def __init__(self, below: MutableMapping[K, V]) -> None:
        self._below = below
        self._changes: dict[K, V | None] = {}

    def __getitem__(self, key: K) -> V:
        found = self._changes[key] if key in self._changes else self._below[key]
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: K, value: V) -> None:
        self._changes[key] = value

    def __delitem__(self, key: K) -> None:
        _ = self[key]
        self._changes[key] = None

    def __iter__(self) -> Iterator[K]:
        yield from (key for key in self._below if key not in self._changes)
        yield from (key for key, value in self._changes.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def merge(self) -> None:
        for key, value in self._changes.items():
            if value is None:
                self._below.pop(key, None)
            else:
                self._below[key] = value


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of the outbox, and what became of it."""

    row: OutboxRow
    created_at: float
    problem: str | None = None
    sent_at: float = 0.0
    broker_id: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery in the waiting room, and when its turn is (None: when those before it are gone)."""

    position: int
    delivery: WaitingDelivery
    next_at: float | None

    @property
    def place(self) -> tuple[str, str, str | None]:
        return self.delivery.consumer, self.delivery.source, self.delivery.key


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything the store keeps, as one transaction sees it. Rows are never changed, only replaced."""

    unsent: MutableMapping[int, Kept] = field(default_factory=dict[int, Kept])
    sent: MutableMapping[int, Kept] = field(default_factory=dict[int, Kept])
    key_head: MutableMapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    inbox: MutableMapping[Event, tuple[float, Literal["done", "sending"]]] = field(
        default_factory=dict[Event, tuple[float, Literal["done", "sending"]]]
    )
    started: MutableMapping[Event, tuple[int, float]] = field(default_factory=dict[Event, tuple[int, float]])
    positions: MutableMapping[Event, Position] = field(default_factory=dict[Event, Position])
    waiting: MutableMapping[int, Due] = field(default_factory=dict[int, Due])
    dead: MutableMapping[Event, Dead] = field(default_factory=dict[Event, Dead])
    members: MutableMapping[MemberId, float] = field(default_factory=dict[MemberId, float])
    lanes: MutableMapping[Lane, tuple[MemberId | None, Epoch]] = field(
        default_factory=lambda: {Lane(lane): (None, Epoch(0)) for lane in range(LANES)}
    )
    meta: MutableMapping[str, str] = field(default_factory=lambda: {"incarnation": str(uuid4())})
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """A position stands for one row for ever, also for one that was rolled back."""

    def over(self) -> "Tables":
        """The same, with room for changes of its own."""
        own: dict[str, Any] = {name: Layer(getattr(self, name)) for name in _NAMES}
        return Tables(**own, numbers=self.numbers)

    def merge(self) -> None:
        """Hand the changes down to the tables this one was made `over`."""
        for name in _NAMES:
            getattr(self, name).merge()

    def waiting_as(self, consumer: str, source: str, event_id: str) -> Due | None:
        wanted = (consumer, source, event_id)
        return next((one for one in self.waiting.values() if _event_of(one.delivery) == wanted), None)

    def waiting_at(self, consumer: str, source: str, key: str | None) -> Sequence[Due]:
        """Those of one key, the head first."""
        here = (one for one in self.waiting.values() if key is not None and one.place == (consumer, source, key))
        return sorted(here, key=_position)


_NAMES = tuple(one.name for one in fields(Tables) if one.name != "numbers")


def write_outgoing(rows: Tables, outgoing: Sequence[Outgoing], now: float) -> None:
    """Write what a transaction published; the events of a key are numbered in the order of commits, without holes."""
    numbered: dict[str, int] = {}
    for one in outgoing:
        envelope = one.envelope
        if envelope.key is not None:
            place = (envelope.source, envelope.key)
            if envelope.id not in numbered:
                numbered[envelope.id] = rows.key_head[place] = rows.key_head.get(place, 0) + 1
            envelope = with_fields(envelope, key_seq=numbered[envelope.id], incarnation=rows.meta["incarnation"])
        if one.consumer is None:
            _add_unsent(rows, envelope, now)
        else:
            _add_waiting(rows, _delivery_of(envelope, one.consumer), next_at=now)


class MemoryInbox:
    """The user's side: `rows` waits for this transaction's turn."""

    def __init__(self, rows: Callable[[], Awaitable[Tables]], clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    async def arrive(self, consumer: str, envelopes: Sequence[Envelope], *, idle_s: float) -> Sequence[Arrival]:
        rows = await self._rows()
        return [self._arrive(rows, consumer, envelope) for envelope in envelopes]

    def _arrive(self, rows: Tables, consumer: str, envelope: Envelope) -> Arrival:
        if not self._remember(rows, (consumer, envelope.source, envelope.id)):
            return Arrival(known=True)
        if envelope.key is None:
            return Arrival(known=False)
        place = (consumer, envelope.source, envelope.key)
        position = rows.positions.get(place)
        seq, incarnation = sequence_of(envelope), envelope.incarnation
        last = position if position is not None and position.incarnation == incarnation else None
        if seq is not None and incarnation is not None and (last is None or last.last_seq < seq):
            rows.positions[place] = Position(seq, incarnation)
        return Arrival(known=False, position=position, parked=bool(rows.waiting_at(*place)))

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

    async def keep(self, delivery: WaitingDelivery, *, delay_s: float | None, error: str | None) -> None:
        rows, now = await self._rows(), self._clock()
        there = rows.waiting_as(*_event_of(delivery))
        next_at = None if delay_s is None else now + delay_s
        if there is not None:
            first = there.delivery.first_failed_at
            failed = replace(
                there.delivery, attempts=delivery.attempts, first_failed_at=now if first is None else first
            )
            rows.waiting[there.position] = Due(there.position, failed, next_at)
            return
        if delay_s is None and error is None and not rows.waiting_at(delivery.consumer, delivery.source, delivery.key):
            next_at = now  # those before it have gone meanwhile, and nobody would wake it
        _add_waiting(rows, replace(delivery, first_failed_at=None if error is None else now), next_at=next_at)

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

    async def release_next(self, delivery: WaitingDelivery) -> None:
        rows = await self._rows()
        behind = rows.waiting_at(delivery.consumer, delivery.source, delivery.key)
        if behind and behind[0].next_at is None:
            rows.waiting[behind[0].position] = replace(behind[0], next_at=self._clock())

    async def remove_dead_letter(self, delivery: WaitingDelivery) -> bool:
        return (await self._rows()).dead.pop(_event_of(delivery), None) is not None

    async def remove(self, delivery: WaitingDelivery) -> None:
        rows = await self._rows()
        if (there := rows.waiting_as(*_event_of(delivery))) is not None:
            del rows.waiting[there.position]

    async def write_dead_letter(self, delivery: WaitingDelivery, name: str, failure: Failure) -> None:
        rows, now = await self._rows(), self._clock()
        event = _event_of(delivery)
        before = rows.dead.get(event)
        first = now if delivery.first_failed_at is None else delivery.first_failed_at
        rows.dead[event] = Dead(
            id=letter_id(delivery),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            name=name,
            lane=delivery.lane,
            key=delivery.key,
            channel=delivery.channel,
            message=delivery.message,
            reason=failure.reason,
            error=failure.error,
            stack=failure.stack,
            attempts=failure.attempts,
            first_at=first if before is None else before.first_at,
            last_at=now,
            worker=failure.worker,
        )


class MemoryMessageStore:
    """The relay's side, on what is committed."""

    def __init__(self, rows: Tables, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    async def incarnation(self) -> str:
        return self._rows.meta["incarnation"]

    async def introduce(self, service: str, description: str, consumers: Sequence[str]) -> None:
        running = self._rows.meta.get("service", service)
        if running != service and any(until >= self._clock() for until in self._rows.members.values()):
            raise belongs_to_another(running, service)
        self._rows.meta.update(service=service, description=description)

    async def beat(self, me: MemberId, *, lease_s: float) -> tuple[Sequence[LaneRow], Collection[MemberId]]:
        now, members = self._clock(), self._rows.members
        members[me] = now + lease_s
        owners = {owner for owner, _ in self._rows.lanes.values()}
        for gone in [one for one, until in members.items() if until < now - _MEMBER_FORGOTTEN_S]:
            if gone not in owners:
                del members[gone]
        lanes = [
            LaneRow(lane, owner, epoch, members.get(owner, now) - now if owner is not None else 0.0)
            for lane, (owner, epoch) in sorted(self._rows.lanes.items())
        ]
        return lanes, [one for one, until in members.items() if until >= now]

    async def take(self, me: MemberId, wanted: Mapping[Lane, Epoch]) -> Mapping[Lane, Epoch]:
        got = {lane: Epoch(epoch + 1) for lane, epoch in wanted.items() if self._rows.lanes[lane][1] == epoch}
        self._rows.lanes.update({lane: (me, epoch) for lane, epoch in got.items()})
        return got

    async def give_back(self, me: MemberId, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            owner, epoch = self._rows.lanes[lane]
            self._rows.lanes[lane] = (None if owner == me else owner, epoch)

    async def leave(self, me: MemberId) -> None:
        await self.give_back(me, list(self._rows.lanes))
        self._rows.members.pop(me, None)

    async def pending(self, lanes: Sequence[Lane], *, limit: int, besides: Collection[int] = ()) -> Sequence[OutboxRow]:
        unsent = sorted(self._rows.unsent.values(), key=lambda one: one.row.position)
        found: list[OutboxRow] = []
        stuck: set[tuple[str, str]] = set()
        for one in unsent:
            key = None if one.row.key is None else (one.row.topic, one.row.key)
            if one.problem is not None and key is not None:
                stuck.add(key)
            if one.problem is None and key not in stuck and one.row.lane in lanes and one.row.position not in besides:
                found.append(one.row)
        return found[:limit]

    async def set_aside(self, position: int, problem: str) -> None:
        if (one := self._rows.unsent.get(position)) is not None:
            self._rows.unsent[position] = replace(one, problem=problem)

    async def mark_sent(self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]) -> bool:
        if any(self._rows.lanes[lane] != (me, epoch) for lane, epoch in owned.items()):
            return False
        for position, broker_id in sent:
            if (one := self._rows.unsent.pop(position, None)) is not None:
                self._rows.sent[position] = replace(one, sent_at=self._clock(), broker_id=broker_id)
        return True

    async def adopt(self, envelope: Envelope, *, known_to: Sequence[str]) -> bool:
        rows = self._rows
        if any((consumer, envelope.source, envelope.id) in rows.inbox for consumer in known_to):
            return False
        if any(one.row.event_id == envelope.id for kept in (rows.unsent, rows.sent) for one in kept.values()):
            return False
        _add_unsent(rows, envelope, self._clock())
        return True

    async def newest_sent(self, topic: str, lane: Lane, *, limit: int) -> Sequence[tuple[int, BrokerId]]:
        return [(one.row.position, BrokerId(one.broker_id)) for one in self._sent_in(topic, lane)[-limit:]]

    async def unsend(self, topic: str, lane: Lane, *, from_position: int | None) -> int:
        first = self._rows.sent.get(-1 if from_position is None else from_position)
        again = [one for one in self._sent_in(topic, lane) if first is None or one.sent_at >= first.sent_at]
        for one in again:
            del self._rows.sent[one.row.position]
            self._rows.unsent[one.row.position] = replace(one, sent_at=0.0, broker_id="")
        return len(again)

    def _sent_in(self, topic: str, lane: Lane) -> Sequence[Kept]:
        return _by_sending(one for one in self._rows.sent.values() if (one.row.topic, one.row.lane) == (topic, lane))

    async def since(self, topic: str, start: str) -> str:
        return self._rows.meta.setdefault(f"since:{topic}", start)

    async def prune_sent(self, *, older_than_s: float, limit: int) -> int:
        before = self._clock() - older_than_s
        old = _by_sending(one for one in self._rows.sent.values() if one.sent_at < before)[:limit]
        for one in old:
            del self._rows.sent[one.row.position]
        return len(old)

    async def sent_over(self, *, rows: int, size: int) -> bool:
        sent = self._rows.sent.values()
        return len(sent) > rows or sum(len(one.row.message) for one in sent) > size

    async def backlog(self) -> Backlog:
        unsent = [self._clock() - one.created_at for one in self._rows.unsent.values() if one.problem is None]
        behind = Counter(one.place for one in self._rows.waiting.values() if one.delivery.key is not None)
        ((consumer, _, key), longest), *_ = behind.most_common(1) or [(("", "", ""), 0)]
        return Backlog(
            unsent=len(unsent),
            oldest_unsent_s=max(unsent, default=None),
            longest=longest,
            longest_key=key or "",
            longest_consumer=consumer,
        )

    async def prune_inbox(self, *, older_than_s: float, limit: int) -> int:
        before, rows = self._clock() - older_than_s, self._rows
        old = sorted((at, event) for event, (at, state) in rows.inbox.items() if at < before and state == "done")
        for _, event in old[:limit]:
            del rows.inbox[event]
        for event in [event for event, (_, at) in rows.started.items() if at < before]:
            del rows.started[event]
        return len(old[:limit])

    async def dead(self, *, limit: int = 100) -> Sequence[Dead]:
        return sorted(self._rows.dead.values(), key=lambda one: one.last_at)[:limit]

    async def due(self, lanes: Sequence[Lane], *, limit: int) -> Sequence[WaitingDelivery]:
        now = self._clock()
        heads: dict[tuple[str, str, str | None] | int, Due] = {}
        for one in sorted(self._rows.waiting.values(), key=_position):
            heads.setdefault(one.position if one.delivery.key is None else one.place, one)
        ready = [
            (one.next_at, one.delivery)
            for one in heads.values()
            if one.next_at is not None and one.next_at <= now and one.delivery.lane in lanes
        ]
        return [delivery for _, delivery in sorted(ready, key=lambda one: one[0])[:limit]]


def _position(one: Due) -> int:
    return one.position


def _by_sending(kept: Iterable[Kept]) -> Sequence[Kept]:
    return sorted(kept, key=lambda one: (one.sent_at, one.row.position))


def _event_of(delivery: WaitingDelivery) -> Event:
    return delivery.consumer, delivery.source, delivery.event_id


def _add_unsent(rows: Tables, envelope: Envelope, now: float) -> None:
    position = next(rows.numbers)
    row = OutboxRow(position, envelope.id, envelope.source, lane_of(envelope), envelope.key, message_of(envelope))
    rows.unsent[position] = Kept(row, created_at=now)


def _add_waiting(rows: Tables, delivery: WaitingDelivery, *, next_at: float | None) -> None:
    position = next(rows.numbers)
    rows.waiting[position] = Due(position, replace(delivery, position=position), next_at)


def _delivery_of(envelope: Envelope, consumer: str) -> WaitingDelivery:
    return WaitingDelivery(
        position=None,
        consumer=consumer,
        source=envelope.source,
        event_id=envelope.id,
        lane=lane_of(envelope),
        key=envelope.key,
        channel="",
        message=message_of(envelope),
        attempts=0,
        first_failed_at=None,
    )
