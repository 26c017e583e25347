"""The program of a service: from the first socket to the exit code.

SIGTERM or Ctrl-C drains: the doors close, what runs finishes, connections are given back. A second signal exits at
once; nothing depends on the drain.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from cauce.concurrency.process_end import ProcessEnd
from cauce.errors import ConfigurationError
from cauce.events.event import describe
from cauce.hosting.descriptors import connections_within, raise_open_files
from cauce.hosting.health_thread import health_apart
from cauce.hosting.limits import HttpLimits
from cauce.hosting.server import HttpServer
from cauce.listeners.threads import too_few_threads
from cauce.ports.transport import DurableTransport
from cauce.service.service import Service

__all__ = ["EXIT_CONFIGURATION", "EXIT_CRASHED", "EXIT_OK", "run"]

log = logging.getLogger("cauce.hosting")

_OF_GRACE = 0.9
"""So much of it for an end in good order; then what runs is cancelled, and has the rest."""
_LOOK_AT_THREADS_S = 1.0

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
    limits: HttpLimits | None = None,
    blocked_after_s: float = 10.0,
    grace_s: float = 20.0,
) -> int:
    """Run until a signal, and return the exit code: 0 drained, 1 crashed, 2 wrong configuration.

    `app` is an ASGI application whose lifespan is the service's; without one the service runs alone. A port in use is
    a configuration mistake: one line that names it. `limits` bounds what a client of it may take (`HttpLimits`).

    The health port has a thread of its own, and answers when the service's event loop does not: `/health/live` is 503
    once that has not turned for `blocked_after_s`.

    `grace_s` bounds the whole end, from the signal to the last thread of the process: a listener that swallows its
    cancellation, a thread that never returns, a connection that does not close. What has not ended by then is named in
    one line, and the process exits 1 at once (`os._exit`). What was not committed did not happen, and is redelivered.
    The process ends by itself, and exits 1, when half of the threads for blocking listeners have outlived their calls.

    The process is taken to be the service's: what is loaded when this is called is exempted from garbage collection
    (`gc.freeze`), which would cost pauses meanwhile, and half a second of processor at the end. Its soft limit of open
    files is raised to the hard one.
    """
    gc.freeze()
    open_files = raise_open_files()
    end = ProcessEnd(service.name, grace_s=grace_s, exit_code=EXIT_CRASHED, log=log)
    if not logging.getLogger().handlers:
        # A program that configured no logging still hears what its service has to say.
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ExitStack() as doors:
        try:
            if (app is None) != (port is None):
                raise ConfigurationError(
                    ["an app needs a port and a port needs an app: run(service, app=app, port=3013)"]
                )
            hosted = _Hosted(
                service=service,
                app=app,
                http=None if port is None else doors.enter_context(_listen(host, port, "http")),
                health=None
                if health_port is None
                else doors.enter_context(_listen(health_host, health_port, "health")),
                limits=_affordable(service.name, limits or HttpLimits(), open_files)
                if app is not None
                else HttpLimits(),
                blocked_after_s=blocked_after_s,
                grace_s=grace_s,
            )
            with _signals_of(end) as signals:
                return asyncio.run(_serve(hosted, end, signals))
        except ConfigurationError as error:
            text = error.problems[0] if len(error.problems) == 1 else str(error)
            sys.stderr.write(f"{service.name}: {text}\n")
            return EXIT_CONFIGURATION
        finally:
            end.over()


class _Signals:
    """SIGTERM and SIGINT. Python's own handlers, since those of an event loop do not run while it is blocked."""

    def __init__(self, end: ProcessEnd) -> None:
        self._end = end
        self.stopping: asyncio.Event | None = None
        self.came = False

    def __call__(self, _number: int, _frame: object) -> None:
        if self.came:
            os._exit(EXIT_CRASHED)
        self.came = True
        self._end.begin()
        if self._end.loop is not None and self.stopping is not None:
            self._end.loop.call_soon_threadsafe(self.stopping.set)


@contextmanager
def _signals_of(end: ProcessEnd) -> Generator[_Signals]:
    signals = _Signals(end)
    before = {number: signal.signal(number, signals) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int, what: str) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        # create_server adds the address to the text of an errno, and the message has it already.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise ConfigurationError(
            [
                f"the {what} port {host}:{port} cannot be opened ({reason.lower()}). Stop what uses it, or choose another."
            ]
        ) from None


@dataclass(frozen=True, slots=True)
class _Hosted:
    """What `run` was given, with its ports open."""

    service: Service
    app: Any
    http: socket.socket | None
    health: socket.socket | None
    limits: HttpLimits
    blocked_after_s: float
    grace_s: float


def _affordable(name: str, limits: HttpLimits, open_files: int | None) -> HttpLimits:
    connections = connections_within(open_files, limits.connections)
    if connections < limits.connections:
        log.warning(
            "%s: the system lets this process open %s files, so %d HTTP connections are held at once instead of %d; "
            "raise the hard limit (ulimit -Hn), or lower HttpLimits.connections",
            name, open_files, connections, limits.connections,
        )  # fmt: skip
    return replace(limits, connections=connections)


