"""Which names a service answers to."""

import httpx
import pytest
from cauce.errors import ConfigurationError
from cauce.fastapi import AllowedHosts
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

HOSTS = ["localhost", "127.0.0.1", "::1", "shop.example", "*.inside.example"]


async def status_for(*hosts: bytes, allowed: list[str] = HOSTS) -> int:
    app = AllowedHosts(PlainTextResponse("here"), hosts=allowed)
    request = httpx.Request("GET", "http://localhost/", headers=[(b"host", host) for host in hosts])
    if not hosts:
        del request.headers["host"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        return (await http.send(request)).status_code


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:3013",
        b"localhost.",
        b"127.0.0.1:80",
        b"[::1]",
        b"[::1]:3013",
        b"shop.example",
        b"a.b.inside.example",
    ],
)
async def test_a_name_of_its_own_is_served_whatever_the_port(host: bytes) -> None:
    assert await status_for(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"localhost.evil.example",
        b"shop.example.evil",
        b"evilshop.example",
        b"inside.example",
        b"notinside.example",
        b"evil.example/.inside.example",
        b"evil.example#.inside.example",
        b"evil.example@a.inside.example",
        b"evil.example\\.inside.example",
        b"evil example.inside.example",
        b"localhost:80@evil.example",
        b"evil@localhost",
        b"[::1",
        b"[::1]evil",
        b"[::2]",
        b"",
        b" ",
        b"\xff",
    ],
)
async def test_a_foreign_or_impossible_name_is_answered_400(host: bytes) -> None:
    assert await status_for(host) == 400


async def test_a_request_without_a_host_or_with_two_is_refused() -> None:
    assert await status_for() == 400
    assert await status_for(b"localhost", b"evil.example") == 400
    assert await status_for(b"localhost", b"localhost") == 400


async def test_a_star_allows_every_name_and_none_at_all() -> None:
    assert await status_for(b"evil.example", allowed=["*"]) == 200
    assert await status_for(allowed=["*"]) == 200


@pytest.mark.parametrize(
    "host", ["*.", "", "*shop.example", "shop.example:8000", "https://shop.example", "a b", "[::1]:80"]
)
def test_what_can_be_no_host_is_refused_at_start(host: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a name such as"):
        AllowedHosts(PlainTextResponse("here"), hosts=["localhost", host])


async def test_the_refusal_is_a_problem_document_that_does_not_repeat_the_name() -> None:
    app = AllowedHosts(PlainTextResponse("here"), hosts=HOSTS)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://evil.example") as http:
        answer = await http.get("/")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 400
    assert "evil" not in answer.text


async def test_a_websocket_under_a_foreign_name_is_closed_before_it_is_opened() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it must not be reached")

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "headers": [(b"host", b"evil.example")]}
    await AllowedHosts(app, hosts=HOSTS)(scope, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]
