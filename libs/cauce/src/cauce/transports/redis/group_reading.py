"""Reading streams as a consumer group: what one process of a service hears, from the first connection to the last.

Every lane of a topic is a stream of its own and has one reader at a time, so all readers have one name in the group:
whoever owns the lane finds under it what the earlier owner was given and did not acknowledge. Nothing is claimed by
age, nobody is reaped. What could go wrong with that:

- An earlier owner's read may still be blocked at the server, and be given entries that are newer than what the new
  owner finds pending. So the new owner waits until such a read must have ended (`_READ_ENDS_S`), then reads.
- A process that was frozen just before it sent its read may be given entries when it wakes. So before a portion is
  handed over, the server is asked whether anything pending lies between it and what was read before: that comes first.
  Of a stream that is expected to bring something it is asked together with the read, which spares a trip.
  And every `_LOOK_EVERY_S` the number of pending entries is compared with what we hold, in case nothing follows.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cauce.concurrency.backoff import HALF, Backoff
from cauce.formats.cloudevents import read_of_topic
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId, Deliver, Delivery, LanesOwned, Status
from cauce.transports.redis.acks import RETRY_CAP_S, Acks, HeldEntry, LaneStream
from cauce.transports.redis.connection import RedisTroubleError
from cauce.transports.redis.health import CLUSTER_CODES, NO_CLUSTERS
from cauce.transports.redis.heard import Heard
from cauce.transports.redis.pipeline import Command, RedisCommands, RedisPipeline, RedisRefusal
from cauce.transports.redis.portion import Portion
from cauce.transports.redis.replies import entries_by_stream, field_of, named, order, text
from cauce.transports.redis.stream_keys import CONSUMER, FIELD, StreamKeys

__all__ = ["GroupReading"]

log = logging.getLogger("cauce.redis")

_BLOCK_S = 0.6
_PATIENCE_S = 0.5
"""What a blocked read has more than the answer limit: a frozen server is noticed within their sum. A little less than
`_BLOCK_S`, which is as long as it may be."""
_READ_ENDS_S = 0.7
"""A read of anybody has ended so long after it began: its own limit, and some air."""
_LOOK_EVERY_S = 10.0
_RELEASED_AFTER_S = 1.0
_NO_LANES_S = 0.05
_LEAVE_TO_PUBLISHER_S = 3.0
"""A stream that vanished is left to its publisher for so long: one who finds it missing, rather than empty, knows at
once that he has to send again what was in it."""
_AT_ONCE = 512
"""Entries asked for in one read, over all streams, at most: the bound of what is in memory beside the service's own
queue. Fewer where so many do not come in time, see `Portion`."""
_RETRY_FIRST_S = 0.1
_STEADY_S = 5.0
_LIVELY_S = 1.0
"""A stream that brought something so lately, and of which no more than `_FEW` are held, is asked about together with the
read: more often would cost an idle service commands, and a busy one answers."""
_FEW = 8


class GroupReading:
    """One `consume` of a RedisStreams, reconnecting until it is cancelled."""

    def __init__(
        self,
        commands: RedisCommands,
        *,
        keys: StreamKeys,
        group: str,
        topics: Sequence[str],
        deliver: Deliver,
        status: Status,
        lanes: LanesOwned,
        since: Mapping[str, BrokerId],
        label: str,
        heard: Heard,
    ) -> None:
        self.heard = heard
        self._commands = commands
        self._keys = keys
        self._group = group
        self._topics = topics
        self._deliver = deliver
        self._status = status
        self._lanes = lanes
        self._since = since
        self._label = label
        self._acks = Acks(commands, group)
        self.portion = Portion(_AT_ONCE)
        self._streams: dict[tuple[str, Lane], LaneStream] = {}

    async def run(self) -> None:
        """Until cancelled. Then what was acknowledged is still sent, within the answer limit."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acks.run())
                await self._read_until_cancelled()
        finally:
            await self._acks.flush()

    async def _read_until_cancelled(self) -> None:
        backoff = Backoff(_RETRY_FIRST_S, RETRY_CAP_S, jitter=HALF)
        while True:
            began = time.monotonic()
            try:
                await _Connected(self, await self._commands.connect()).run()
            except RedisTroubleError as trouble:
                if time.monotonic() - began >= _STEADY_S:
                    backoff.reset()
                else:
                    backoff.grow()
                self._status.down(str(trouble), retry_in_s=backoff.pause_s)
                await backoff.pause()

    # What a connection asks of it

    def up(self) -> None:
        self._status.up()

    @property
    def group(self) -> str:
        return self._group

    def released(self) -> bool:
        """Whether something was given back since this was asked last."""
        released, self._acks.released = self._acks.released, False
        return released

    def registrations(self) -> Sequence[Command]:
        """Trimming is to wait for this group."""
        return [
            ("HSETNX", self._keys.groups(topic), self._group, self._since.get(topic, "0-0")) for topic in self._topics
        ]

    def owned(self) -> tuple[Sequence[LaneStream], Collection[LaneStream]]:
        """The streams of our lanes, topic by topic; and those of them that were lost since we were asked last."""
        owned = self._lanes()
        streams = [self._stream(topic, lane) for topic in self._topics for lane in sorted(owned)]
        lost = [stream for stream in streams if stream.tenure != owned[stream.lane]]
        for stream in lost:
            # Whatever was delivered is void, unless it is done already; then the inbox knows it.
            stream.tenure, stream.held = owned[stream.lane], {}
        return streams, lost

    def _stream(self, topic: str, lane: Lane) -> LaneStream:
        stream = self._streams.get((topic, lane))
        if stream is None:
            stream = self._streams[topic, lane] = LaneStream(self._keys.stream(topic, lane), topic, lane)
        return stream

    def begin_of(self, stream: LaneStream) -> str:
        return self._since.get(stream.topic, "0-0")

    def refused(self, refusal: RedisRefusal) -> RedisTroubleError:
        what = " ".join(str(refusal).split())[:200]
        hint = " → ACL SETUSER, see RedisStreams.rights()" if refusal.code == "NOPERM" else ""
        if refusal.code in CLUSTER_CODES:
            hint = f" → it is part of a cluster; use {NO_CLUSTERS}"
        return RedisTroubleError(f"Redis at {self._label} answered: {what}{hint}", answered=True)

    async def hand_over(
        self, stream: LaneStream, entries: Iterable[Any], *, redelivered_at_s: float | None = None
    ) -> bool:
        """Deliver what we do not hold already, as long as the lane is ours; whether it was to the end.

        `redelivered_at_s`: they were given out before, and the server's clock says this now.

        What was not delivered stays pending: we must read it again before anything newer, or the lane's new owner.
        """
        held, acks, deliver, key, topic = stream.held, self._acks, self._deliver, stream.key, stream.topic
        lane, tenure = stream.lane, stream.tenure
        owned, asked_at = self._lanes(), time.monotonic()
        for entry_id, fields in entries:
            if entry_id in held:
                continue
            if time.monotonic() - asked_at > _NO_LANES_S:
                owned, asked_at = self._lanes(), time.monotonic()
            if owned.get(lane) != tenure:
                return False
            raw = field_of(fields, FIELD)
            found = read_of_topic(raw, topic)
            entry = held[entry_id] = HeldEntry(acks, stream, entry_id)
            await deliver(
                Delivery(
                    channel=key,
                    raw=raw or b"",
                    envelope=found.envelope,
                    problem=found.problem,
                    foreign=found.foreign,
                    redelivered=redelivered_at_s is not None,
                    age_s=0.0 if redelivered_at_s is None else redelivered_at_s - _appended_at_s(entry_id),
                    ack=entry.ack,
                    release=entry.release,
                    lane=lane,
                    tenure=tenure,
                    lost=raw is None,
                )
            )
        return True


