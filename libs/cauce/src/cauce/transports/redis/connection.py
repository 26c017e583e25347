"""One connection to a Redis or Valkey server, used by one task at a time, and what its failures mean to a
person.

Below the pools and retries of redis-py: those re-send commands and hide outages, and both are decisions of a
transport. A connection that saw a time limit, a cancellation or an error is closed and never used again,
since a late answer would be taken for the answer to the next question.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import quote

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cauce.errors import ConfigurationError
from cauce.ports.transport import Verdict
from cauce.settings.this_machine import is_this_machine
from cauce.settings.tls_files import REDIS, problems_of_files

__all__ = ["RedisConnection", "RedisServer", "RedisTroubleError", "url_from_environment"]

_UNREADABLE = (
    "it cannot be read. Expected redis://[user:password@]host[:port], rediss:// for TLS, or unix:///path; "
    "in the password, write characters like / @ : # as %2F %40 %3A %23"
)

T = TypeVar("T")
Argument = str | bytes
AnyConnection = Connection | UnixDomainSocketConnection


class RedisTroubleError(Exception):
    """The server cannot be used now. The message is for people; a hint may follow an arrow.

    `answered`: the server itself said no, so it knows what it did; otherwise the outcome is unknown.
    """

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class RedisServer:
    """Where the server is, and how to get in.

    `url`: `redis://user:password@host:port`, `rediss://…` for TLS with a verified certificate
    (`?ssl_ca_certs=FILE` for an authority of one's own), `unix:///path`. Raises ConfigurationError with all that is
    wrong, each file that cannot be used among it, by its name and its option; it never repeats the URL.
    """

    def __init__(self, url: str, *, if_down: str, answer_limit_s: float) -> None:
        self._if_down = if_down
        self._answer_limit_s = answer_limit_s
        try:
            options = dict(cast("dict[str, Any]", parse_url(url)))
        except ValueError:  # its text may hold a part of the password
            raise ConfigurationError([_UNREADABLE], where="the Redis URL") from None
        self._class: type[AnyConnection] = options.pop("connection_class", Connection)
        self._options: dict[str, Any] = {
            **options,
            "protocol": 2,  # the shapes of replies differ between protocols
            "socket_timeout": None,
            "socket_connect_timeout": answer_limit_s,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "driver_info": None,  # saves two commands that restricted users may not send
        }
        self.label: str = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        if problems := [*self._problems()]:
            raise ConfigurationError(problems, where="the options of the Redis URL")

    def exposed(self) -> Iterator[Verdict]:
        """What the options let others on the way read or pretend, and what to do about it."""
        options = self._options
        if self._class is SSLConnection:
            if str(options.get("ssl_cert_reqs", "required")).lower() in ("none", "0"):
                yield Verdict(
                    "connection",
                    "bad",
                    "ssl_cert_reqs=none: no certificate is looked at, so anybody on the way can be this server, read "
                    "everything and get the password",
                    "take it out of the URL; for an authority of one's own: ?ssl_ca_certs=FILE",
                )
            elif options.get("ssl_check_hostname") is False:
                yield Verdict(
                    "connection",
                    "bad",
                    "ssl_check_hostname=false: the certificate of any other server is taken for this one's",
                    "take it out of the URL, or give the server a certificate with its name",
                )
        elif self._class is Connection and not is_this_machine(host := str(options.get("host", "localhost"))):
            secret = bool(options.get("password"))
            what = "the password and every event travel" if secret else "every event travels"
            fact = f"no TLS: {what} readable to {host}"
            yield Verdict("connection", "bad" if secret else "weak", fact, "rediss://… (TLS) in place of redis://")

    async def connect(self) -> "RedisConnection":
        """A connection that has been let in and answers. Raises RedisTroubleError within the answer limit."""
        try:
            prepared = self._prepare()
        except OSError as error:  # a file of the certificates is gone, or being replaced, since the start
            problem = next(problems_of_files(self._options, REDIS), _short(str(error)))
            raise RedisTroubleError(f"no TLS with Redis at {self.label}: {problem}") from None
        connection = RedisConnection(self, prepared)
        try:
            await self.within(self._answer_limit_s, connection.open())
        except BaseException:
            await connection.close()
            raise
        return connection

    async def within(self, limit_s: float | None, answer: Awaitable[T]) -> T:
        """The answer, or RedisTroubleError if it takes longer or the server has trouble."""
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except (TimeoutError, exceptions.TimeoutError):
            waited = "" if limit_s is None else f" within {limit_s:g} s"
            raise RedisTroubleError(f"no answer from Redis at {self.label}{waited} → {self._if_down}") from None
        except (exceptions.RedisError, OSError) as error:
            answered = isinstance(error, exceptions.ResponseError)
            raise RedisTroubleError(self._explain(error), answered=answered) from error

    def trouble(self, error: Exception) -> RedisTroubleError:
        """What an error of the connection means to a person."""
        return RedisTroubleError(self._explain(error))

    def _problems(self) -> Iterator[str]:
        """What is wrong with the options, all of it: better now than at the first event."""
        wrong_files = list(problems_of_files(self._options, REDIS)) if self._class is SSLConnection else []
        yield from wrong_files
        try:
            self._prepare()
        except (TypeError, ValueError, exceptions.RedisError) as error:
            yield _without_call(error)
        except OSError as error:
            if not wrong_files:
                yield f"TLS cannot be prepared: {_short(str(error))}"

    def _prepare(self) -> AnyConnection:
        connection = self._class(**self._options)
        if isinstance(connection, SSLConnection):
            # Reads the files of the certificates.
            _ = cast("Any", connection.ssl_context).get()
        return connection

    def _explain(self, error: Exception) -> str:
        where = f"Redis at {self.label}"
        text = _short(str(error))
        match error:
            case exceptions.NoPermissionError():
                rights = "+ping +publish +subscribe +psubscribe and &CHANNEL for each channel"
                return f"{where} does not let this user do that ({text}) → ACL SETUSER … {rights}"
            case exceptions.AuthenticationError() if error.status_code == "NOAUTH":
                return f"{where} asks for a password and none is set → put it into the URL"
            case exceptions.AuthenticationError() if "without any password" in text:
                return f"{where} has no password, and one is set → take it out of the URL"
            case exceptions.AuthenticationError():
                return f"{where} refused the user or the password → check both"
            case exceptions.BusyLoadingError():
                return f"{where} is still loading its data"
            case exceptions.InvalidResponse():
                return f"what answers at {self.label} is not Redis → check host and port"
            case exceptions.ResponseError():
                return f"{where} answered: {text}"
            case _:
                return self._explain_connection(error)

    def _explain_connection(self, error: Exception) -> str:
        cause = _system_error(error)
        text = str(cause or error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message
            return f"the certificate of Redis at {self.label} is not trusted ({why}) → ?ssl_ca_certs=FILE"
        if isinstance(cause, ssl.SSLError):
            return f"no TLS with Redis at {self.label} ({cause.reason}) → redis:// if it speaks none"
        if isinstance(cause, socket.gaierror):
            return f"no Redis at {self.label} (no such host) → check the host name"
        if "closed" in text.lower() or isinstance(cause, (ConnectionResetError, BrokenPipeError)):
            return f"no Redis at {self.label} (it closed the connection) → {self._if_down}"
        if isinstance(cause, ConnectionRefusedError) or "[Errno 111]" in text or "[Errno 61]" in text:
            return f"no Redis at {self.label} (refused) → {self._if_down}"
        return f"no Redis at {self.label} ({_short(text)}) → {self._if_down}"


class RedisConnection:
    """An open connection. Not for two tasks at once."""

    def __init__(self, server: RedisServer, connection: AnyConnection) -> None:
        self._server = server
        self._connection = connection

    async def open(self) -> None:
        await self._connection.connect()
        await self._connection.send_command("PING")
        await self._connection.read_response()

    def take_over(self, protocol: asyncio.Protocol) -> asyncio.StreamWriter:
        """From now on the bytes go to `protocol`, and the connection ends when the writer given back is closed or
        collected. This object must not be used any more."""
        # redis-py has let us in; it keeps its streams to itself (a test watches that they are where they were).
        inner = cast("Any", self._connection)
        writer = cast("asyncio.StreamWriter", inner._writer)
        inner._writer = inner._reader = None
        writer.transport.set_protocol(protocol)
        return writer

    async def send(self, *command: Argument, limit_s: float) -> None:
        """Send and do not wait for the answer."""
        await self._server.within(limit_s, self._connection.send_command(*command))

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send all at once and read one answer each; the caller sets the time limit. The first refusal is
        raised.

        After any error or cancellation the connection must be closed: answers may still be under way.
        """
        return await self._server.within(None, self._ask(commands))

    async def _ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        packed: list[bytes] = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed)
        return [await self._connection.read_response() for _ in commands]

    async def read(self, *, patience_s: float) -> list[Any] | None:
        """The next message, as the server's list; None after so long a silence. May be asked again then."""
        # redis-py's own limit leaves its parser intact; one around it could lose half a message.
        reading = cast("Awaitable[Any]", self._connection.read_response(timeout=patience_s))
        answer = await self._server.within(None, reading)
        return cast("list[Any]", answer) if answer is None or isinstance(answer, list) else [answer]

    async def went_stale(self) -> bool:
        """Whether the server closed it, or said something nobody asked for, while it was idle."""
        try:
            return not self._connection.is_connected or await self._connection.can_read()
        except (exceptions.RedisError, OSError):
            return True

    async def close(self) -> None:
        """Without waiting for the server. Safe to call twice."""
        try:
            await self._connection.disconnect(nowait=True)
        except (exceptions.RedisError, OSError):
            return


def url_from_environment() -> str:
    """REDIS_URL, or what REDIS_HOST, REDIS_PORT and REDIS_PASS say; without any, the server on this machine."""
    if url := os.environ.get("REDIS_URL"):
        return url
    password = os.environ.get("REDIS_PASS", "")
    login = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{login}{os.environ.get('REDIS_HOST') or 'localhost'}:{os.environ.get('REDIS_PORT') or 6379}"


def _system_error(error: BaseException) -> OSError | None:
    """The operating system's own error beneath redis-py's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


def _without_call(error: Exception) -> str:
    """`… got an unexpected keyword argument 'x'`, without the name of our internals."""
    return re.sub(r"^\S*\(\) got an unexpected keyword argument", "unknown:", _short(str(error)))
