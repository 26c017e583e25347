"""What Redis or Valkey holds of a system, for people: topics, groups, entries, and the two things that may be set right.

Implements the Inspectable port.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from cauce.errors import TransportUnavailableError
from cauce.ports.lanes import LANES, Lane
from cauce.ports.topics import ErasedEntries, Group, Seen, Topic
from cauce.ports.transport import Verdict
from cauce.transports.redis import health as redis_health
from cauce.transports.redis.connection import RedisServer, RedisTroubleError
from cauce.transports.redis.erasing import erase
from cauce.transports.redis.pipeline import RedisCommands, RedisRefusal
from cauce.transports.redis.queries import RedisQueries, just_before, milliseconds
from cauce.transports.redis.replies import is_id, named, order, text, texts
from cauce.transports.redis.stream_keys import CONSUMER
from cauce.transports.redis.watching import watch

__all__ = ["RedisTopics"]

_LIMIT_S = 3.0


class RedisTopics:
    """The topics of one prefix on one server. Connects when first asked; `if_down` is the hint of its errors.

    Raises ConfigurationError for a URL that cannot be read.
    """

    name = "Redis"

    def __init__(self, url: str, *, prefix: str = "cauce", if_down: str) -> None:
        server = RedisServer(url, if_down=if_down, answer_limit_s=_LIMIT_S)
        self._commands = RedisCommands(server, answer_limit_s=_LIMIT_S)
        self._queries = RedisQueries(self._commands, address=server.label, prefix=prefix)
        self._keys = self._queries.keys
        self.address = server.label

    def close(self) -> None:
        """Give the connection back. Safe to call twice."""
        self._commands.close()

    async def now(self) -> datetime:
        return await self._queries.now()

    async def topics(self) -> Sequence[Topic]:
        return [await self.topic(name) for name in await self._queries.topic_names()]

    async def topic(self, name: str) -> Topic:
        streams = [self._keys.stream(name, Lane(lane)) for lane in range(LANES)]
        now = milliseconds(await self._queries.now())
        registry, marks, *answers = await self._queries.ask(
            ("HGETALL", self._keys.groups(name)),
            ("HGETALL", self._keys.trimmed(name)),
            *(("XINFO", "STREAM", stream) for stream in streams),
        )
        registered = {} if isinstance(registry, RedisRefusal) else texts(registry)
        infos = {
            stream: named(answer)
            for stream, answer in zip(streams, answers, strict=True)
            if not isinstance(answer, RedisRefusal)
        }
        oldest = [order(info["first-entry"][0])[0] for info in infos.values() if info.get("first-entry")]
        newest = [order(info["last-entry"][0])[0] for info in infos.values() if info.get("last-entry")]
        return Topic(
            name=name,
            streams=len(infos),
            entries=sum(int(info["length"]) for info in infos.values()),
            oldest_s=(now - min(oldest)) / 1000 if oldest else None,
            newest_s=(now - max(newest)) / 1000 if newest else None,
            groups=tuple(await self._groups(registered, infos, now)),
            marked_beyond=tuple(_marked_beyond({} if isinstance(marks, RedisRefusal) else texts(marks), answers, now)),
        )

    async def health(self) -> Sequence[Verdict]:
        """What can be seen of the server: version, persistence, eviction, role; and its memory, if it has a limit."""
        try:
            return [*await redis_health.look(self._commands), *await redis_health.memory(self._commands)]
        except RedisTroubleError as trouble:
            raise TransportUnavailableError(str(trouble)) from trouble

    async def forget(self, topic: str, group: str) -> bool:
        streams = [self._keys.stream(topic, Lane(lane)) for lane in range(LANES)]
        answers = await self._queries.ask(
            ("HDEL", self._keys.groups(topic), group),
            ("HDEL", self._keys.databases(topic), group),
            *(("XGROUP", "DESTROY", stream, group) for stream in streams),
        )
        return any(answer == 1 for answer in answers)

    async def databases(self, group: str) -> Mapping[str, str]:
        topics = await self._queries.topic_names("databases")
        if not topics:
            return {}
        answers = await self._queries.need(*(("HGET", self._keys.databases(one), group) for one in topics))
        return {topic: text(answer) for topic, answer in zip(topics, answers, strict=True) if answer is not None}

    async def register_database(self, topic: str, group: str, database: str) -> None:
        await self._queries.need(("HSET", self._keys.databases(topic), group, database))

    async def erase(self, topic: str, key: str, *, dry_run: bool) -> ErasedEntries:
        return await erase(self._queries, topic, key, dry_run=dry_run)

    async def set_back(self, topic: str, group: str, since: datetime) -> Mapping[Lane, int]:
        # A lane without a stream or without this group is left out: the service makes the group where it belongs.
        found: dict[Lane, int] = {}
        before = just_before(since)
        for lane in map(Lane, range(LANES)):
            stream = self._keys.stream(topic, lane)
            command = ("XGROUP", "SETID", stream, group, before)
            (answer,) = await self._queries.ask(command)
            if isinstance(answer, RedisRefusal):
                if answer.code in ("NOGROUP", "ERR") and "key" in str(answer).lower():
                    continue
                raise self._queries.refused(command, answer)
            found[lane] = await self._count_in_lane(topic, lane, since)
        return found

    async def count_since(self, topic: str, since: datetime) -> int:
        return sum([await self._count_in_lane(topic, Lane(lane), since) for lane in range(LANES)])

    async def trimmed_since(self, topic: str, since: datetime) -> bool:
        (answer,) = await self._queries.need(("HGETALL", self._keys.trimmed(topic)))
        return any(is_id(below) and order(below)[0] > milliseconds(since) for below in texts(answer).values())

    def watch(
        self,
        topics: Sequence[str],
        *,
        since: datetime | None,
        follow: bool,
        trouble: Callable[[str | None], None],
    ) -> AsyncGenerator[Seen]:
        return watch(self._queries, topics, since=since, follow=follow, trouble=trouble)

    async def _count_in_lane(self, topic: str, lane: Lane, since: datetime) -> int:
        count, begin = 0, str(milliseconds(since))
        while True:
            (page,) = await self._queries.need(("XRANGE", self._keys.stream(topic, lane), begin, "+", "COUNT", "1000"))
            count += len(page)
            if len(page) < 1000:
                return count
            begin = f"({text(page[-1][0])}"

    async def _groups(
        self, registered: Mapping[str, str], infos: Mapping[str, Mapping[str, Any]], now: int
    ) -> list[Group]:
        streams = list(infos)
        listed = await self._queries.need(*(("XINFO", "GROUPS", stream) for stream in streams)) if streams else []
        readers = await self._readers(
            [
                (stream, text(one["name"]))
                for stream, groups in zip(streams, listed, strict=True)
                for one in map(named, groups)
            ]
        )
        state: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in registered}
        for stream, groups in zip(streams, listed, strict=True):
            for group in map(named, groups):
                state.setdefault(text(group["name"]), {})[stream] = group
        found: list[Group] = []
        for name, by_stream in sorted(state.items()):
            waiting = [await self._oldest(stream, name, group) for stream, group in by_stream.items()]
            ages = [(now - at) / 1000 for at in waiting if at is not None]
            found.append(
                Group(
                    name=name,
                    registered=name in registered,
                    lanes=len(by_stream),
                    lag=sum([await self._lag(stream, group) for stream, group in by_stream.items()]),
                    pending=sum(int(group["pending"]) for group in by_stream.values()),
                    oldest_waiting_s=max(0.0, max(ages)) if ages else None,
                    idle_s=min(readers.get(name, {}).get(CONSUMER, []), default=None),
                    foreign=tuple(sorted(readers.get(name, {}).keys() - {CONSUMER})),
                )
            )
        return found

    async def _readers(self, groups: Sequence[tuple[str, str]]) -> Mapping[str, Mapping[str, list[float]]]:
        """By group and reader: how long ago it came, in every stream where it ever did."""
        answers = await self._queries.ask(*(("XINFO", "CONSUMERS", *one) for one in groups)) if groups else []
        found: dict[str, dict[str, list[float]]] = {}
        for (_, group), answer in zip(groups, answers, strict=True):
            if isinstance(answer, RedisRefusal):
                continue  # it went a moment ago
            for reader in map(named, answer):
                found.setdefault(group, {}).setdefault(text(reader["name"]), []).append(int(reader["idle"]) / 1000)
        return found

    async def _lag(self, stream: str, group: Mapping[str, Any]) -> int:
        lag = group.get("lag")
        if lag is not None:
            return int(lag)
        # The server cannot tell (entries were deleted, or it is older than 7.0): counted, up to a limit.
        (after,) = await self._queries.need(
            ("XRANGE", stream, f"({text(group['last-delivered-id'])}", "+", "COUNT", "10000")
        )
        return len(after)

    async def _oldest(self, stream: str, name: str, group: Mapping[str, Any]) -> int | None:
        """When the oldest entry that this group has not settled was appended, in milliseconds."""
        if int(group["pending"]):
            (summary,) = await self._queries.need(("XPENDING", stream, name))
            if summary[0]:
                return order(summary[1])[0]
        if group.get("lag") == 0:
            return None
        (after,) = await self._queries.need(
            ("XRANGE", stream, f"({text(group['last-delivered-id'])}", "+", "COUNT", "1")
        )
        return order(after[0][0])[0] if after else None


def _marked_beyond(marks: Mapping[str, str], streams: Sequence[Any], now: int) -> Iterator[Lane]:
    """Lanes whose mark is no id, or one that no entry can have had yet. `streams`: as XINFO tells of them, by lane."""
    for lane, stream in enumerate(streams):
        mark = marks.get(str(lane))
        if mark is None:
            continue
        last = (0, 0) if isinstance(stream, RedisRefusal) else order(named(stream)["last-generated-id"])
        # Trimming marks what comes after an acknowledged entry; a clock of the server that was ahead makes ids of its own.
        if not is_id(mark) or order(mark) > max((last[0], last[1] + 1), (now + 60_000, 0)):
            yield Lane(lane)
