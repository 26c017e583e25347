"""The size limit of request bodies: pure ASGI, so that nothing is read or parsed beyond the limit."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cauce.fastapi.problem_document import problem_response

__all__ = ["BodyLimit"]


class BodyLimit:
    """Answers 413, as a problem document, to a request body of more than `max_bytes` bytes.

    A declared length is refused unread, a streamed body at the first byte too many; the connection is closed,
    since the rest of the body is still in it. Whatever the application would have answered to the half-read
    body is dropped.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_length(scope) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        received = 0
        exceeded = started = False

        async def limited_receive() -> Message:
            nonlocal received, exceeded
            if exceeded:
                raise _TooLargeError
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                exceeded = True
                raise _TooLargeError
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            if exceeded and not started:
                return  # the application handled our error as its own
            started = True
            await send(message)

        try:
            await self._app(scope, limited_receive, watched_send)
        except _TooLargeError:
            if started:
                raise
        if exceeded and not started:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = problem_response(
            413,
            detail=f"The body may have at most {self._max_bytes} bytes.",
            headers={"connection": "close"},
        )
        await response(scope, receive, send)


class _TooLargeError(Exception):
    """Ends the reading of a body from within `receive`."""


_DIGITS: Final = 18


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:_DIGITS])  # however many digits there are: enough to be too large
    return 0
