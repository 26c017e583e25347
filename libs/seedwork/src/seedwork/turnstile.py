"""A burst of requests must not hold up what else the event loop has to do: pure ASGI."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Turnstile"]


class Turnstile:
    """Lets requests in one by one, with a turn of the event loop between two of them.

    Parsing and checking a request takes a millisecond or so; two hundred that arrive together would do it all in one
    turn of the loop, and a health probe would wait for the last of them. Nobody waits for a request to *finish*.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._gate = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            async with self._gate:
                await asyncio.sleep(0)
        await self._app(scope, receive, send)
