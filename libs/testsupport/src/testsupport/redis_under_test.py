"""A Redis or Valkey server as the contract of durable transports wants it, and what else can happen to one."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from cauce.dev.servers import ValkeyServer
from cauce.errors import TransportUnavailableError
from cauce.ports.lanes import LANES, Lane
from cauce.ports.transport import BrokerId
from cauce.settings.broker_rights import BrokerRights
from cauce.testing.transport_contract import LANE, TOPIC, Hearing, message
from cauce.transports.redis.stream_keys import StreamKeys
from cauce.transports.redis_streams import RedisStreams
from redis.asyncio import Redis
from redis.exceptions import ResponseError

__all__ = ["OtherServer", "Proxy", "Publisher", "RedisUnderTest", "first_occurrences", "proxy", "refusals"]


class OtherServer(ValkeyServer):
    """Another program than the wheel's, or other settings: the later line of a setting counts."""

    def __init__(
        self,
        folder: Path,
        *,
        program: Path | None = None,
        settings: Sequence[str] = (),
        users: Mapping[str, BrokerRights] | None = None,
    ) -> None:
        super().__init__(folder, users=users)
        self._other = program
        self.settings = list(settings)

    @cached_property
    def _program(self) -> Path:
        return self._other or super()._program

    @property
    def is_redis(self) -> bool:
        return self.version.startswith("7.0")

    def prepare(self) -> None:
        super().prepare()
        with (self.folder / "valkey.conf").open("a") as configuration:
            configuration.write("\n".join(self.settings) + "\n")


async def refusals(admin: Any) -> list[str]:
    """What the server refused its users for want of rights: the user, and the command, key or channel."""
    return [f"{one['username']}: {one['object']}" for one in await admin.acl_log()]


class RedisUnderTest:
    """See cauce.testing.transport_contract.BrokerUnderTest."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.keys = StreamKeys("cauce")
        # Its commands are half typed.
        self.admin: Any = cast("Any", Redis).from_url(server.url, protocol=2)

    def connect(self, *, url: str | None = None, answer_limit_s: float = 1.5) -> RedisStreams:
        return RedisStreams(url or self.server.url, answer_limit_s=answer_limit_s)

    async def forget_everything(self) -> None:
        await self.admin.flushall()

    async def delete(self, topic: str, lane: Lane, entries: Sequence[BrokerId]) -> None:
        await self.admin.xdel(self.keys.stream(topic, lane), *entries)

    async def pending(self, topic: str, group: str) -> int:
        found = 0
        for lane in range(LANES):
            try:
                found += (await self.admin.xpending(self.keys.stream(topic, Lane(lane)), group))["pending"]
            except ResponseError:
                continue  # no stream, or no group
        return found

    async def stop(self) -> None:
        await self.admin.connection_pool.disconnect()
        await asyncio.to_thread(self.server.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def bodies(self, topic: str, lane: Lane) -> dict[str, bytes]:
        """What the stream holds, by id."""
        entries = await self.admin.xrange(self.keys.stream(topic, lane))
        return {entry_id.decode(): fields[b"e"] for entry_id, fields in entries}

    async def close(self) -> None:
        await self.admin.aclose()


class Publisher:
    """A relay in miniature: one lane, its rows in memory, the tail verified before anything new."""

    def __init__(self, transport: RedisStreams, *, batch: int = 20) -> None:
        self._transport = transport
        self._batch = batch
        self._messages: list[bytes] = []
        self._ids: list[BrokerId | None] = []
        self._verified = False
        self.refed = 0
        self.refusals: list[str] = []

    def write(self, first: int, last: int, *, body: str = "") -> None:
        """Rows of committed transactions."""
        self._messages += [message(number, body=body) for number in range(first, last + 1)]
        self._ids += [None] * (last + 1 - first)

    @property
    def is_empty(self) -> bool:
        return None not in self._ids

    async def run(self) -> None:
        while True:
            try:
                worked = await self._step()
            except TransportUnavailableError as error:
                self.refusals.append(str(error))
                self._verified = worked = False
            await asyncio.sleep(0 if worked else 0.02)

    async def _step(self) -> bool:
        if not self._verified:
            await self._verify()
        pending = [at for at, one in enumerate(self._ids) if one is None][: self._batch]
        batch = [self._messages[at] for at in pending]
        for at, one in zip(pending, await self._transport.append(TOPIC, LANE, batch), strict=True):
            self._ids[at] = one
        return bool(pending)

    async def _verify(self) -> None:
        sent = [one for one in self._ids if one is not None][-100:]
        lost_from = (await self._transport.tail(TOPIC, LANE, sent)).lost_from
        if lost_from is not None:
            first = 0 if lost_from == sent[0] else self._ids.index(lost_from)
            self.refed += sum(1 for one in self._ids[first:] if one is not None)
            self._ids[first:] = [None] * (len(self._ids) - first)
        self._verified = True


def first_occurrences(heard: Hearing) -> list[int]:
    """The numbers of what was heard, copies dropped: what an inbox lets through."""
    return [int(event_id.removeprefix("event-")) for event_id in dict.fromkeys(heard.ids)]


class Proxy:
    """A TCP proxy before the server, which can be slow."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.reply_delay_s = 0.0
        self.replies_per_s: float | None = None
        """How many bytes of the server's replies go through in a second; None: as many as come."""
        self.replied = 0
        """Bytes of the server's replies that went through."""
        self.connections = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://:{self._server.password}@127.0.0.1:{self.port}/0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection(self._server.host, self._server.port)
        self._writers |= {writer, up_writer}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, up_writer, delayed=False))
                tasks.create_task(self._pump(up_reader, writer, delayed=True))
        finally:
            for one in (writer, up_writer):
                one.close()
                self._writers.discard(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool) -> None:
        try:
            while data := await reader.read(65536):
                if delayed and self.reply_delay_s:
                    await asyncio.sleep(self.reply_delay_s)
                writer.write(data)
                await writer.drain()
                if delayed:
                    self.replied += len(data)
                    if self.replies_per_s:
                        await asyncio.sleep(len(data) / self.replies_per_s)
        except OSError:
            pass
        finally:
            writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            cast("asyncio.Transport", writer.transport).abort()


@asynccontextmanager
async def proxy(server: ValkeyServer) -> AsyncGenerator[Proxy]:
    through = Proxy(server)
    listening = await asyncio.start_server(through.serve, "127.0.0.1", 0)
    through.port = listening.sockets[0].getsockname()[1]
    try:
        yield through
    finally:
        listening.close()
        through.cut()
        await listening.wait_closed()