class _Connected:
    """One connection that reads, to its end, which is RedisTroubleError or cancellation."""

    def __init__(self, reading: GroupReading, pipeline: RedisPipeline) -> None:
        self._reading = reading
        self._pipeline = pipeline
        self._ready_at: dict[LaneStream, float] = {}
        """Streams whose group is there, and from when on they may be read."""
        self._recovered: dict[LaneStream, bytes] = {}
        """Streams whose pending entries have been delivered, with the last id that was read: new ones may follow."""
        self._settled: set[LaneStream] = set()
        """Streams that only this process has read from while it owned them, on this connection."""
        self._look_at = time.monotonic() + _LOOK_EVERY_S

    async def run(self) -> None:
        try:
            self._accept(await self._pipeline.ask(*self._reading.registrations()))
            streams, _ = self._reading.owned()
            await self._prepare(streams, time.monotonic())
            self._reading.up()
            while True:
                await self._round()
        finally:
            self._pipeline.close()

    async def _round(self) -> None:
        owned, lost = self._reading.owned()
        now = time.monotonic()
        self._let_go(owned, lost)
        await self._prepare([stream for stream in owned if stream not in self._ready_at], now)
        await self._recover([one for one, at in self._ready_at.items() if at <= now and one not in self._recovered])
        if self._reading.released():
            self._look_at = min(self._look_at, now + _RELEASED_AFTER_S)
        if now >= self._look_at:
            await self._look()
        if self._recovered:
            await self._read_new(self._patience_s(owned, now))
        else:
            await asyncio.sleep(_NO_LANES_S)
            self._pipeline.check()

    def _let_go(self, owned: Sequence[LaneStream], lost: Collection[LaneStream]) -> None:
        if not lost and len(owned) == len(self._ready_at) and all(stream in self._ready_at for stream in owned):
            return
        ours = set(owned) - set(lost)
        self._ready_at = {stream: at for stream, at in self._ready_at.items() if stream in ours}
        self._recovered = {stream: last for stream, last in self._recovered.items() if stream in ours}
        self._settled &= ours

    def _patience_s(self, owned: Sequence[LaneStream], now: float) -> float:
        """How long a read may block: shorter if a stream of ours waits for its turn."""
        waiting = [max(at - now, 0.01) for stream, at in self._ready_at.items() if stream not in self._recovered]
        missing = [0.1] if len(self._ready_at) < len(owned) else []
        return min(_BLOCK_S, *waiting, *missing) if waiting or missing else _BLOCK_S

    # The group

    async def _prepare(self, streams: Sequence[LaneStream], now: float) -> None:
        """Find the group of each stream or make it, and when an earlier owner's read must have ended."""
        if not streams:
            return
        group = self._reading.group
        answers = await self._pipeline.ask(*(("XINFO", "CONSUMERS", stream.key, group) for stream in streams))
        groupless: list[LaneStream] = []
        for stream, answer in zip(streams, answers, strict=True):
            if not isinstance(answer, RedisRefusal):
                self._found(stream, now if stream in self._settled else now + _read_ends_in_s(answer))
            elif answer.code == "NOGROUP" or "no such key" in str(answer):
                groupless.append(stream)
            else:
                raise self._reading.refused(answer)
        await self._make_groups(groupless, now)

    def _found(self, stream: LaneStream, ready_at: float) -> None:
        self._ready_at[stream] = ready_at
        stream.seen, stream.missing_since = True, None

    async def _make_groups(self, streams: Sequence[LaneStream], now: float) -> None:
        if not streams:
            return
        group = self._reading.group
        clock, *lasts = await self._pipeline.ask(("TIME",), *(("XINFO", "STREAM", stream.key) for stream in streams))
        self._accept([clock])
        making: list[tuple[LaneStream, Command]] = []
        _warn_of_forgotten(group, [stream for stream in streams if stream.seen and stream.missing_since is None])
        for stream, last in zip(streams, lasts, strict=True):
            begin = self._reading.begin_of(stream)
            if isinstance(last, RedisRefusal):
                if self._leave_to_publisher(stream, now):
                    continue
                last_id = (0, 0)
            else:
                last_id = order(named(last)["last-generated-id"])
            if order(begin) > max((int(clock[0]) * 1000 + 1000, 0), last_id):
                begin = "0-0"  # ids start lower than they once were: the server is another one, or its clock went back
            making.append((stream, ("XGROUP", "CREATE", stream.key, group, begin, "MKSTREAM")))
        if not making:
            return
        answers = await self._pipeline.ask(*(command for _, command in making))
        for (stream, _), answer in zip(making, answers, strict=True):
            if isinstance(answer, RedisRefusal) and answer.code != "BUSYGROUP":
                raise self._reading.refused(answer)
            self._found(stream, now + (_READ_ENDS_S if isinstance(answer, RedisRefusal) else 0.0))

    def _leave_to_publisher(self, stream: LaneStream, now: float) -> bool:
        if not stream.seen:
            return False
        if stream.missing_since is None:
            stream.missing_since = now
        return now - stream.missing_since < _LEAVE_TO_PUBLISHER_S

    def _prepare_again(self) -> None:
        """A group or a stream is gone; the server does not tell which."""
        self._reading.heard.loss()
        self._settled |= self._recovered.keys()
        self._ready_at.clear()
        self._recovered.clear()

    # The entries

    async def _recover(self, streams: Sequence[LaneStream]) -> None:
        """Deliver what these lanes were given before and is not acknowledged, except what we hold."""
        after = dict.fromkeys(streams, b"0-0")
        now_s = 0.0
        while after:
            answer, _ = await self._read(list(after), list(after.values()), self._count(len(after)))
            if answer is None:
                return
            by_key = {stream.key.encode(): stream for stream in after}
            if not now_s and any(entries for _, entries in answer):
                now_s = await self._server_time_s()
            read, after = after, {}
            for key, entries in answer:
                stream = by_key[key]
                if not entries:
                    self._recovered[stream] = read[stream]
                elif await self._reading.hand_over(stream, entries, redelivered_at_s=now_s):
                    after[stream] = entries[-1][0]
                else:
                    self._recovered.pop(stream, None)

    async def _server_time_s(self) -> float:
        answers = await self._pipeline.ask(("TIME",))
        self._accept(answers)
        seconds, microseconds = answers[0]
        return int(seconds) + int(microseconds) / 1_000_000

    async def _look(self) -> None:
        """Was something given out in our name that we do not hold? Is the group still to be waited for?"""
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        busy = [stream for stream in self._recovered if stream.held]
        quiet = [stream for stream in self._recovered if not stream.held]
        registrations = self._reading.registrations()
        group = self._reading.group
        answers = await self._pipeline.ask(*registrations, *(("XPENDING", stream.key, group) for stream in busy))
        self._accept(answers[: len(registrations)])
        summaries = zip(busy, answers[len(registrations) :], strict=True)
        # A refusal here is one of the next read too.
        given = [
            stream
            for stream, summary in summaries
            if not isinstance(summary, RedisRefusal) and summary[0] > _held_between(stream.held, *summary[1:3])
        ]
        await self._recover([*given, *await self._with_pending(quiet)])

    async def _with_pending(self, streams: Sequence[LaneStream]) -> Sequence[LaneStream]:
        """Those that have a pending entry at all: one command for streams of which we hold none."""
        if not streams:
            return ()
        answer, _ = await self._read(streams, [b"0-0"] * len(streams), 1)
        by_key = {stream.key.encode(): stream for stream in streams}
        return [by_key[key] for key, entries in answer or () if entries]

    async def _read_new(self, patience_s: float) -> None:
        """One read over all our streams; then one of those that had more, without waiting, so that a busy lane is not
        read in the small portions that many lanes share."""
        full = await self._read_portions(list(self._recovered), patience_s)
        if full:
            await self._read_portions(full, None)

    async def _read_portions(self, streams: Sequence[LaneStream], patience_s: float | None) -> Sequence[LaneStream]:
        """Deliver one portion of each; which of them were full."""
        count = self._count(len(streams))
        began = time.monotonic()
        expected = [one for one in streams if began < one.lively_until and len(one.held) <= _FEW]
        answer, told = await self._read(
            streams, [b">"] * len(streams), count, patience_s, and_then=[self._given(one, b"+") for one in expected]
        )
        by_key = {stream.key.encode(): stream for stream in streams}
        portions = [(by_key[key], entries) for key, entries in answer or ()]
        passed_over = await self._passed_over(portions, dict(zip(expected, told, strict=False)))
        for stream, entries in portions:
            stream.lively_until = time.monotonic() + _LIVELY_S
            if stream not in passed_over and await self._reading.hand_over(stream, entries):
                self._recovered[stream] = entries[-1][0]
            else:
                self._recovered.pop(stream, None)
        return [stream for stream, entries in portions if len(entries) >= count and stream in self._recovered]

    async def _passed_over(
        self, portions: Sequence[tuple[LaneStream, Sequence[Any]]], told: Mapping[LaneStream, Any]
    ) -> Collection[LaneStream]:
        """Streams of which somebody else was given entries that come before these; all that is pending is read again.

        `told`: what was asked together with the read.
        """
        others = [(stream, entries) for stream, entries in portions if stream not in told]
        answers = await self._pipeline.ask(*(self._given(stream, b"(" + entries[0][0]) for stream, entries in others))
        given = {**told, **dict(zip((stream for stream, _ in others), answers, strict=True))}
        return {
            stream
            for stream, entries in portions
            if not isinstance(given[stream], RedisRefusal)  # it is one of the next read too
            and _first_of_others(given[stream], stream.held, entries[0][0]) != entries[0][0]
        }

    def _given(self, stream: LaneStream, to: bytes) -> Command:
        """The question for what was given out in our name after what we read, up to one that we do not hold."""
        after, count = b"(" + self._recovered[stream], str(len(stream.held) + 1)
        return ("XPENDING", stream.key, self._reading.group, after, to, count)

    def _count(self, streams: int) -> int:
        """How many entries each of so many streams may give."""
        return max(1, self._reading.portion.entries // streams)

    async def _read(
        self,
        streams: Sequence[LaneStream],
        after: Sequence[bytes],
        count: int,
        patience_s: float | None = None,
        and_then: Sequence[Command] = (),
    ) -> tuple[Sequence[tuple[bytes, Sequence[Any]]] | None, Sequence[Any]]:
        """What was read, by stream, or None if a group or a stream was missing; then the answers to what was asked
        `and_then`, which the server does as soon as it has read."""
        block = ("BLOCK", str(max(1, int(patience_s * 1000)))) if patience_s else ()
        command = ("XREADGROUP", "GROUP", self._reading.group, CONSUMER, "COUNT", str(count), *block, "STREAMS")
        began = time.monotonic()
        try:
            answer, *others = await self._pipeline.ask(
                (*command, *(stream.key for stream in streams), *after),
                *and_then,
                patience_s=min(patience_s or 0.0, _PATIENCE_S),
            )
        except RedisTroubleError:
            self._reading.portion.failed()
            raise
        self._reading.heard.answer()
        if not isinstance(answer, RedisRefusal):
            read = entries_by_stream(answer)
            if any(entries for _, entries in read):
                self._reading.portion.came(took_s=time.monotonic() - began)
            return read, others
        if answer.code in ("NOGROUP", "UNBLOCKED"):
            self._prepare_again()
            return None, ()
        raise self._reading.refused(answer)

    def _accept(self, answers: Iterable[Any]) -> None:
        for answer in answers:
            if isinstance(answer, RedisRefusal):
                raise self._reading.refused(answer)


def _warn_of_forgotten(group: str, streams: Iterable[LaneStream]) -> None:
    """One line for a topic, however many lanes it has."""
    for topic, lanes in Counter(stream.topic for stream in streams).items():
        log.warning(
            "%s: the broker forgot this group, or the stream, in %d of %s's lanes; they are made again",
            group, lanes, topic,
        )  # fmt: skip


def _read_ends_in_s(consumers: Iterable[Any]) -> float:
    """When a read that an earlier owner may have begun must have ended; 0 if none can be under way.

    Only servers that tell `inactive` (Valkey, Redis 7.2) see a read that is blocked; of others nothing is known.
    """
    states = [named(consumer) for consumer in consumers]
    idle_s = [int(state["idle"]) / 1000 if "inactive" in state else 0.0 for state in states]
    return max(0.0, _READ_ENDS_S - min(idle_s, default=0.0))


def _first_of_others(pending: Iterable[Any], held: Collection[bytes], ours: bytes) -> bytes:
    return next((entry_id for entry_id, *_ in pending if entry_id not in held), ours)


def _held_between(held: Collection[bytes], first: Any, last: Any) -> int:
    if first is None or last is None:
        return 0
    low, high = order(text(first)), order(text(last))
    return sum(1 for entry_id in held if low <= order(entry_id) <= high)


def _appended_at_s(entry_id: bytes) -> float:
    """When the server took the entry, by its clock."""
    return int(entry_id.partition(b"-")[0]) / 1000
