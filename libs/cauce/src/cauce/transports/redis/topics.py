"""What Redis or Valkey holds of a system, seen from outside: topics, groups, entries. Reads, and the two things a person
may change: a group that is retired, and a group's position.

Not part of the transport: a running service needs none of it, and its user has none of these rights.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cauce.admin.targets import Broker
from cauce.errors import TransportUnavailableError
from cauce.ports.lanes import LANES, Lane
from cauce.ports.topics import Group, Topic
from cauce.ports.transport import Verdict
from cauce.transports.redis import health as redis_health
from cauce.transports.redis.connection import RedisServer
from cauce.transports.redis.pipeline import Command, RedisCommands, RedisRefusal
from cauce.transports.redis.replies import named, order, text, texts
from cauce.transports.redis.stream_keys import StreamKeys

__all__ = ["BrokerView", "open_broker"]

LIMIT_S = 3.0
_PREFIX = "cauce"


class BrokerView:
    """One broker, one prefix. Raises TransportUnavailableError when it does not answer or does not permit it."""

    def __init__(self, commands: RedisCommands, server: RedisServer, prefix: str) -> None:
        self._commands = commands
        self.address = server.label
        self.keys = StreamKeys(prefix)

    async def ask(self, *commands: Command, patience_s: float = 0.0) -> list[Any]:
        """One answer each, refusals among them."""
        return await (await self._commands.pipeline()).ask(*commands, patience_s=patience_s)

    async def need(self, *commands: Command) -> list[Any]:
        """One answer each; TransportUnavailableError for the first refusal."""
        answers = await self.ask(*commands)
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, RedisRefusal):
                raise TransportUnavailableError(f"Redis at {self.address} answered {text(command[0])} with: {answer}")
        return answers

    async def now_ms(self) -> int:
        (clock,) = await self.need(("TIME",))
        return int(clock[0]) * 1000 + int(clock[1]) // 1000

    async def topic_names(self) -> Sequence[str]:
        """Every topic of this prefix, found by looking through the keys."""
        found: set[str] = set()
        cursor = "0"
        while True:
            pattern = f"{self.keys.prefix}:{{*}}:*"
            ((following, keys),) = await self.need(("SCAN", cursor, "MATCH", pattern, "COUNT", "1000"))
            for key in map(text, keys):
                _, brace, rest = key.partition(":{")
                name, closing, what = rest.rpartition("}:")
                if brace and closing and (what.isdecimal() or what == "groups"):
                    found.add(name)
            cursor = text(following)
            if cursor == "0":
                return sorted(found)

    async def topic(self, name: str) -> Topic:
        """One topic, with its groups. A topic that nobody has published to yet has no streams."""
        streams = [self.keys.stream(name, Lane(lane)) for lane in range(LANES)]
        now = await self.now_ms()
        registry, *answers = await self.ask(
            ("HGETALL", self.keys.groups(name)), *(("XINFO", "STREAM", stream) for stream in streams)
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
        )

    async def _groups(
        self, registered: Mapping[str, str], infos: Mapping[str, Mapping[str, Any]], now: int
    ) -> list[Group]:
        streams = list(infos)
        listed = await self.need(*(("XINFO", "GROUPS", stream) for stream in streams)) if streams else []
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
                )
            )
        return found

    async def _lag(self, stream: str, group: Mapping[str, Any]) -> int:
        lag = group.get("lag")
        if lag is not None:
            return int(lag)
        # The server cannot tell (entries were deleted, or it is older than 7.0): counted, up to a limit.
        (after,) = await self.need(("XRANGE", stream, f"({text(group['last-delivered-id'])}", "+", "COUNT", "10000"))
        return len(after)

    async def _oldest(self, stream: str, name: str, group: Mapping[str, Any]) -> int | None:
        """When the oldest entry that this group has not settled was appended, in milliseconds."""
        if int(group["pending"]):
            (summary,) = await self.need(("XPENDING", stream, name))
            if summary[0]:
                return order(summary[1])[0]
        if group.get("lag") == 0:
            return None
        (after,) = await self.need(("XRANGE", stream, f"({text(group['last-delivered-id'])}", "+", "COUNT", "1"))
        return order(after[0][0])[0] if after else None

    async def health(self) -> Sequence[Verdict]:
        """What can be seen of the server: version, persistence, eviction, role."""
        return await redis_health.look(self._commands)

    async def forget(self, topic: str, group: str) -> bool:
        """A service that will never come back. Whether it was known; its pending entries are gone with it."""
        streams = [self.keys.stream(topic, Lane(lane)) for lane in range(LANES)]
        answers = await self.ask(
            ("HDEL", self.keys.groups(topic), group), *(("XGROUP", "DESTROY", stream, group) for stream in streams)
        )
        return any(answer == 1 for answer in answers)

    async def set_back(self, topic: str, group: str, since_ms: int) -> Mapping[Lane, int]:
        """Give the group everything again that was appended since then. By lane, how many entries that is.

        What the broker has trimmed does not come back. A lane without a stream or without this group is left out: the
        group will be made where it belongs when the service runs.
        """
        found: dict[Lane, int] = {}
        before = f"{max(0, since_ms - 1)}-{2**64 - 1}"
        for lane in map(Lane, range(LANES)):
            stream = self.keys.stream(topic, lane)
            (answer,) = await self.ask(("XGROUP", "SETID", stream, group, before))
            if isinstance(answer, RedisRefusal):
                if answer.code in ("NOGROUP", "ERR") and "key" in str(answer).lower():
                    continue
                raise TransportUnavailableError(f"Redis at {self.address} answered XGROUP with: {answer}")
            found[lane] = await self.count_since(topic, lane, since_ms)
        return found

    async def count_since(self, topic: str, lane: Lane, since_ms: int) -> int:
        """How many entries of a lane were appended since then."""
        count, begin = 0, str(since_ms)
        while True:
            (page,) = await self.need(("XRANGE", self.keys.stream(topic, lane), begin, "+", "COUNT", "1000"))
            count += len(page)
            if len(page) < 1000:
                return count
            begin = f"({text(page[-1][0])}"

    async def count_topic_since(self, topic: str, since_ms: int) -> int:
        return sum([await self.count_since(topic, Lane(lane), since_ms) for lane in range(LANES)])

    async def trimmed_since(self, topic: str, since_ms: int) -> bool:
        """Whether entries younger than that were trimmed on purpose: only their producer has them still."""
        (answer,) = await self.need(("HGETALL", self.keys.trimmed(topic)))
        return any(order(below)[0] > since_ms for below in texts(answer).values())


@asynccontextmanager
async def open_broker(broker: Broker, *, prefix: str | None = None) -> AsyncGenerator[BrokerView]:
    """Connects when first asked. Raises ConfigurationError for a URL that cannot be read."""
    server = RedisServer(broker.url, if_down=f"is it running? ({broker.origin})", answer_limit_s=LIMIT_S)
    commands = RedisCommands(server, answer_limit_s=LIMIT_S)
    try:
        yield BrokerView(commands, server, prefix or _PREFIX)
    finally:
        commands.close()
