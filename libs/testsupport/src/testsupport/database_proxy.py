"""Between a service and its PostgreSQL: counts the round trips of transactions, and cuts connections where a test wants it."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import make_url

__all__ = ["Cut", "DatabaseProxy", "SeenTransaction", "until_one_ends"]

Cut = Literal["before", "after"]
"""The next time something is sent: before the server has it, or once it has answered."""


@dataclass
class SeenTransaction:
    """What happened on a connection from one time that it was in no transaction to the next."""

    trips: int = 0
    """How often the client was answered, having waited for it."""
    said: bytes = b""
    """All that the client sent in it."""


class DatabaseProxy:
    """`transactions`: of all connections, as they ended."""

    def __init__(self, url: str) -> None:
        """`url`: the database that it stands before."""
        self._target = make_url(url)
        self.transactions: list[SeenTransaction] = []
        self.cut: Cut | None = None
        self._connected: set[asyncio.Future[object]] = set()

    def trips_of(self, said: str) -> int:
        """Of the first transaction in which a client sent this."""
        return next(one.trips for one in self.transactions if said.encode() in one.said)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        """The URL of the same database behind it."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield self._target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        finally:
            server.close()
            if self._connected:
                await asyncio.wait(self._connected, timeout=5)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._connected.add(ended)
        try:
            await self._hand_over(client_in, client_out)
        finally:
            self._connected.discard(ended)
            ended.set_result(None)

    async def _hand_over(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_connection(self._target.host, self._target.port)
        silent, current = False, SeenTransaction()

        async def upstream() -> None:
            nonlocal silent
            while data := await client_in.read(65536):
                if self.cut == "before":
                    return
                silent = silent or self.cut == "after"
                current.said += data
                server_out.write(data)
                await server_out.drain()

        async def downstream() -> None:
            nonlocal current
            await self._signing_in(server_in, client_out)
            while True:
                head = await server_in.readexactly(5)
                body = await server_in.readexactly(int.from_bytes(head[1:], "big") - 4)
                if head[:1] == b"Z":  # ready for the next query
                    current.trips += 1
                    if body == b"I":
                        self.transactions.append(current)
                        current = SeenTransaction()
                    if silent:
                        return
                if not silent:
                    client_out.write(head + body)

        await until_one_ends(upstream(), downstream(), closing=(client_out, server_out))

    async def _signing_in(self, server_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        """What is answered to a wish for encryption is one letter."""
        while (letter := await server_in.readexactly(1)) == b"N":
            client_out.write(letter)
        length = await server_in.readexactly(4)
        client_out.write(letter + length + await server_in.readexactly(int.from_bytes(length, "big") - 4))


async def until_one_ends(*ways: Coroutine[Any, Any, None], closing: Sequence[asyncio.StreamWriter]) -> None:
    """Serve a connection in both directions until one side has gone; then close what is left of it."""
    tasks = {asyncio.get_running_loop().create_task(one) for one in ways}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for writer in closing:
            writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in closing:
            with suppress(OSError):
                await writer.wait_closed()
