"""A socket that sends requests as they are, right or not, and reads what is answered."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from testsupport.hostile_requests.request import Request

__all__ = ["Answer", "Connection"]

_PATIENCE_S: Final = 60
_MOMENT_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    seconds: float
    """From the first byte sent to the last one received."""


class Connection:
    """To one address; opened when it is needed, and again when the other side has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._reader = self._writer = None

    async def ask(self, request: Request) -> Answer | None:
        """The answer; None if the connection was closed without one. TimeoutError after a minute of neither."""
        idle = self._writer is not None
        answer = await self._ask_once(request)
        if answer is None and idle and request.whole:
            return await self._ask_once(request)  # the server had closed it meanwhile, as it may
        return answer

    async def _ask_once(self, request: Request) -> Answer | None:
        async with asyncio.timeout(_PATIENCE_S):
            try:
                if self._writer is None or self._reader is None or self._reader.at_eof():
                    await self.close()
                    await self._open()
                assert self._reader is not None
                assert self._writer is not None
                return await self._exchange(request, self._reader, self._writer)
            except (OSError, EOFError):
                await self.close()
                return None

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=2**20)
        protocol = _UntilTheEnd(self._reader)
        transport, _ = await loop.create_connection(lambda: protocol, self._host, self._port)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)

    def _end_later(self, writer: asyncio.StreamWriter, *, at_once: bool) -> asyncio.TimerHandle:
        """Close the sending side. A service that has begun to answer forgets about it then: it gets a moment."""

        def end() -> None:
            if not writer.is_closing():
                writer.write_eof()

        return asyncio.get_running_loop().call_later(0 if at_once else _MOMENT_S, end)

    async def _exchange(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Answer | None:
        began = time.perf_counter()
        writer.write(request.raw[: request.sent])
        ending = None if request.whole else self._end_later(writer, at_once=request.sent < len(request.raw))
        try:
            status, headers, body = await _read(reader, request.method)
        finally:
            if ending is not None:
                ending.cancel()
        seconds = time.perf_counter() - began
        if not request.whole or headers.get("connection", "").lower() == "close" or status == 101:
            await self.close()
        return Answer(status, headers, body, seconds)


class _UntilTheEnd(asyncio.StreamReaderProtocol):
    """What was received before the connection was reset can be read: an answer to a request that was not all sent."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(None)


async def _read(reader: asyncio.StreamReader, method: str) -> tuple[int, dict[str, str], bytes]:
    status = 100
    headers: dict[str, str] = {}
    while status == 100:  # "Continue", and then the answer
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        status = int(first.split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if method == "HEAD" or status in (101, 204, 304):
        return status, headers, b""
    if "content-length" in headers:
        return status, headers, await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") == "chunked":
        return status, headers, await _chunks(reader)
    return status, headers, await reader.read()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)
