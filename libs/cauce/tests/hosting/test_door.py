"""The door itself: what it does to the connections it accepts."""

import asyncio
import logging
import socket

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
    door = Door(listening, connections=1, floods=FloodLog(logging.getLogger("door"), "test"))
    door.open(Connected)
    try:
        async with asyncio.timeout(20):
            _, writer = await asyncio.open_connection(*address)
            assert await connected != 0
            writer.close()
            await writer.wait_closed()
    finally:
        door.close()
