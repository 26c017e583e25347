"""The pages of the health port, whoever answers them: a path, a status and JSON."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias

__all__ = ["ASGIApp", "Answers", "Message", "Receive", "Send", "health_pages"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


class Answers(Protocol):
    """Where the pages get their facts from: the service itself, or a snapshot of it."""

    @property
    def name(self) -> str: ...

    def blocked_s(self) -> float | None:
        """For how long the service's event loop has not turned, once that is too long; None while it turns."""
        ...

    async def readiness(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """What is not ready, and why; and what waits for a person, with the command that shows or mends it."""
        ...

    async def counters(self) -> Mapping[str, int]: ...

    async def status(self) -> tuple[int, object]:
        """The HTTP status and the body of `/status`."""
        ...


def health_pages(answers: Answers) -> ASGIApp:
    """The pages as an ASGI application. It never raises for a request, and answers 404 with its pages to another path."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # or the server logs each that was not answered
        if scope["type"] != "http":
            return
        match (scope["method"], _path_here(scope)):
            case ("GET" | "HEAD", "/health/live"):
                blocked_s = answers.blocked_s()
                if blocked_s is None:
                    await _answer(send, 200, {"status": "live", "service": answers.name})
                else:
                    blocked = {"status": "blocked", "service": answers.name, "blocked_s": round(blocked_s, 1)}
                    await _answer(send, 503, blocked)
            case ("GET" | "HEAD", "/health/ready" | "/health/moving" as page):
                missing, waits = await answers.readiness()
                body = {"ready": not missing, "service": answers.name, "not_ready": missing, "needs_attention": waits}
                red = missing or (waits and page == "/health/moving")
                await _answer(send, 503 if red else 200, body)
            case ("GET" | "HEAD", "/counters"):
                await _answer(send, 200, {"service": answers.name, **await answers.counters()})
            case ("GET" | "HEAD", "/status"):
                await _answer(send, *await answers.status())
            case _:
                known = ["/health/live", "/health/ready", "/health/moving", "/counters", "/status"]
                await _answer(send, 404, {"error": "no such page", "pages": known})

    return app


def _path_here(scope: Message) -> str:
    """The path below the place where this application is mounted: ASGI's `path` begins with its `root_path`."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path


async def _answer(send: Send, status: int, body: object) -> None:
    # As a person reads it; half a surrogate, which no encoding has, becomes an escape that JSON knows.
    payload = json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(payload)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
