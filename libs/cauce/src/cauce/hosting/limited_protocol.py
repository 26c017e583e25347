"""uvicorn's HTTP protocol with a deadline at every moment of a connection, from the first one on."""

import asyncio
import logging
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import h11

from cauce.hosting.flood_log import FloodLog
from cauce.hosting.limits import HttpLimits

if TYPE_CHECKING:  # the two are alike in what is used here, and only one of them may be installed
    from uvicorn.protocols.http.h11_impl import H11Protocol as Base
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as Base

__all__ = ["LimitedProtocol"]

_MOST_HEADER_BYTES = 64 * 1024
_FLUSH_S = 60.0
"""So long may a client take to fetch the rest of an answer whose connection is about to be closed."""


class _Phase(Enum):
    HEADERS = auto()
    BODY = auto()
    ANSWER = auto()
    IDLE = auto()


_TOO_SLOW: Final = {
    _Phase.HEADERS: "a connection was closed, because its request's headers took too long (HttpLimits.headers_s)",
    _Phase.BODY: "a connection was closed, because its request's body took too long (HttpLimits.body_s, request_s)",
    _Phase.ANSWER: "a connection was closed, because its request took too long in all (HttpLimits.request_s)",
    _Phase.IDLE: "a connection was closed, because its client did not fetch the answer",
}
_REASONS: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class LimitedProtocol(Base):
    """One connection. Where the base class waits for its client without an end, this one ends it.

    A connection that has become a WebSocket has no deadline any more; it still has its place at the door.
    """

    def __init__(self, *, limits: HttpLimits, floods: FloodLog, **given: Any) -> None:
        super().__init__(**given)
        self.logger = _lines_of_strangers(floods)
        self.timeout_keep_alive = limits.keep_alive_s  # pyright: ignore[reportAttributeAccessIssue]  # only given to call_later
        self._limits = limits
        self._floods = floods
        self._phase = _Phase.HEADERS
        self._header_bytes = 0
        self._began = 0.0
        self._timed: object = None
        """The request, as uvicorn has it, that the deadline belongs to."""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as the base class
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        of_a_body = self._phase is _Phase.BODY
        super().data_received(data)
        if self.transport.get_protocol() is not self:
            self._end_deadline()  # a WebSocket from here on
            return
        self._follow()
        if self._phase is _Phase.IDLE:
            self._await_headers()
        if self._phase is _Phase.HEADERS and not of_a_body:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES and not self.transport.is_closing():
                self._refuse(431)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def send_400_response(self, msg: str) -> None:
        # The base class raises when an answer was sent already, and asyncio logs a traceback for it.
        del msg
        self._refuse(400)

    def _follow(self) -> None:
        """See what the base class is at now, and let that have its own time."""
        cycle = self._request()
        if cycle is None or getattr(self, "pipeline", None):  # a request that waits for another one has no time yet
            return
        if cycle.response_complete:
            if self._phase not in (_Phase.BODY, _Phase.ANSWER) or self._is_still_received(cycle):
                return
            if self._has_begun_the_next(cycle):
                self._await_headers()
                self._header_bytes = 1
            elif self._phase is _Phase.BODY:
                self._await_headers()  # uvicorn has no timer for a connection whose request it answered half-read
            else:
                # uvicorn closes an idle connection; this is for the one that cannot be closed in good order.
                self._enter(_Phase.IDLE, self.loop.time() + self._limits.keep_alive_s + _FLUSH_S)
            return
        phase = _Phase.BODY if cycle.more_body else _Phase.ANSWER
        if cycle is not self._timed:
            self._timed = cycle
            if self._phase is not _Phase.HEADERS:
                self._began = self.loop.time()
        elif phase is self._phase:
            return
        times = [] if self._limits.request_s is None else [self._began + self._limits.request_s]
        if phase is _Phase.BODY:
            times.append(self.loop.time() + self._limits.body_s)
        self._enter(phase, min(times, default=None))

    def _is_still_received(self, answered: "RequestResponseCycle") -> bool:
        """Whether the rest of a body is still to come, of a request that was answered without it."""
        connection = getattr(self, "conn", None)
        return answered.more_body if connection is None else connection.their_state is h11.SEND_BODY

    def on_message_complete(self) -> None:
        """Of httptools: the base class notes it only while nothing was answered."""
        getattr(super(), "on_message_complete")()  # noqa: B009  # h11's has none
        if (cycle := self._request()) is not None:
            cycle.more_body = False

    def _has_begun_the_next(self, answered: "RequestResponseCycle") -> bool:
        """Whether a part of another request came together with this one: in h11's buffer, or in httptools' scope."""
        connection = getattr(self, "conn", None)
        in_buffer = connection is not None and bool(connection.trailing_data[0])
        return in_buffer or self.scope is not answered.scope

    def _request(self) -> "RequestResponseCycle | None":
        """The request that uvicorn has read last, being answered or answered; None before the first one."""
        return self.cycle

    def _await_headers(self) -> None:
        self._began, self._header_bytes = self.loop.time(), 0
        self._enter(_Phase.HEADERS, self._began + self._limits.headers_s)

    def _enter(self, phase: _Phase, until: float | None) -> None:
        self._end_deadline()
        self._phase = phase
        if until is not None:
            self._deadline = self.loop.call_at(until, self._out_of_time)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _out_of_time(self) -> None:
        if self._phase is _Phase.HEADERS and not self._header_bytes:
            self.transport.abort()  # connected and said nothing, as browsers do in advance
            return
        self._floods.note(_TOO_SLOW[self._phase])
        self._refuse(503 if self._phase is _Phase.ANSWER else 408)

    def _refuse(self, status: int) -> None:
        """Answer that, if nothing is answered yet, and close. The application finds its client gone."""
        cycle = self._request()
        begun = self._phase is _Phase.IDLE
        if cycle is not None and cycle.response_complete:
            begun = begun or self._phase is _Phase.BODY
        elif cycle is not None:
            begun = begun or cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if begun or self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()
            return
        text = _REASONS[status]
        self.transport.write(
            f"HTTP/1.1 {status} {text}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            f"content-length: {len(text)}\r\n\r\n{text}".encode()
        )
        self.transport.close()


class _Strangers(logging.LoggerAdapter[logging.Logger]):
    """uvicorn warns once a request of what a client does wrong: counted instead. Its errors are logged as always."""

    def __init__(self, logger: logging.Logger, floods: FloodLog) -> None:
        super().__init__(logger)
        self.level = logging.WARNING
        self._floods = floods

    def warning(self, msg: object, *args: object, **_options: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._floods.note(f"a client sent what is not understood ({msg})")


def _lines_of_strangers(floods: FloodLog) -> Any:
    return _Strangers(logging.getLogger("uvicorn.error"), floods)
