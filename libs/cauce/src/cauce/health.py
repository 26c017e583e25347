"""The health port: is it alive, is it ready, what has it done. A bare ASGI application, to be mounted anywhere."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import msgspec

from cauce.errors import CauceError
from cauce.ports.figures import Figures
from cauce.ports.store import SupportsFigures
from cauce.service.service import Service

__all__ = ["ASGIApp", "health_app"]

log = logging.getLogger("cauce.health")

_STATUS_KEPT_S = 1.0
_STATUS_LIMIT_S = 5.0
_ATTENTION_KEPT_S = 5.0

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


def health_app(service: Service) -> ASGIApp:
    """The health port as an ASGI application. May be mounted: `app.mount("/internal", health_app(service))`.

    `/health/live`: 200 while the process answers. `/health/ready`: 200, or 503 with what is not ready and why; either
    way with `needs_attention`: what waits for an operator, by listener, with the command that shows or fixes it, some
    seconds old. `/health/moving`: the same page, and 503 too while anything needs attention: whether every event moves,
    for whoever calls a person; `/health/ready` is for whoever sends requests. `/counters`: plain numbers since the start. `/status`: what `cauce status --json` reports of this
    service, from its database, asked at most once a second; 503 while the database does not answer, 404 for a service
    that keeps nothing there.
    """
    status = _Status(service)

    async def app(scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] != "http":
            return
        match (scope["method"], _path_here(scope)):
            case ("GET" | "HEAD", "/health/live"):
                await _answer(send, 200, {"status": "live", "service": service.name})
            case ("GET" | "HEAD", "/health/ready" | "/health/moving" as page):
                missing = await service.check()
                waits = status.needs_attention()
                body = {"ready": not missing, "service": service.name, "not_ready": missing, "needs_attention": waits}
                red = missing or (waits and page == "/health/moving")
                await _answer(send, 503 if red else 200, body)
            case ("GET" | "HEAD", "/counters"):
                counters = {"service": service.name, "unfinished": service.unfinished, **dict(service.counters)}
                await _answer(send, 200, counters)
            case ("GET" | "HEAD", "/status"):
                await _answer(send, *await status.answer())
            case _:
                known = ["/health/live", "/health/ready", "/health/moving", "/counters", "/status"]
                await _answer(send, 404, {"error": "no such page", "pages": known})

    return app


def _path_here(scope: Message) -> str:
    """The path below the place where this application is mounted: ASGI's `path` begins with its `root_path`."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path


class _Status:
    """The figures of the service, kept for a moment: frequent requests do not load the database."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turn = asyncio.Lock()
        self._kept: tuple[int, object] = (503, {})
        self._good_until = 0.0
        self._attention: dict[str, str] = {}
        self._looked_at = -_ATTENTION_KEPT_S
        self._looking: asyncio.Task[None] | None = None

    def needs_attention(self) -> dict[str, str]:
        """As it was found some seconds ago: whoever asks for readiness never waits for the database on its account."""
        now = time.monotonic()
        if now - self._looked_at >= _ATTENTION_KEPT_S and isinstance(self._service.store, SupportsFigures):
            self._looked_at = now
            self._looking = asyncio.get_running_loop().create_task(self._look(self._service.store))
        return self._attention

    async def _look(self, store: SupportsFigures) -> None:
        try:
            async with asyncio.timeout(_STATUS_LIMIT_S):
                self._attention = _needs_attention(await store.figures())
        except Exception as error:  # whatever a driver raises: `not_ready` names a database that is away
            log.debug("what needs attention could not be read: %s", type(error).__name__)

    async def answer(self) -> tuple[int, object]:
        async with self._turn:
            if time.monotonic() >= self._good_until:
                self._kept = await self._ask()
                self._good_until = time.monotonic() + _STATUS_KEPT_S
            return self._kept

    async def _ask(self) -> tuple[int, object]:
        store = self._service.store
        if not isinstance(store, SupportsFigures):
            return 404, {
                "error": f"{self._service.name} keeps nothing in a database; /counters has what it did since its start"
            }
        try:
            async with asyncio.timeout(_STATUS_LIMIT_S):
                return 200, msgspec.to_builtins(await store.figures())
        except CauceError as error:  # no tables of ours: nothing durable is done here
            return 404, {"error": str(error)}
        except Exception as error:  # whatever a driver raises: this page must not take the service down
            log.warning("the status could not be read: %s", type(error).__name__)
            return 503, {"error": f"the database does not tell ({type(error).__name__})"}


def _needs_attention(figures: Figures) -> dict[str, str]:
    """What does not move until a person does something. Of several things of one listener, the one to do first."""
    found: dict[str, str] = {}
    stuck = figures.stuck
    if stuck.overdue:
        found["waiting"] = f"{stuck.overdue} were due more than a minute ago → cauce doctor"
    for one in stuck.left_behind:
        missing = f"the code has no {one.event} any more" if one.listener_in_code else "not in the code any more"
        found[one.listener] = f"{missing}, and {one.count} wait → cauce waiting list --listener {one.listener}"
    for topic, count in stuck.unsent_elsewhere.items():
        found[topic] = f"{count} unsent, and {figures.service} does not send to it → cauce doctor"
    for listener, count in stuck.held.items():
        found[listener] = f"nothing makes {count} due → cauce waiting retry --listener {listener} --state held"
    for listener, count in stuck.postponed.items():
        shown = f"cauce waiting list --listener {listener} --state postponed"
        found[listener] = f"only a newer version of the service reads {count} → {shown}"
    for one in figures.listeners:
        if one.dead:
            numbers = f"dead letters: {one.dead}, parked keys: {one.parked_keys}"
            found[one.listener] = f"{numbers} → cauce dead list --listener {one.listener}"
        if one.paused_s is not None:
            why = one.paused_because or "nobody said why"
            found[one.listener] = f"paused ({why}), and {one.waiting} wait → cauce listener resume {one.listener}"
    if figures.outbox.set_aside:
        found["outbox"] = f"{figures.outbox.set_aside} that the broker will never take → cauce outbox status"
    return found


async def _answer(send: Send, status: int, body: object) -> None:
    payload = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(payload)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
