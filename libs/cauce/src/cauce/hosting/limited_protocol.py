"""uvicorn's HTTP protocol with a deadline at every moment of a connection, from the first one on."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from cauce.hosting.flood_log import FloodLog
from cauce.hosting.limits import HttpLimits

__all__ = ["LimitedProtocol"]

_MOST_BYTES_READ = 8 * 1024
"""Of one connection in one turn of the loop. asyncio reads 256 KiB: in chunks of one byte, that holds up all others for
half a second, and whoever sends them may do it again in every turn."""
_MOST_BYTES_BESIDE = 64 * 1024
"""Headers (h11 takes 16 KiB, or any number that comes in one piece), chunk lines, trailers, and what comes after a request
before that is answered. A body's chunk lines may have as many bytes again as the body."""
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


class LimitedProtocol(H11Protocol):
    """One connection. Where the base class waits for its client without an end, this one ends it.

    h11, whatever else is installed: httptools takes trailers, and headers of a request that waits for another one,
    without an end, and tells only the last request of a connection that its client has gone.

    A connection that has become a WebSocket has no deadline any more; it still has its place at the door.
    """

    def __init__(self, *, limits: HttpLimits, floods: FloodLog, **given: Any) -> None:
        super().__init__(**given)
        self.conn = self._counted = _Counted(h11.SERVER, max_incomplete_event_size=_MOST_BYTES_BESIDE)
        self.logger = _lines_of_strangers(floods)
        self.timeout_keep_alive = limits.keep_alive_s  # pyright: ignore[reportAttributeAccessIssue]  # only given to call_later
        self._limits = limits
        self._floods = floods
        self._phase = _Phase.HEADERS
        self._beside_bytes = self._body_bytes = 0
        """Of the request that is being read."""
        self._began = 0.0
        self._timed: object = None
        """The request, as uvicorn has it, that the deadline belongs to."""
        self._deadline: asyncio.TimerHandle | None = None
        if self.ws_protocol_class is not None:
            self.ws_protocol_class = _logging_to(self.logger, self.ws_protocol_class)  # pyright: ignore[reportAttributeAccessIssue]  # only called

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as the base class
        super().connection_made(transport)
        with suppress(AttributeError):  # another loop than asyncio's
            transport.max_size = _MOST_BYTES_READ  # pyright: ignore[reportAttributeAccessIssue]  # there is no public way
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._counted.body_bytes
        super().data_received(data)
        if self.transport.get_protocol() is not self:
            self._end_deadline()  # a WebSocket from here on
            return
        if self.transport.is_closing():
            return
        if self._phase is _Phase.IDLE:
            self._await_headers()
        body = self._counted.body_bytes - before
        self._body_bytes += body
        self._beside_bytes += len(data) - body
        self._follow()
        if self._too_much_beside():
            self._floods.note("a connection was closed, because it sent more beside a request's body than is taken")
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
        if cycle is None:
            return
        if cycle.response_complete:
            self._follow_answered()
            return
        phase = _Phase.BODY if cycle.more_body else _Phase.ANSWER
        if cycle is not self._timed:
            self._timed = cycle
            if self._phase is not _Phase.HEADERS:
                self._began = self.loop.time()
                self._beside_bytes = self._body_bytes = 0
        elif phase is self._phase:
            return
        times = [] if self._limits.request_s is None else [self._began + self._limits.request_s]
        if phase is _Phase.BODY:
            times.append(self.loop.time() + self._limits.body_s)
        self._enter(phase, min(times, default=None))

    def _follow_answered(self) -> None:
        if self._phase not in (_Phase.BODY, _Phase.ANSWER) or self.conn.their_state is h11.SEND_BODY:
            return  # in the second case the rest of a body is still to come
        if self._bytes_ahead():
            self._await_headers()
            self._beside_bytes = 1
        elif self._phase is _Phase.BODY:
            self._await_headers()  # uvicorn has no timer for a connection whose request it answered half-read
        else:
            # uvicorn closes an idle connection; this is for the one that cannot be closed in good order.
            self._enter(_Phase.IDLE, self.loop.time() + self._limits.keep_alive_s + _FLUSH_S)

    def _bytes_ahead(self) -> int:
        """How much of other requests waits until this one is answered."""
        return len(self.conn.trailing_data[0])

    def _too_much_beside(self) -> bool:
        # uvicorn stops reading what is ahead, but goes on whenever the application asks whether its client is there.
        if self._phase is _Phase.ANSWER:
            return self._bytes_ahead() > _MOST_BYTES_BESIDE
        return self._beside_bytes > _MOST_BYTES_BESIDE + self._body_bytes

    def _request(self) -> RequestResponseCycle | None:
        """The request that uvicorn has read last, being answered or answered; None before the first one."""
        return self.cycle

    def _await_headers(self) -> None:
        self._began, self._beside_bytes, self._body_bytes = self.loop.time(), 0, 0
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
        if self._phase is _Phase.HEADERS and not self._beside_bytes:
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
        self._enter(_Phase.IDLE, self.loop.time() + _FLUSH_S)


class _Counted(h11.Connection):
    """Counts what it gives of bodies."""

    body_bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self.body_bytes += len(event.data)
        return event


class _Strangers(logging.LoggerAdapter[logging.Logger]):
    """uvicorn warns once a request of what a client does wrong, and says at its end with a traceback each which requests
    it cancelled: counted instead. Its other errors are logged as always."""

    def __init__(self, logger: logging.Logger, floods: FloodLog) -> None:
        super().__init__(logger)
        self.level = logging.WARNING
        self._floods = floods

    def warning(self, msg: object, *args: object, **_options: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._floods.note(f"a client sent what is not understood ({msg})")

    def error(self, msg: object, *args: object, **options: Any) -> None:
        if isinstance(options.get("exc_info"), asyncio.CancelledError):
            self._floods.note("a request was cancelled, because it had not ended when the service did")
        else:
            super().error(msg, *args, **options)


def _lines_of_strangers(floods: FloodLog) -> Any:
    return _Strangers(logging.getLogger("uvicorn.error"), floods)


def _logging_to(logger: Any, make: Callable[..., Any]) -> Callable[..., Any]:
    def made(**given: Any) -> Any:
        protocol = make(**given)
        protocol.logger = logger
        return protocol

    return made
