"""Behind a pooler that gives each transaction another server process (PgBouncer), nothing fails and nobody is charged."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psycopg
import pytest
from cauce import IntegrationEvent, Service, Transaction, on
from cauce.dev.servers import ScratchDatabases
from cauce.listeners.retry import Retry
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from testsupport.waiting import until

_NO_ENCRYPTION = (80877103, 80877104)
_TOLD = ("server_version", "server_encoding", "client_encoding", "standard_conforming_strings", "TimeZone", "DateStyle")


class Pooler:
    """As much of PgBouncer's transaction mode as it takes: clients are let in, and servers go round by transaction."""

    def __init__(self, servers: list[psycopg.Connection]) -> None:
        self._servers = servers
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._clients: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        for server in self._servers:  # it has signed in; from here on its socket is ours
            self._free.put_nowait(await asyncio.open_connection(sock=socket.socket(fileno=os.dup(server.fileno()))))

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        await until(lambda: not self._clients)
        for _ in self._servers:
            _, writer = await self._free.get()
            await _closed(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            await self._let_in(reader, writer)
            while (message := await _message(reader))[:1] != b"X":
                await self._transaction(message, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()
            self._clients.discard(writer)

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            (code,) = struct.unpack_from("!i", await reader.readexactly(length - 4))
            if code not in _NO_ENCRYPTION:
                break
            writer.write(b"N")
        writer.write(_framed(b"R", struct.pack("!i", 0)))
        for name in _TOLD:
            value = self._servers[0].info.parameter_status(name) or ""
            writer.write(_framed(b"S", f"{name}\0{value}\0".encode()))
        writer.write(_framed(b"K", struct.pack("!ii", 7, 7)))  # a process of its own, as PgBouncer names one
        writer.write(_framed(b"Z", b"I"))

    async def _transaction(self, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = server = await self._free.get()
        try:
            while True:
                server_writer.write(message)
                if message[:1] in b"QS":
                    while (answer := await _message(server_reader))[:1] != b"Z":
                        writer.write(answer)
                    writer.write(answer)
                    if answer[5:] == b"I":
                        return
                message = await _message(reader)
        finally:
            self._free.put_nowait(server)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


def _framed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


@asynccontextmanager
async def pooled(url: str, *, servers: int = 4) -> AsyncGenerator[str]:
    """The URL of the same database behind a pooler."""
    with_driver = make_url(url)
    async with AsyncExitStack() as stack:
        plain = with_driver.set(drivername="postgresql").render_as_string(hide_password=False)
        pooler = Pooler([stack.enter_context(psycopg.connect(plain)) for _ in range(servers)])
        await pooler.open()
        door = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
        yield with_driver.set(host="127.0.0.1", port=door.sockets[0].getsockname()[1]).render_as_string(
            hide_password=False
        )
        door.close()
        await pooler.close()


class Counted(IntegrationEvent, name="pooled.counted", version=1, source="pooled-ms", key="number"):
    number: int


class Listener:
    def __init__(self) -> None:
        self.attempts: list[int] = []

    @on(Counted, retry=Retry(attempts=2, base=0.01, cap=0.01))
    async def write(self, event: Counted, tx: Transaction) -> None:
        self.attempts.append(event.number)
        await tx.session.execute(text("INSERT INTO counted VALUES (:number)"), {"number": event.number})


@pytest.mark.parametrize("made_by", ["us", "SQLAlchemy"])
async def test_durable_delivery_behind_a_pooler_costs_no_attempt(postgres: ScratchDatabases, made_by: str) -> None:
    url = postgres.database()
    async with pooled(url) as behind:
        engine = create_engine(behind) if made_by == "us" else create_async_engine(behind)
        store, listener = SqlAlchemyStore(engine), Listener()
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE counted (number INTEGER)"))
        service = Service(
            "pooled-ms",
            modules=[listener],
            store=store,
            transport=MemoryStreams(),
            publishes=[Counted],
            start="retained",
        )
        async with service:
            for number in range(30):
                async with service.transaction() as tx:
                    await tx.publish(Counted(number=number))
            await until(lambda: service.counters["handled"] >= 30)

            assert sorted(listener.attempts) == list(range(30))
            assert {name: service.counters[name] for name in ("waiting", "dead", "infrastructure")} == {
                "waiting": 0,
                "dead": 0,
                "infrastructure": 0,
            }
        await engine.dispose()


async def test_without_a_pooler_statements_are_prepared_as_before(postgres: ScratchDatabases) -> None:
    engine = create_engine(postgres.database())
    async with engine.connect() as connection:
        for _ in range(8):
            await connection.execute(text("SELECT 1"))
        prepared = await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))
        assert prepared.scalar_one() > 0
    await engine.dispose()
