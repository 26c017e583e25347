"""The door itself: what it does to the connections it accepts."""

import asyncio
import logging
import socket
from contextlib import ExitStack

import pytest
from cauce.hosting.door import Door
from cauce.hosting.flood_log import FloodLog


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_what_is_written_is_sent_at_once(family: socket.AddressFamily, host: str) -> None:
    # Headers and body of an answer are written one after the other: with Nagle's algorithm the body waits until the
    # client has acknowledged the headers, which it delays by 40 ms.
    listening = socket.create_server((host, 0), family=family)
    connected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Connected(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted: socket.socket = transport.get_extra_info("socket")
            connected.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    address = listening.getsockname()[:2]
    door = Door(listening, connections=1, running=(), floods=FloodLog(logging.getLogger("door"), "test"))
    door.open(Connected)
    try:
        async with asyncio.timeout(20):
            _, writer = await asyncio.open_connection(*address)
            assert await connected != 0
            writer.close()
            await writer.wait_closed()
    finally:
        await door.close()


class _Counted(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).made += 1


@pytest.mark.parametrize("turns", range(6))
async def test_no_connection_begins_after_the_door_has_closed(turns: int) -> None:
    _Counted.made = 0
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as clients:
        door = Door(listening, connections=10, running=(), floods=FloodLog(logging.getLogger("door"), "here"))
        door.open(_Counted)
        for _ in range(5):
            clients.enter_context(socket.create_connection(listening.getsockname()))
        for _ in range(turns):
            await asyncio.sleep(0)
        await door.close()
        begun = _Counted.made
        for _ in range(10):
            await asyncio.sleep(0)
        assert _Counted.made == begun
