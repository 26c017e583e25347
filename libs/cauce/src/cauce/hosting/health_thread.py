"""The health port in a thread with an event loop of its own: it answers whatever the service's loop is held up by."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from cauce.health.pages import health_pages
from cauce.health.snapshots import Snapshots
from cauce.hosting.limits import HttpLimits
from cauce.hosting.server import HttpServer
from cauce.service.service import Service

__all__ = ["health_apart"]

_LIMITS = HttpLimits(headers_s=5, body_s=5, request_s=20, keep_alive_s=30, connections=64)
_END_LIMIT_S = 1


@asynccontextmanager
async def health_apart(
    service: Service, listening: socket.socket, *, blocked_after_s: float, tasks: asyncio.TaskGroup
) -> AsyncGenerator[Snapshots]:
    """Serve the health pages until the block ends. An error of the thread is raised in `tasks`.

    The thread is a daemon: it keeps no process from ending.
    """
    loop = asyncio.get_running_loop()
    snapshots = Snapshots(service, blocked_after_s=blocked_after_s)
    server = HttpServer(
        health_pages(snapshots),
        listening,
        name=f"{service.name}: health port",
        limits=_LIMITS,
        end_limit_s=_END_LIMIT_S,
        lifespan=False,
    )
    ended: asyncio.Future[None] = loop.create_future()

    def serve() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(server.serve())
        except BaseException as raised:  # a thread has nobody above it: it is raised in the service's loop
            error = raised
        with suppress(RuntimeError):  # that loop has ended, and the process with it
            loop.call_soon_threadsafe(_settle, ended, error)

    threading.Thread(target=serve, name="cauce health", daemon=True).start()
    running = [tasks.create_task(one) for one in (snapshots.publish(), snapshots.watch_database(), _wait_for(ended))]
    try:
        yield snapshots
        server.end()
        await asyncio.wait([ended], timeout=2 * _END_LIMIT_S)
    finally:
        server.end()  # and after an error nobody waits for it
        for task in running:
            task.cancel()


def _settle(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(RuntimeError(f"the health port has failed: {type(error).__name__}: {error}"))


async def _wait_for(ended: asyncio.Future[None]) -> None:
    await asyncio.shield(ended)
