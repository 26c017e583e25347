"""The body limit, under an application that tries to read everything."""

from collections.abc import AsyncGenerator, Iterable

import httpx
from cauce.fastapi import BodyLimit
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send


async def length(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(str(len(await Request(scope, receive).body())))(scope, receive, send)


async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes every error for its own and answers something else."""
    request = Request(scope, receive)
    try:
        await request.body()
    except Exception:
        await Response("never mind", 200)(scope, receive, send)


class Chunks:
    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = chunks
        self.sent = 0

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        for chunk in self.chunks:
            self.sent += len(chunk)
            yield chunk


async def post(
    content: bytes | Chunks, *, app: object = length, headers: dict[str, str] | None = None
) -> httpx.Response:
    limited = BodyLimit(app, max_bytes=10)  # pyright: ignore[reportArgumentType]  # ASGI applications
    async with httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://test") as http:
        return await http.post("/", content=content, headers=headers)


async def test_a_body_of_exactly_the_limit_passes() -> None:
    assert (await post(b"0123456789")).text == "10"
    assert (await post(Chunks([b"01234", b"56789"]))).text == "10"


async def test_a_declared_length_beyond_the_limit_is_refused_unread() -> None:
    body = Chunks([b"x"] * 1000)
    answer = await post(body, headers={"content-length": "1000"})

    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert "10 bytes" in answer.json()["detail"]


async def test_a_streamed_body_is_refused_at_the_first_byte_too_many_and_never_read_on() -> None:
    body = Chunks([b"xxxx"] * 1000)
    answer = await post(body)

    assert answer.status_code == 413
    assert body.sent == 12


async def test_an_application_cannot_talk_its_way_out() -> None:
    assert (await post(Chunks([b"x" * 11]), app=stubborn)).status_code == 413


async def test_a_lie_about_the_length_is_found_out() -> None:
    answer = await post(Chunks([b"x" * 11]), headers={"content-length": "5"})

    assert answer.status_code == 413


async def test_a_length_of_thousands_of_digits_is_too_large_and_no_error() -> None:
    assert (await post(b"", headers={"content-length": "9" * 5000})).status_code == 413
