"""Redis or Valkey Streams: a stream for every lane of a topic, a consumer group for every service.

No scripts and no commands of the class @dangerous. Keys:

    PREFIX:{topic}:LANE      the streams; one field, `e`, holds the CloudEvents JSON
    PREFIX:{topic}:groups    every group that has a right to be waited for when trimming, and where it began
    PREFIX:{topic}:databases for every service that hears it or sends to it, the incarnation of its database
    PREFIX:{topic}:trimmed   for every lane, the id below which entries were trimmed on purpose

What users of the server need (`rights` writes it out): a service that publishes TOPIC, and one that hears it.
"""

import math
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cauce.errors import PublishError, TailUnverifiedError, TransportUnavailableError
from cauce.formats.cloudevents import MAX_MESSAGE_BYTES
from cauce.ports.lanes import LANES, Lane
from cauce.ports.transport import BrokerId, Deliver, LanesOwned, Status, Subscription, Tail, Verdict
from cauce.settings.broker_rights import BrokerRights
from cauce.transports.redis import health as redis_health
from cauce.transports.redis.connection import RedisServer, RedisTroubleError, url_from_environment
from cauce.transports.redis.group_reading import GroupReading
from cauce.transports.redis.heard import Heard
from cauce.transports.redis.pipeline import Command, RedisCommands, RedisPipeline, RedisRefusal
from cauce.transports.redis.replies import Order, entries_by_stream, is_id, just_before, named, order, text, texts
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from cauce.transports.redis.young_streams import YoungStreams

__all__ = ["RedisStreams"]

_TAIL_PAGE = 50
_SIGN_OF_LIFE_S = 1.5
"""A server that has answered a reader so lately need not be asked whether it does."""
_IDLE_S = 1.0
"""Before a lane is appended to after so long a pause, the server is asked whether it still is the stream we know."""


@dataclass(slots=True)
class _End:
    """What this process knows about the end of a stream that it appends to."""

    verified_on: int | None = None
    """The connection on which the tail was last asked for; None if nobody ever did."""
    last: BrokerId | None = None
    """The last id given to us since then."""
    at: float = 0.0


