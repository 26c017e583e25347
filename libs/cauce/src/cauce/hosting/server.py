"""uvicorn behind a bounded door, without its own signals and exits: each has one owner per process."""

import asyncio
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from cauce.hosting.door import Door
from cauce.hosting.flood_log import FloodLog
from cauce.hosting.limited_protocol import LimitedProtocol
from cauce.hosting.limits import HttpLimits

__all__ = ["HttpServer"]

log = logging.getLogger("cauce.hosting")

_EVERY_S = 1.0
_TICKS_OF_A_SECOND = 10


class HttpServer(uvicorn.Server):
    """Serves one ASGI application on one listening socket, within `limits`. `name` begins its log lines.

    It ends when `end` is called, from any thread; what is being answered then has `end_limit_s`.
    """

    def __init__(
        self, app: Any, listening: socket.socket, *, name: str, limits: HttpLimits, end_limit_s: int, lifespan: bool
    ) -> None:
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="on" if lifespan else "off",
                timeout_graceful_shutdown=end_limit_s,
                server_header=False,
            )
        )
        self._limits = limits
        self._floods = FloodLog(log, name)
        self._door = Door(
            listening, connections=limits.connections, running=self.server_state.tasks, floods=self._floods
        )

    def end(self) -> None:
        """Set `should_exit`, and have it seen at once. Safe to call from any thread, at any time, more than once."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # its loop has ended
                self._loop.call_soon_threadsafe(self._ending.set)

    async def main_loop(self) -> None:
        """uvicorn's own looks ten times a second whether it is to end, and once whether it is another second."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(_TICKS_OF_A_SECOND):
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._ending.wait()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=[])  # uvicorn accepts nothing by itself
        except SystemExit:
            self.should_exit = True
        if self.started:
            self._door.open(self._protocol)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._door.close()
        try:
            await super().shutdown(sockets=[])
        finally:
            self._floods.close()

    def _protocol(self) -> LimitedProtocol:
        return LimitedProtocol(
            limits=self._limits,
            floods=self._floods,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
