"""Commands out, answers in, in order: many tasks at once on one connection to Redis.

Nobody waits for a turn and nobody reads from the socket but the connection itself, so an answer cannot reach the wrong
question. What is asked in one step of the event loop leaves in one packet. Nothing is ever sent twice: a connection
with trouble fails every question that is still open, and whoever asked decides.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import hiredis

from cauce.ports.transport import Verdict
from cauce.transports.redis.connection import RedisConnection, RedisServer, RedisTroubleError

__all__ = ["Command", "RedisCommands", "RedisPipeline", "RedisRefusal"]

Command = tuple[str | bytes, ...]

_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]  # its stub says too little
_INCOMPLETE = object()
_BYTES_PER_SECOND = 5_000_000
"""On a slow network a large batch may take longer than the answer limit; it gets the time it needs."""


class RedisRefusal(Exception):  # noqa: N818  # an answer, not raised by itself
    """The server understood a command and said no. `code`: the first word, such as `NOGROUP` or `OOM`."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class _Question:
    __slots__ = ("answers", "clock", "count", "future", "limit_s", "size")

    def __init__(self, count: int, size: int, future: "asyncio.Future[list[Any]]") -> None:
        self.count = count
        self.size = size
        self.future = future
        self.answers: list[Any] = []
        self.limit_s = 0.0
        self.clock: asyncio.TimerHandle | None = None
        """Looks whether the server has been silent for so long."""

    def over(self) -> None:
        if self.clock is not None:
            self.clock.cancel()


class RedisPipeline(asyncio.Protocol):
    """One connection, from now to its end. `number` tells the connections of one server apart."""

    def __init__(self, server: RedisServer, connection: RedisConnection, *, number: int, answer_limit_s: float) -> None:
        self.number = number
        self._server = server
        self._limit_s = answer_limit_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=RedisRefusal, notEnoughData=_INCOMPLETE)
        self._open: deque[_Question] = deque()
        self._unsent: list[bytes] = []
        self._unanswered_bytes = 0
        self._heard_at = self._loop.time()
        """When bytes came last. A long answer over a slow link is no silence."""
        self._retired = False
        self._trouble: str | None = None
        self._writer = connection.take_over(self)

    @property
    def usable(self) -> bool:
        """Whether a new question may be asked."""
        return self._trouble is None and not self._retired

    def check(self) -> None:
        """Raise RedisTroubleError if it has failed since it was used last."""
        if not self.usable:
            raise RedisTroubleError(self._trouble or "the connection is being closed")

    async def ask(self, *commands: Command, patience_s: float = 0.0) -> list[Any]:
        """One answer for each command, refusals among them (`RedisRefusal`, not raised).

        Raises RedisTroubleError when the connection failed, or nothing came for the answer limit and `patience_s`: the
        outcome is then unknown. After that, and when the caller is cancelled, the connection takes no more questions.
        """
        if not commands:
            return []
        question = self._ask(commands)
        question.limit_s = self._limit_s + patience_s + self._unanswered_bytes / _BYTES_PER_SECOND
        question.clock = self._loop.call_later(question.limit_s, self._look_at_clock, question)
        try:
            return await question.future
        except asyncio.CancelledError:
            self._retire()
            raise
        finally:
            question.over()

    def _look_at_clock(self, question: _Question) -> None:
        """The limit of a question is over, or begins anew where bytes have come since."""
        silent_until = self._heard_at + question.limit_s
        if self._loop.time() < silent_until:
            question.clock = self._loop.call_at(silent_until, self._look_at_clock, question)
        else:
            limit_s = question.limit_s
            self.fail(f"no answer from Redis at {self._server.label} within {limit_s:.3g} s → is it frozen?")

    def _ask(self, commands: Sequence[Command]) -> _Question:
        self.check()
        packed = [_pack(command) for command in commands]
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += packed
        question = _Question(len(commands), sum(map(len, packed)), self._loop.create_future())
        self._unanswered_bytes += question.size
        self._open.append(question)
        return question

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._trouble is None:
            self._writer.transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _INCOMPLETE:
                self._answered(answer)
        except (hiredis.ProtocolError, IndexError):
            self.fail(f"what answers at {self._server.label} does not speak Redis's language → check host and port")

    def _answered(self, answer: Any) -> None:
        if isinstance(answer, hiredis.PushNotification):
            return
        question = self._open[0]
        question.answers.append(answer)
        if len(question.answers) < question.count:
            return
        self._open.popleft()
        self._unanswered_bytes -= question.size
        if not question.future.done():
            question.future.set_result(question.answers)
        if self._retired and not self._open:
            self.fail("the connection is closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(str(self._server.trouble(exc or ConnectionResetError("closed"))))

    def _retire(self) -> None:
        """No new questions; the open ones of others are still answered, and then it ends."""
        self._retired = True
        if all(question.future.done() for question in self._open):
            self.fail("the connection is closed")

    def fail(self, why: str) -> None:
        """End at once; every open question gets RedisTroubleError. Safe to call twice."""
        if self._trouble is not None:
            return
        self._trouble = why
        self._writer.transport.abort()
        for question in self._open:
            if not question.future.done():
                question.future.set_exception(RedisTroubleError(why))
        self._open.clear()

    def close(self) -> None:
        """Without waiting for the server. Safe to call twice."""
        self.fail("the connection is closed")


class RedisCommands:
    """Where short commands are sent: a pipeline that is made when needed, and again after trouble."""

    def __init__(self, server: RedisServer, *, answer_limit_s: float) -> None:
        self._server = server
        self._limit_s = answer_limit_s
        self._turn = asyncio.Lock()
        self._current: RedisPipeline | None = None
        self._count = 0

    def exposed(self) -> Iterable[Verdict]:
        """As `RedisServer.exposed`."""
        return self._server.exposed()

    async def pipeline(self) -> RedisPipeline:
        """The connection of now. Whoever needs two answers from the same one keeps it. Raises RedisTroubleError."""
        current = self._current
        if current is not None and current.usable:
            return current
        async with self._turn:
            if self._current is not None and self._current.usable:
                return self._current
            self._current = await self.connect()
            return self._current

    async def connect(self) -> RedisPipeline:
        """A connection for the caller alone, who closes it."""
        connection = await self._server.connect()
        self._count += 1
        return RedisPipeline(self._server, connection, number=self._count, answer_limit_s=self._limit_s)

    async def ask(self, *commands: Command) -> list[Any]:
        """As `RedisPipeline.ask`, on the connection of now."""
        return await (await self.pipeline()).ask(*commands)

    def close(self) -> None:
        """Safe to call twice. May be used again, in another event loop too."""
        self._turn = asyncio.Lock()
        current, self._current = self._current, None
        if current is not None:
            current.close()