class RedisStreams:
    """The durable transport. `url` as in RedisServer; `prefix` separates systems on one server.

    Every command has `answer_limit_s`, which starts again whenever bytes come; a blocked read has half a second more, so
    a frozen server is noticed within their sum. Nothing that was not confirmed is sent again automatically. Connects
    only when used.
    """

    name = "redis"
    durable = True

    def __init__(
        self, url: str, *, prefix: str = "cauce", if_down: str = "cauce doctor", answer_limit_s: float = 2.0
    ) -> None:
        self.keys = StreamKeys(prefix)
        self._server = RedisServer(url, if_down=if_down, answer_limit_s=answer_limit_s)
        self._commands = RedisCommands(self._server, answer_limit_s=answer_limit_s)
        self._ends: dict[str, _End] = {}
        self._heard = Heard()
        self._compared_at = -math.inf
        self._young = YoungStreams()

    @classmethod
    def from_environment(cls) -> "RedisStreams":
        """For programs that read no settings of their own: REDIS_URL, or REDIS_HOST, REDIS_PORT and REDIS_PASS."""
        return cls(url_from_environment())

    @property
    def prefix(self) -> str:
        return self.keys.prefix

    @property
    def address(self) -> str:
        """Where the server is, without user and password."""
        return self._server.label

    # Publishing

    async def append(self, topic: str, lane: Lane, messages: Sequence[bytes]) -> Sequence[BrokerId]:
        if not messages:
            return []
        for message in messages:
            if len(message) > MAX_MESSAGE_BYTES:
                raise PublishError(_too_large(len(message)))
        stream = self.keys.stream(topic, lane)
        end = self._ends.setdefault(stream, _End())
        with _unavailable():
            pipeline = await self._commands.pipeline()
            await self._check_end(pipeline, stream, end)
            # Once we know the stream, it must not be made again behind our back: it would have lost its entries.
            known = ("NOMKSTREAM",) if end.verified_on is not None and end.last is not None else ()
            adds: list[Command] = [("XADD", stream, *known, "*", FIELD, message) for message in messages]
            if len(adds) == 1:
                ids = await pipeline.ask(*adds)
                self._accept(ids)
            else:
                answers = await pipeline.ask(("MULTI",), *adds, ("EXEC",))
                self._accept(answers)
                ids: list[Any] = answers[-1]
                self._accept(ids)
        if None in ids:
            raise TailUnverifiedError(_forgot(stream))
        appended = [BrokerId(one.decode()) for one in ids]
        end.last, end.at = appended[-1], time.monotonic()
        return appended

    async def _check_end(self, pipeline: RedisPipeline, stream: str, end: _End) -> None:
        """Whether it is still the stream whose tail was verified: the same connection, and its last id known to it."""
        if end.verified_on is None:
            return
        if end.verified_on != pipeline.number:
            raise TailUnverifiedError(f"the connection to Redis at {self._server.label} is a new one")
        if end.last is not None and time.monotonic() - end.at > _IDLE_S:
            (answer,) = await pipeline.ask(("XINFO", "STREAM", stream))
            if isinstance(answer, RedisRefusal) or order(named(answer)["last-generated-id"]) < order(end.last):
                raise TailUnverifiedError(_forgot(stream))
            end.at = time.monotonic()

    async def tail(self, topic: str, lane: Lane, sent: Sequence[BrokerId]) -> Tail:
        stream = self.keys.stream(topic, lane)
        with _unavailable():
            pipeline = await self._commands.pipeline()
            held, kept_from = await self._held(pipeline, topic, lane, [one for one in sent if is_id(one)])
        missing = (one for one in sent if one not in held and not (is_id(one) and order(one) < kept_from))
        lost_from = next(missing, None)
        newest = sent[-1] if sent and lost_from is None and sent[-1] in held else None
        self._ends[stream] = _End(verified_on=pipeline.number, last=newest, at=time.monotonic())
        return Tail(server=str(pipeline.number), lost_from=lost_from)

    async def _held(
        self, pipeline: RedisPipeline, topic: str, lane: Lane, sent: Sequence[BrokerId]
    ) -> tuple[Collection[str], Order]:
        """Which ids the stream holds between the first and the last of these, and what was trimmed on purpose."""
        held: set[str] = set()
        ranked = sorted(sent, key=order)
        after, last = (ranked[0], ranked[-1]) if ranked else ("-", "-")
        while True:
            page: Command = ("XRANGE", self.keys.stream(topic, lane), after, last, "COUNT", str(_TAIL_PAGE))
            answers = await pipeline.ask(("HGET", self.keys.trimmed(topic), str(lane)), *([page] if ranked else []))
            self._accept(answers)
            trimmed: Any = answers[0]
            entries: list[Any] = answers[1] if ranked else []
            held |= {text(entry[0]) for entry in entries}
            if len(entries) < _TAIL_PAGE:
                return held, order(trimmed) if trimmed and is_id(text(trimmed)) else (0, 0)
            after = f"({text(entries[-1][0])}"

    async def doubtful(self, streams: Collection[tuple[str, Lane]], *, kept_s: float) -> Collection[tuple[str, Lane]]:
        with _unavailable():
            pipeline = await self._commands.pipeline()
            ends = {stream: self._ends.get(self.keys.stream(*stream)) for stream in streams}
            lost_a_stream = self._heard.lost_a_stream()
            if lost_a_stream or any(end is None or end.verified_on != pipeline.number for end in ends.values()):
                return streams
            now = time.monotonic()
            if self._heard.answered_since(now - _SIGN_OF_LIFE_S) and now - self._compared_at < kept_s:
                return ()
            last = {self.keys.stream(*one): end.last for one, end in ends.items() if end is not None and end.last}
            if last:
                lost = await self._without_end(pipeline, last)
            else:
                lost = ()
                self._accept(await pipeline.ask(("PING",)))
            self._compared_at = now
        return [stream for stream in streams if self.keys.stream(*stream) in lost]

    async def _without_end(self, pipeline: RedisPipeline, last: Mapping[str, BrokerId]) -> Collection[str]:
        """Which streams do not hold these entries. One command, for users who may send it."""
        before = (just_before(one) for one in last.values())
        (answer,) = await pipeline.ask(("XREAD", "COUNT", "1", "STREAMS", *last, *before))
        if isinstance(answer, RedisRefusal) and answer.code == "NOPERM":
            answers = await pipeline.ask(*(("XRANGE", stream, one, one) for stream, one in last.items()))
            self._accept(answers)
            return {stream for stream, entries in zip(last, answers, strict=True) if not entries}
        self._accept([answer])
        found = {text(stream): text(entries[0][0]) for stream, entries in entries_by_stream(answer)}
        return {stream for stream, one in last.items() if found.get(stream) != one}

    async def now(self, topic: str) -> BrokerId:
        with _unavailable():
            (clock,) = await self._commands.ask(("TIME",))
            self._accept([clock])
        # What was appended in this very millisecond is heard too: rather one too many than one too few.
        return BrokerId(f"{_milliseconds(clock) - 1}-{2**64 - 1}")

    # Trimming

    async def trim(self, topic: str, lane: Lane, *, older_than_s: float) -> int:
        with _unavailable():
            if not await self._young.may_hold_older(self._commands, self.keys.stream(topic, lane), older_than_s):
                return 0
            limit = await self._may_go(topic, lane, older_than_s)
            if limit <= (0, 0):
                return 0
            below = f"{limit[0]}-{limit[1]}"
            answers = await self._commands.ask(
                ("MULTI",),
                ("HSET", self.keys.trimmed(topic), str(lane), below),
                ("XTRIM", self.keys.stream(topic, lane), "MINID", below),
                ("EXEC",),
            )
            self._accept(answers)
            self._accept(answers[-1])
        return int(answers[-1][1])

    async def _may_go(self, topic: str, lane: Lane, older_than_s: float) -> Order:
        """The id below which every group has acknowledged everything, and which is old enough; (0, 0) for nothing.

        Entries only move from not delivered over pending to acknowledged, so what is found here stays true.
        """
        stream, registry = self.keys.stream(topic, lane), self.keys.groups(topic)
        listing: list[Command] = [("HGETALL", registry), ("XINFO", "GROUPS", stream)]
        groups = _groups(*await self._commands.ask(*listing))
        if groups is None:
            return 0, 0
        pendings: list[Command] = [("XPENDING", stream, group) for group in sorted(groups)]
        answers = await self._commands.ask(("MULTI",), ("TIME",), *listing, *pendings, ("EXEC",))
        self._accept(answers)
        clock, registered, infos, *summaries = answers[-1]
        if groups != _groups(registered, infos) or any(isinstance(one, RedisRefusal) for one in summaries):
            return 0, 0  # a group came or went meanwhile, or one that is registered is missing here: another time
        state = {text(named(info)["name"]): named(info) for info in infos}
        safe = (_milliseconds(clock) - int(older_than_s * 1000), 0)
        for group, summary in zip(sorted(groups), summaries, strict=True):
            delivered = order(state[group]["last-delivered-id"])
            safe = min(safe, order(summary[1]) if summary[0] else (delivered[0], delivered[1] + 1))
        return safe

    async def forget(self, topic: str, group: str) -> bool:
        """A service that will never come back: trimming no longer waits for it. Whether it was known.

        Its pending entries are gone with it. A service of that name that still runs makes its group again.
        """
        streams = [self.keys.stream(topic, Lane(lane)) for lane in range(LANES)]
        with _unavailable():
            answers = await self._commands.ask(
                ("HDEL", self.keys.groups(topic), group),
                ("HDEL", self.keys.databases(topic), group),
                *(("XGROUP", "DESTROY", stream, group) for stream in streams),
            )
            self._accept(answers[:2])
        return any(answer == 1 for answer in answers)

    # Whose database it is

    async def register_database(self, topics: Collection[str], group: str, database: str) -> Mapping[str, str]:
        keys = {topic: self.keys.databases(topic) for topic in sorted(topics)}
        with _unavailable():
            # Read first: a full server takes no writes, and need not, from those it knows.
            answers = await self._commands.ask(*(("HGET", key, group) for key in keys.values()))
            self._accept(answers)
            noted = {topic: text(answer) for topic, answer in zip(keys, answers, strict=True) if answer is not None}
            for topic, key in keys.items():
                if any(one != database for one in noted.values()):
                    break
                if topic not in noted:
                    answers = await self._commands.ask(("HSETNX", key, group, database), ("HGET", key, group))
                    self._accept(answers)
                    if answers[1] is not None:  # else somebody forgot it at this very moment
                        noted[topic] = text(answers[1])
        return {topic: one for topic, one in noted.items() if one != database}

    # Hearing

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
        reading = GroupReading(
            self._commands,
            keys=self.keys,
            group=group,
            topics=sorted(subscription.topics),
            deliver=deliver,
            status=status,
            lanes=lanes,
            since=since,
            label=self._server.label,
            heard=self._heard,
        )
        await reading.run()

    # Looking after it

    async def health(self) -> Sequence[Verdict]:
        """What can be seen of the server's persistence, eviction policy and role. Raises TransportUnavailableError."""
        with _unavailable():
            return await redis_health.look(self._commands)

    def rights(
        self,
        *,
        publishes: str | None = None,
        hears: Collection[str] = (),
        adopts: Collection[str] = (),
        selectors: bool = True,
    ) -> Sequence[str]:
        """What a service's user needs, as the words after `ACL SETUSER name on >password resetchannels`.

        `publishes`: the service's own name, also of one that publishes nothing: its topic is where its database is
        registered. `adopts`: the topics of others into which its NestBridge puts what NestJS said. See BrokerRights for
        who may write where, and for `selectors`.
        """
        rights = BrokerRights(
            writes={*adopts, *([publishes] if publishes else ())}, hears=frozenset(hears), prefix=self.prefix
        )
        return rights.words(selectors=selectors)

    async def close(self) -> None:
        self._commands.close()

    def _accept(self, answers: Sequence[Any]) -> None:
        """Raise what was refused. In a transaction the first refusal is the cause of the others."""
        for answer in answers:
            if isinstance(answer, RedisRefusal):
                raise TransportUnavailableError(_refused(self._server.label, answer))