class _App:
    """The application, and what kept it from starting: it becomes an exit code, and is logged once."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.failed: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            try:
                await self._app(scope, receive, send)
            except Exception as error:
                if not _client_left(error):
                    raise
            return

        async def without_traceback(message: dict[str, Any]) -> None:
            await send(message | {"message": ""} if message["type"] == "lifespan.startup.failed" else message)

        try:
            await self._app(scope, receive, without_traceback)
        except BaseException as error:
            self.failed = error
            raise


async def _serve(hosted: _Hosted, end: ProcessEnd, signals: _Signals) -> int:
    service, grace_s = hosted.service, hosted.grace_s
    loop = end.loop = asyncio.get_running_loop()
    stopping = signals.stopping = asyncio.Event()
    if signals.came:
        stopping.set()
    started = False
    try:
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as tasks, AsyncExitStack() as doors:
            health = None
            if hosted.health is not None:
                apart = health_apart(service, hosted.health, blocked_after_s=hosted.blocked_after_s, tasks=tasks)
                health = await doors.enter_async_context(apart)
            async with _running(hosted, tasks) as serving:
                started = True
                if health is not None:
                    await health.ask_database()
                _announce(service, hosted.http, hosted.health)
                ends = (stopping.wait(), service.stopped(), _threads_run_out(service.name))
                await _first_of(*ends, *(asyncio.wait({one}) for one in serving))
                if stopping.is_set():
                    log.info("%s: stopping", service.name)
                end.begin()
                service.end_within(grace_s * _OF_GRACE)
                limit.reschedule(loop.time() + grace_s * _OF_GRACE)
    except TimeoutError:
        log.error("%s: did not drain within %.0f s", service.name, grace_s)
        return EXIT_CRASHED
    except Exception as error:  # nothing above catches it: logged, and turned into an exit code
        cause = _innermost(error)
        if isinstance(cause, ConfigurationError) and not started:
            raise cause from None
        what = "stopped by" if started else "could not start:"
        told = cause if service.crash is None else None  # the service has logged a crash with its traceback
        log.critical("%s: %s %s: %s", service.name, what, type(cause).__name__, cause, exc_info=told)
        return EXIT_CRASHED
    finally:
        end.begin()
    if not stopping.is_set():
        log.critical("%s: stopped by itself; the lines above say why", service.name)
        return EXIT_CRASHED
    log.info("%s: stopped", service.name)
    return EXIT_OK


def _client_left(error: Exception) -> bool:
    """Whether that is all there is to it: strangers decide how often, and each would be a traceback in the log."""
    left = [
        getattr(sys.modules[module], name)
        for module, name in (
            ("starlette.requests", "ClientDisconnect"),
            ("starlette.websockets", "WebSocketDisconnect"),
        )
        if module in sys.modules
    ]
    return isinstance(error, tuple(left))


@asynccontextmanager
async def _running(hosted: _Hosted, tasks: asyncio.TaskGroup) -> AsyncGenerator[list[asyncio.Task[None]]]:
    """Started, until the block ends; gives what serves it. Raises what kept it from starting, or made it stop."""
    service = hosted.service
    if hosted.http is None:
        async with service:
            yield []
        return
    guarded = _App(hosted.app)
    public = HttpServer(
        guarded,
        hosted.http,
        name=f"{service.name}: http",
        limits=hosted.limits,
        end_limit_s=max(1, int(hosted.grace_s - 5)),
        lifespan=True,
    )
    serving = tasks.create_task(public.serve())
    while not public.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        if guarded.failed is not None:
            raise guarded.failed
        if not service.running:
            raise service.crash or ConfigurationError([_NO_LIFESPAN])
        yield [serving]
    finally:
        public.end()
        await serving
    if service.crash is not None:
        raise service.crash


_NO_LIFESPAN = "its application does not start it; give it the service's lifespan: FastAPI(lifespan=service.lifespan)"


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("tuple[BaseException, ...]", error.exceptions)[0]
    return error


async def _threads_run_out(name: str) -> None:
    """Wait until half of the threads for blocking listeners are stuck: another process has new ones."""
    while (problem := too_few_threads()) is None:  # noqa: ASYNC110  # a thread that does not end tells nobody
        await asyncio.sleep(_LOOK_AT_THREADS_S)
    log.critical("%s: %s; the process ends", name, problem)


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
        promise = (
            ""
            if isinstance(transport, DurableTransport)
            else " (at most once: what nobody hears in that moment is lost)"
        )
        log.info("%s uses %s%s and %s", service.name, transport.name, promise, service.store.name)
    doors = [f"{what} http://{_address(door)}" for what, door in (("serves", http), ("health", health)) if door]
    not_ready = "; ".join(f"{part}: {why}" for part, why in service.readiness().items())
    log.info("%s %s · %s", service.name, f"waits ({not_ready})" if not_ready else "is ready", " · ".join(doors))


def _address(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
