"""The message store in memory: the relay's side, on what is committed.

Needs no turn, unlike the transactions of listeners: each method is one step that nothing can interrupt.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import outgoing
from cauce.ports.inbox import Dead, Known, Unhandled, WaitingDelivery
from cauce.ports.lanes import Epoch, Lane, LaneRow, LanesSeen, MemberId
from cauce.ports.message_store import Work, belongs_to_another
from cauce.ports.outbox import BATCH, Backlog, KeepSent, OutboxRow, Pruned
from cauce.ports.registration import Identity, ListenerInCode
from cauce.ports.transport import BrokerId
from cauce.stores.identities import Past, Registered, identities, refuse_lost_pasts, resolve
from cauce.stores.memory.tables import Clock, Due, Kept, Tables, add_unsent, by_position
from cauce.stores.storable import storable_line

__all__ = ["MemoryMessageStore"]

_MEMBER_FORGOTTEN_S = 3600.0


class MemoryMessageStore:
    """The MessageStore of the ports, on the committed rows."""

    portion = 500

    def __init__(self, rows: Tables, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    async def incarnation(self) -> str:
        return self._rows.meta["incarnation"]

    async def register(
        self, service: str, listeners: Sequence[ListenerInCode], *, retired: Sequence[str] = ()
    ) -> Mapping[str, Identity]:
        self._only(service)
        rows, now = self._rows.listeners, self._clock()
        registered = [one for one in rows.values() if one.consumer.startswith(f"{service}/")]
        resolution = resolve(listeners, registered, retired)
        refuse_lost_pasts(service, resolution, {one: self._past(one) for one in resolution.suspects})
        found = identities(service, listeners, resolution, registered, now)
        for one in registered:
            if not one.names.isdisjoint(retired):
                rows[one.consumer] = replace(one, retired=True)
        for listener in listeners:
            consumer = found[listener.name].consumer
            first_seen_at = rows[consumer].first_seen_at if consumer in rows else now
            rows[consumer] = Registered(
                consumer=consumer,
                name=listener.name,
                events=tuple(listener.events),
                first_seen_at=first_seen_at,
                retired=False,
            )
        return found

    def _past(self, consumer: str) -> Past:
        rows = self._rows
        return Past(
            handled=any(event[0] == consumer for known in (rows.inbox, rows.positions) for event in known),
            waiting=sum(one.delivery.consumer == consumer for one in rows.waiting.values()),
            dead=sum(event[0] == consumer for event in rows.dead),
        )

    async def describe(self, service: str, description: str) -> None:
        self._only(service)
        meta = self._rows.meta
        if meta.get("service", service) != service:
            for name in [name for name in meta if name.startswith("since:")]:
                del meta[name]
        meta.update(service=service, description=description)

    def _only(self, service: str) -> None:
        running = self._rows.meta.get("service", service)
        if running != service and any(until >= self._clock() for until in self._rows.members.values()):
            raise belongs_to_another(running, service)

    async def beat(self, me: MemberId, *, lease_s: float) -> LanesSeen:
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
        return LanesSeen(lanes, members=[one for one, until in members.items() if until >= now], clock=now)

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

    async def pending(
        self,
        lanes: Sequence[Lane],
        *,
        limit: int,
        topics: Collection[str] | None = None,
        besides: Collection[int] = (),
    ) -> Sequence[OutboxRow]:
        unsent = sorted(self._rows.unsent.values(), key=lambda one: one.row.position)
        found: list[OutboxRow] = []
        stuck: set[tuple[str, str]] = set()
        for one in unsent:
            key = None if one.row.key is None else (one.row.topic, one.row.key)
            if one.problem is not None and key is not None:
                stuck.add(key)
            asked = one.row.lane in lanes and (topics is None or one.row.topic in topics)
            if asked and one.problem is None and key not in stuck and one.row.position not in besides:
                found.append(one.row)
        return found[:limit]

    async def unsent_elsewhere(self, topics: Collection[str]) -> Mapping[str, int]:
        unsent = (one for one in self._rows.unsent.values() if one.problem is None and one.row.topic not in topics)
        return dict(sorted(Counter(one.row.topic for one in unsent).items()))

    async def set_aside(self, position: int, problem: str) -> None:
        if (one := self._rows.unsent.get(position)) is not None:
            self._rows.unsent[position] = replace(one, problem=storable_line(problem))

    async def mark_sent(self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]) -> bool:
        if any(self._rows.lanes[lane] != (me, epoch) for lane, epoch in owned.items()):
            return False
        for position, broker_id in sent:
            if (one := self._rows.unsent.pop(position, None)) is not None:
                self._rows.sent[position] = replace(
                    one, sent_at=self._clock(), sent_seq=next(self._rows.sent_order), broker_id=broker_id
                )
        return True

    async def adopt(self, envelope: Envelope, *, known_to: Sequence[str]) -> bool:
        rows = self._rows
        if any((consumer, envelope.source, envelope.id) in rows.inbox for consumer in known_to):
            return False
        if any(one.row.event_id == envelope.id for kept in (rows.unsent, rows.sent) for one in kept.values()):
            return False
        add_unsent(rows, envelope, outgoing(envelope), self._clock())
        return True

    async def newest_sent(self, topic: str, lane: Lane, *, limit: int) -> Sequence[tuple[int, BrokerId]]:
        return [(one.sent_seq, BrokerId(one.broker_id)) for one in self._sent_in(topic, lane)[-limit:]]

    async def mark_unsent(self, topic: str, lane: Lane, *, from_seq: int | None) -> int:
        again = [one for one in self._sent_in(topic, lane) if from_seq is None or one.sent_seq >= from_seq]
        for one in again:
            del self._rows.sent[one.row.position]
            self._rows.unsent[one.row.position] = replace(one, sent_at=0.0, sent_seq=0, broker_id="")
        return len(again)

    def _sent_in(self, topic: str, lane: Lane) -> Sequence[Kept]:
        return _by_sending(one for one in self._rows.sent.values() if (one.row.topic, one.row.lane) == (topic, lane))

    async def since(self, topic: str, start: str) -> str:
        return self._rows.meta.setdefault(f"since:{topic}", start)

    async def prune_sent(self, keep: KeepSent, *, clock: float | None = None) -> Pruned:
        before = (self._clock() if clock is None else clock) - keep.seconds
        sent = _by_sending(self._rows.sent.values())
        size = sum(len(one.row.message) for one in sent)
        rows, capped = 0, False
        for one in sent[:BATCH]:
            over = len(sent) - rows > keep.rows or size > keep.bytes
            if one.sent_at >= before and not over:
                break
            del self._rows.sent[one.row.position]
            rows, size, capped = rows + 1, size - len(one.row.message), capped or one.sent_at >= before
        return Pruned(rows=rows, capped=capped, more=rows == BATCH)

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
            newer_version=sum(1 for one in self._rows.waiting.values() if one.reason == "newer version"),
        )

    async def prune_inbox(self, *, older_than_s: float, limit: int, clock: float | None = None) -> int:
        before, rows = (self._clock() if clock is None else clock) - older_than_s, self._rows
        old = sorted((at, event) for event, (at, state) in rows.inbox.items() if at < before and state == "done")
        for _, event in old[:limit]:
            del rows.inbox[event]
        for event in [event for event, (_, at) in rows.started.items() if at < before]:
            del rows.started[event]
        return len(old[:limit])

    async def prune_dead(self, *, older_than_s: float, limit: int, clock: float | None = None) -> int:
        before, rows = (self._clock() if clock is None else clock) - older_than_s, self._rows
        old = [event for event, one in rows.dead.items() if one.last_at < before and rows.waiting_as(*event) is None]
        for event in old[:limit]:
            del rows.dead[event]
        return len(old[:limit])

    async def look_again(self, lanes: Sequence[Lane]) -> None:
        now = self._clock()
        for one in list(self._rows.waiting.values()):
            if one.reason is not None and one.delivery.lane in lanes and one.next_at is not None and one.next_at > now:
                self._rows.waiting[one.position] = replace(one, next_at=now)

    async def dead(self, *, limit: int = 100) -> Sequence[Dead]:
        return sorted(self._rows.dead.values(), key=lambda one: one.last_at)[:limit]

    async def restart_delays(self) -> int:
        return 0  # the clock of this store is never set back

    async def due(
        self,
        lanes: Sequence[Lane],
        *,
        limit: int,
        known: Known | None = None,
        in_trouble: bool = True,
    ) -> Sequence[WaitingDelivery]:
        now = self._clock()
        heads: dict[tuple[str, str, str | None] | int, Due] = {}
        for one in sorted(self._rows.waiting.values(), key=by_position):
            heads.setdefault(one.position if one.delivery.key is None else one.place, one)
        ready = [
            (one.next_at, one.delivery)
            for one in heads.values()
            if one.next_at is not None and one.next_at <= now and one.delivery.lane in lanes
            if known is None or _is_known(one.delivery, known)
            if in_trouble or not one.delivery.troubles
        ]
        return [delivery for _, delivery in sorted(ready, key=lambda one: one[0])[:limit]]

    async def work(self, lanes: Sequence[Lane]) -> Work:
        unsent = (one for one in self._rows.unsent.values() if one.problem is None)
        return Work(any(one.row.lane in lanes for one in unsent), bool(await self.due(lanes, limit=1)))

    async def unhandled(self, known: Known) -> Sequence[Unhandled]:
        waiting = [one.delivery for one in self._rows.waiting.values() if not _is_known(one.delivery, known)]
        counted = Counter((one.consumer, one.name) for one in waiting)
        return [
            Unhandled(consumer=consumer, name=name, count=n) for (consumer, name), n in sorted(counted.items(), key=str)
        ]


def _is_known(delivery: WaitingDelivery, known: Known) -> bool:
    return delivery.consumer in known.consumers and (delivery.name is None or delivery.name in known.names)


def _by_sending(kept: Iterable[Kept]) -> Sequence[Kept]:
    return sorted(kept, key=lambda one: one.sent_seq)