@contextmanager
def _unavailable() -> Generator[None]:
    try:
        yield
    except RedisTroubleError as trouble:
        raise TransportUnavailableError(str(trouble)) from None


def _groups(registered: Any, infos: Any) -> set[str] | None:
    """Groups to be waited for: the registered ones, and those that are there. None if there is no stream yet."""
    if isinstance(registered, RedisRefusal) or isinstance(infos, RedisRefusal):
        return None
    return set(texts(registered)) | {text(named(info)["name"]) for info in infos}


def _milliseconds(clock: Sequence[Any]) -> int:
    return int(clock[0]) * 1000 + int(clock[1]) // 1000


def _refused(label: str, refusal: RedisRefusal) -> str:
    """What it means to a person, and what to do."""
    what = " ".join(str(refusal).split())[:200]
    match refusal.code:
        case "OOM":
            return f"Redis at {label} is full (maxmemory); nothing was appended → give it more, or wait for its readers"
        case "NOPERM":
            return f"Redis at {label} does not let this user do that ({what}) → ACL SETUSER, see RedisStreams.rights()"
        case "READONLY":
            return f"Redis at {label} is a replica and takes no writes → put the primary's address into the URL"
        case _:
            return f"Redis at {label} answered: {what}"


def _forgot(stream: str) -> str:
    return f"the stream {stream} is not the one it was; nothing was appended"


def _too_large(size: int) -> str:
    return (
        f"a message has {size} bytes; the limit is {MAX_MESSAGE_BYTES}. Put the large part elsewhere and its address "
        "into the event. Nothing was appended."
    )
