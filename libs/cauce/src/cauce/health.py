"""The health port: is it alive, is it ready, what has it done. A bare ASGI application, to be mounted anywhere."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from cauce.service import Service

__all__ = ["ASGIApp", "health_app"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


def health_app(service: Service) -> ASGIApp:
    """`/health/live`: 200 while the process answers. `/health/ready`: 200, or 503 with what is not ready and why.
    `/counters`: plain numbers since the start."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] != "http":
            return
        match (scope["method"], scope["path"]):
            case ("GET" | "HEAD", "/health/live"):
                await _answer(send, 200, {"status": "live", "service": service.name})
            case ("GET" | "HEAD", "/health/ready"):
                missing = await service.check()
                body = {"ready": not missing, "service": service.name, "not_ready": missing}
                await _answer(send, 503 if missing else 200, body)
            case ("GET" | "HEAD", "/counters"):
                counters = {"service": service.name, "unfinished": service.unfinished, **dict(service.counters)}
                await _answer(send, 200, counters)
            case _:
                known = ["/health/live", "/health/ready", "/counters"]
                await _answer(send, 404, {"error": "no such page", "pages": known})

    return app


async def _answer(send: Send, status: int, body: object) -> None:
    payload = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(payload)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
