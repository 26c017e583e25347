"""A service as a process: signals, the public HTTP door if it has one, the health port, and an exit code.

SIGTERM or Ctrl-C drains: the doors close, what runs finishes, connections are given back. A second signal exits at
once; nothing depends on the drain.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from cauce.errors import ConfigurationError
from cauce.events import describe
from cauce.health import health_app
from cauce.service import Service

__all__ = ["EXIT_CONFIGURATION", "EXIT_CRASHED", "EXIT_OK", "run"]

log = logging.getLogger("cauce.hosting")

EXIT_OK = 0
EXIT_CRASHED = 1
EXIT_CONFIGURATION = 2


def run(
    service: Service,
    *,
    app: Any = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    health_host: str = "127.0.0.1",
    health_port: int | None = None,
    grace_s: float = 20.0,
) -> int:
    """Run until a signal, and return the exit code: 0 drained, 1 crashed, 2 wrong configuration.

    `app` is an ASGI application whose lifespan is the service's; without one the service runs alone. A port in use is
    a configuration mistake: one line that names it. `grace_s` bounds the whole drain.
    """
    if not logging.getLogger().handlers:
        # A program that configured no logging still hears what its service has to say.
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sockets = {
            "http": _listen(host, port, "http") if app is not None and port is not None else None,
            "health": _listen(health_host, health_port, "health") if health_port is not None else None,
        }
        return asyncio.run(_serve(service, app, sockets["http"], sockets["health"], grace_s))
    except ConfigurationError as error:
        sys.stderr.write(f"{service.name}: {error}\n")
        return EXIT_CONFIGURATION


def _listen(host: str, port: int, what: str) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            [
                f"the {what} port {host}:{port} cannot be opened ({reason.lower()}). Stop what uses it, or choose another."
            ]
        ) from None


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: one owner of signals per process."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _server(app: Any, grace_s: float, *, lifespan: str) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="on" if lifespan == "on" else "off",
            timeout_graceful_shutdown=max(1, int(grace_s - 5)),
            server_header=False,
        )
    )


async def _serve(
    service: Service, app: Any, http: socket.socket | None, health: socket.socket | None, grace_s: float
) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(EXIT_CRASHED)
        log.info("%s: stopping", service.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)

    servers: list[_Server] = []
    try:
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as tasks:
            if health is not None:
                health_server = _server(health_app(service), grace_s, lifespan="off")
                tasks.create_task(health_server.serve(sockets=[health]))
                servers.append(health_server)
            if http is not None:
                public = _server(app, grace_s, lifespan="on")
                serving = tasks.create_task(public.serve(sockets=[http]))
                while not public.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event for it
                    await asyncio.sleep(0.01)
                _announce(service, http, health)
                await _first_of(stopping.wait(), service.stopped(), asyncio.wait({serving}))
                limit.reschedule(loop.time() + grace_s)
                public.should_exit = True
                await serving
            else:
                async with service:
                    _announce(service, None, health)
                    await _first_of(stopping.wait(), service.stopped())
                    limit.reschedule(loop.time() + grace_s)
            for server in servers:
                server.should_exit = True
    except TimeoutError:
        log.error("%s: did not drain within %.0f s", service.name, grace_s)
        return EXIT_CRASHED
    except Exception as error:  # the last door: said, and turned into an exit code
        log.critical("%s: stopped by an error: %s", service.name, error, exc_info=error)
        return EXIT_CRASHED
    if not stopping.is_set():
        log.critical("%s: stopped by itself; the lines above say why", service.name)
        return EXIT_CRASHED
    log.info("%s: stopped", service.name)
    return EXIT_OK


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = {asyncio.get_running_loop().create_task(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _announce(service: Service, http: socket.socket | None, health: socket.socket | None) -> None:
    """The start-up log: what it hears, what it says, with what, and where to find it."""
    heard = sorted(service.hears) or ["no integration event"]
    log.info("%s hears %s", service.name, ", ".join(heard))
    if service.publishes:
        log.info("%s publishes %s", service.name, ", ".join(describe(one).name for one in service.publishes))
    transport = service.transport
    if transport is not None:
        promise = "" if transport.durable else " (at most once: what nobody hears in that moment is lost)"
        log.info("%s uses %s%s and %s", service.name, transport.name, promise, service.store.name)
    doors = [f"{what} http://{_address(door)}" for what, door in (("serves", http), ("health", health)) if door]
    not_ready = "; ".join(f"{part}: {why}" for part, why in service.readiness().items())
    log.info("%s %s · %s", service.name, f"waits ({not_ready})" if not_ready else "is ready", " · ".join(doors))


def _address(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
