"""A broker that remembers, inside the process, for tests and for a single-process start: several services may share one.

It remembers as long as the process lives: a service that was away finds what it missed, what was not acknowledged comes
again, trimming waits for every group. It passes the same contract suite as the real ones (cauce.testing).
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cauce.errors import PublishError, TailUnverifiedError, TransportUnavailableError
from cauce.formats.cloudevents import MAX_MESSAGE_BYTES, read_of_topic
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId, Deliver, Delivery, LanesOwned, Status, Subscription, Tail

__all__ = ["MemoryStreams"]

_LOOK_EVERY_S = 0.05

_Place = tuple[str, Lane]
_Service = tuple[str, str]
"""A topic, and a service that hears it or sends to it."""


@dataclass(slots=True)
class _Group:
    """How far a service is in one lane of a topic."""

    read_to: int
    pending: set[int] = field(default_factory=set[int])


@dataclass(slots=True)
class _Log:
    """One lane of one topic. `numbers` rise; those that were deleted by hand are no longer in `entries`."""

    numbers: list[int] = field(default_factory=list[int])
    entries: dict[int, tuple[float, bytes]] = field(default_factory=dict[int, tuple[float, bytes]])
    groups: dict[str, _Group] = field(default_factory=dict[str, _Group])
    trimmed_below: int = 0


class MemoryStreams:
    """The durable transport without a server, and gone with the process. To be used from one event loop at a time."""

    name = "memory"
    durable = False

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._logs: dict[_Place, _Log] = {}
        self._registered: dict[str, set[str]] = {}
        self._databases: dict[_Service, str] = {}
        self._last = int(clock() * 1_000_000)  # so that a later process gives higher numbers, as a broker would
        self._lives = 1
        self._verified: dict[_Place, int] = {}
        self._outage: str | None = None
        self._readers: set[asyncio.Event] = set()
        self._confirmed: dict[_Place, BrokerId | None] = {}
        """The newest entry of each stream that whoever asked for its tail knows to be there."""

    # What can happen to a broker

    def stop(self, reason: str = "the broker was stopped") -> None:
        """From now on nothing is confirmed and nothing delivered, until `start`. Nothing is forgotten."""
        self._outage = reason
        self._tell()

    def start(self) -> None:
        self._outage = None
        self._lives += 1
        self._tell()

    def forget_everything(self) -> None:
        """As a broker without persistence does when it is restarted: entries, groups, what was trimmed."""
        self._logs.clear()
        self._registered.clear()
        self._databases.clear()
        self._lives += 1
        self._tell()

    def delete(self, topic: str, lane: Lane, entries: Collection[BrokerId]) -> None:
        """As an operator does who deletes entries by hand."""
        log = self._log(topic, lane)
        for one in entries:
            log.entries.pop(int(one), None)

    def pending(self, topic: str, group: str) -> int:
        """How many entries of the topic are delivered to the group and not acknowledged."""
        logs = [log for (its_topic, _), log in self._logs.items() if its_topic == topic]
        return sum(len(log.groups[group].pending) for log in logs if group in log.groups)

    # The port

    async def append(self, topic: str, lane: Lane, messages: Sequence[bytes]) -> Sequence[BrokerId]:
        self._answer()
        for message in messages:
            if len(message) > MAX_MESSAGE_BYTES:
                raise PublishError(f"a message has {len(message)} bytes; the limit is {MAX_MESSAGE_BYTES}")
        log = self._log(topic, lane)
        if self._verified.get((topic, lane), self._lives) != self._lives:
            raise TailUnverifiedError("the broker was restarted; nothing was appended")
        ids: list[BrokerId] = []
        for message in messages:
            self._last += 1
            log.numbers.append(self._last)
            log.entries[self._last] = (self.clock(), bytes(message))
            ids.append(BrokerId(str(self._last)))
        self._confirmed[topic, lane] = ids[-1] if ids else self._confirmed.get((topic, lane))
        self._tell()
        return ids

    async def tail(self, topic: str, lane: Lane, sent: Sequence[BrokerId]) -> Tail:
        self._answer()
        log = self._log(topic, lane)
        self._verified[topic, lane] = self._lives
        missing = (one for one in sent if _missing(one, log))
        self._confirmed[topic, lane] = sent[-1] if sent and not _missing(sent[-1], log) else None
        return Tail(server=str(self._lives), lost_from=next(missing, None))

    async def doubtful(self, streams: Collection[tuple[str, Lane]], *, kept_s: float) -> Collection[tuple[str, Lane]]:
        self._answer()
        return [one for one in streams if self._verified.get(one) != self._lives or self._lost_its_end(*one)]

    def _lost_its_end(self, topic: str, lane: Lane) -> bool:
        last = self._confirmed.get((topic, lane))
        return last is not None and _missing(last, self._log(topic, lane))

    async def now(self, topic: str) -> BrokerId:
        self._answer()
        return BrokerId(str(self._last))

    async def trim(self, topic: str, lane: Lane, *, older_than_s: float) -> int:
        self._answer()
        log = self._log(topic, lane)
        if not self._registered.get(topic, set()) <= log.groups.keys():
            return 0
        safe = min((min(group.pending, default=group.read_to + 1) for group in log.groups.values()), default=None)
        before = self.clock() - older_than_s
        old = [one for one, (at, _) in log.entries.items() if at < before and (safe is None or one < safe)]
        for one in old:
            del log.entries[one]
        if old:
            log.trimmed_below = old[-1] + 1
            del log.numbers[: bisect_right(log.numbers, old[-1])]
        return len(old)

    async def forget(self, topic: str, group: str) -> bool:
        """A service that will never come back: trimming no longer waits for it. Whether it was known."""
        known = self._databases.pop((topic, group), None) is not None or group in self._registered.get(topic, set())
        self._registered.get(topic, set()).discard(group)
        for (its_topic, _), log in self._logs.items():
            if its_topic == topic:
                known = log.groups.pop(group, None) is not None or known
        return known

    async def register_database(self, topics: Collection[str], group: str, database: str) -> Mapping[str, str]:
        self._answer()
        noted = {topic: self._databases.get((topic, group), database) for topic in sorted(topics)}
        if all(one == database for one in noted.values()):
            self._databases |= {(topic, group): database for topic in topics}
        return {topic: one for topic, one in noted.items() if one != database}

    async def consume(
        self,
        subscription: Subscription,
        deliver: Deliver,
        status: Status,
        *,
        group: str,
        lanes: LanesOwned,
        since: Mapping[str, BrokerId],
    ) -> None:
        reading = _Reading(self, group, since, deliver, lanes)
        news = asyncio.Event()
        self._readers.add(news)
        try:
            await self._deliver(reading, sorted(subscription.topics), news, status)
        finally:
            self._readers.discard(news)

    async def _deliver(self, reading: "_Reading", topics: Sequence[str], news: asyncio.Event, status: Status) -> None:
        told: tuple[int, str | None] | None = None
        while True:
            news.clear()
            now = (self._lives, self._outage)
            if now != told and self._outage is not None:
                status.down(self._outage, retry_in_s=_LOOK_EVERY_S)
            elif now != told:
                status.up()
            told = now
            if self._outage is None:
                for topic in topics:
                    await reading.deliver_topic(topic)
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):  # lanes come and go without telling us
                    await news.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        return None

    # For readers

    def group_of(self, topic: str, lane: Lane, group: str, begin: BrokerId | None) -> tuple[_Log, _Group]:
        """The group, registered, and made if it is missing."""
        self._registered.setdefault(topic, set()).add(group)
        log = self._log(topic, lane)
        if group not in log.groups:
            log.groups[group] = _Group(read_to=_number(begin))
        return log, log.groups[group]

    @property
    def lives(self) -> int:
        """Changes whenever the broker was away."""
        return self._lives

    def _log(self, topic: str, lane: Lane) -> _Log:
        return self._logs.setdefault((topic, lane), _Log())

    def _answer(self) -> None:
        if self._outage is not None:
            raise TransportUnavailableError(self._outage)

    def _tell(self) -> None:
        for news in self._readers:
            news.set()


class _Reading:
    """One `consume`: what it holds, and in which lanes it has looked for what an earlier owner left."""

    def __init__(
        self,
        broker: MemoryStreams,
        group: str,
        since: Mapping[str, BrokerId],
        deliver: Deliver,
        lanes: LanesOwned,
    ) -> None:
        self._broker = broker
        self._group = group
        self._since = since
        self._deliver = deliver
        self._lanes = lanes
        self._held: dict[_Place, set[int]] = {}
        self._recovered: dict[_Place, tuple[int, int]] = {}
        """Of every lane: the life of the broker and the tenure of the lane in which its reading began."""

    async def deliver_topic(self, topic: str) -> None:
        for lane, tenure in sorted(self._lanes().items()):
            place = (topic, lane)
            log, group = self._broker.group_of(topic, lane, self._group, self._since.get(topic))
            reading = (self._broker.lives, tenure)
            if self._recovered.get(place) != reading:
                if place in self._recovered and self._recovered[place][1] != tenure:
                    self._held.pop(place, None)  # void, and delivered again
                for number in sorted(group.pending - self._held.get(place, set())):
                    await self._hand_over(place, tenure, log, group, number, redelivered=True)
                self._recovered[place] = reading
            for number in log.numbers[bisect_right(log.numbers, group.read_to) :]:
                if self._lanes().get(lane) != tenure or place not in self._recovered:
                    break
                group.read_to = number
                if number not in log.entries:
                    continue
                group.pending.add(number)
                await self._hand_over(place, tenure, log, group, number, redelivered=False)
        for place in [place for place in self._recovered if place[1] not in self._lanes()]:
            del self._recovered[place]
            self._held.pop(place, None)

    async def _hand_over(
        self, place: _Place, tenure: int, log: _Log, group: _Group, number: int, *, redelivered: bool
    ) -> None:
        topic, lane = place
        held = self._held.setdefault(place, set())
        held.add(number)

        async def ack() -> None:
            held.discard(number)
            group.pending.discard(number)

        def release() -> None:
            held.discard(number)
            self._recovered.pop(place, None)

        appended_at, raw = log.entries.get(number, (0.0, None))
        found = read_of_topic(raw, topic)
        await self._deliver(
            Delivery(
                channel=f"{topic}:{lane}",
                raw=raw or b"",
                envelope=found.envelope,
                problem=found.problem,
                foreign=found.foreign,
                redelivered=redelivered,
                age_s=self._broker.clock() - appended_at if redelivered else 0.0,
                ack=ack,
                release=release,
                lane=lane,
                tenure=tenure,
                lost=raw is None,
            )
        )


def _missing(one: BrokerId, log: _Log) -> bool:
    return not one.isdecimal() or (int(one) >= log.trimmed_below and int(one) not in log.entries)


def _number(begin: BrokerId | None) -> int:
    """The number to begin after; `0-0`, the beginning in the words of other brokers, is understood."""
    return int((begin or "0").partition("-")[0])
