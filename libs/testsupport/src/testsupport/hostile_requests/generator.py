"""Requests without an end; a seed and a number say which one it is, whatever was answered to the others.

Half of them are right, with ids of a few, so that there are users, catalogs and playlists to meet, and to fall out about.
"""

import json
from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Final
from urllib.parse import quote

from testsupport.hostile_requests import accounts_calls, discovery_calls
from testsupport.hostile_requests.hostile_bodies import Body, fitting, hostile_body
from testsupport.hostile_requests.hostile_values import hostile_text
from testsupport.hostile_requests.request import MARK, Request

__all__ = ["SERVICES", "request", "requests"]

SERVICES: Final[dict[str, ModuleType]] = {"accounts": accounts_calls, "music-discovery": discovery_calls}
_NO_BODY: Final = Body(b"", ())


def requests(service: str, seed: int, *, first: int = 0, step: int = 1) -> Iterator[Request]:
    """Every `step`-th request, from number `first` on."""
    number = first
    while True:
        yield request(service, seed, number)
        number += step


def request(service: str, seed: int, number: int) -> Request:
    """The request of that number: `request("accounts", 7, 1234)` is always the same."""
    name = f"{service}:{seed}:{number}"
    chance = Random(name)
    calls = SERVICES[service]
    method, target, given, document = calls.a_call(chance)
    headers = [("Host", "127.0.0.1"), *given.items()]
    body = _NO_BODY if document is None else fitting(json.dumps(document, ensure_ascii=False))
    version, kind, whole = "HTTP/1.1", "right", True
    way = chance.random()
    if way > 0.93:
        kind, whole = "another line", False
        method, target, version = _another_line(chance, method, target)
    elif way > 0.85:
        kind = "more headers"
        more, whole = _more_headers(chance)
        headers = [*more, *headers] if chance.random() < 0.5 else [*headers, *more]
    elif way > 0.77:
        kind, target = "another target", _another_target(chance, target)
        method = chance.choice((method, method, *_METHODS))
    elif way > 0.45:
        kind = "another body"
        while document is None:  # where one is taken, so that it is looked into
            method, target, given, document = calls.a_call(chance)
        headers = [("Host", "127.0.0.1"), *given.items()]
        body = hostile_body(chance, document, calls.BODY_LIMIT)
        if chance.random() < 0.1:
            method = chance.choice(_METHODS)
    head = f"{method} {target} {version}\r\n"
    lines = "".join(f"{header}: {value}\r\n" for header, value in (*headers, *body.headers))
    raw = f"{head}{lines}\r\n".encode("utf-8", "surrogatepass") + body.data
    whole = whole and body.whole and len(body.data) <= calls.BODY_LIMIT  # more is refused unread, and the rest is lost
    return Request(name, kind, method, target, raw, len(raw) - body.missing, whole)


_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "get", MARK.upper())


def _another_line(chance: Random, method: str, target: str) -> tuple[str, str, str]:
    """A first line that is none, or that few clients send."""
    strange = hostile_text(chance)[:200]
    return chance.choice(
        (
            (
                method,
                target,
                chance.choice(("HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", "ICAP/1.0", "")),
            ),
            (method, strange or "/", "HTTP/1.1"),
            (strange or "GET", target, "HTTP/1.1"),
            (method, f"http://evil.example{target}", "HTTP/1.1"),
            ("OPTIONS", "*", "HTTP/1.1"),
            ("CONNECT", "127.0.0.1:1", "HTTP/1.1"),
            (method, target + "/" + "a" * chance.choice((8_000, 70_000)), "HTTP/1.1"),
            (method, target.encode().decode("latin-1") + "\xff\xfe", "HTTP/1.1"),
        )
    )


def _another_target(chance: Random, target: str) -> str:
    """Somewhere near the right one, in plain ASCII."""
    path, _, query = target.partition("?")
    strange = quote(hostile_text(chance)[:80], safe=chance.choice(("", "/", "/.;=&?%")), errors="surrogatepass")
    return chance.choice(
        (
            "/" + strange,
            f"{path}/{strange}",
            f"{path}/",
            f"/{path}",
            path.replace("/", "//"),
            f"{path}/../../{strange}",
            path[: chance.randrange(1, len(path) + 1)],
            path.replace("-", "%2D").replace("/", "%2F", 1),
            f"{path}%00",
            f"{path}%ff%fe%",
            path.upper(),
            f"{path}?{query}&{strange}={strange}&q={strange}&limit={strange}&cursor={strange}",
            f"{path}?q={'a' * chance.choice((256, 257, 5_000))}",
            f"{path}?" + "&".join(f"{strange[:8]}{n}=1" for n in range(chance.choice((3, 1_500)))),
            f"{path}?id={strange};{strange}",
            chance.choice(("/docs", "/openapi.json", "/redoc", "/health/live", "/metrics", "/admin", "/.env")),
        )
    ).replace(" ", "%20")


def _more_headers(chance: Random) -> tuple[list[tuple[str, str]], bool]:
    """Headers that are strange, and whether HTTP has them."""
    strange = quote(hostile_text(chance)[:100], safe=" \t<>{}()", errors="surrogatepass")
    fine: tuple[list[tuple[str, str]], ...] = (
        [("Idempotency-Key", strange)],
        [("Idempotency-Key", "é" * 10)],
        [("Idempotency-Key", "k" * chance.choice((254, 255, 256, 5_000)))],
        [("Idempotency-Key", "")],
        [("Cookie", f"a={strange}; " * 20)],
        [("Authorization", f"Basic {strange}")],
        [("Accept", chance.choice(("", "*/*;q=0", "application/xml", strange)))],
        [("Accept-Encoding", "gzip;q=0, *;q=x"), ("Range", "bytes=0-,-1"), ("If-None-Match", "*")],
        [("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", strange), ("Forwarded", f"host={strange}")],
        [("X-HTTP-Method-Override", "DELETE"), ("Origin", "null"), ("Referer", strange)],
        [("Traceparent", strange), ("Baggage", strange)],
        [(f"X-{number}", MARK) for number in range(90)],
        [("Expect", "100-continue")],
    )
    bad: tuple[list[tuple[str, str]], ...] = (
        [("Host", "evil.example")],
        [("Expect", strange or "x")],
        [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", strange)],
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "YQ=="),
        ],
        [("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABk")],
        [("X-Long", "x" * chance.choice((9_000, 70_000)))],
        [(hostile_text(chance)[:30], MARK)],
        [("X-Raw", hostile_text(chance)[:300])],
        [("X-Split", f"a\r\nSet-Cookie: {MARK}=1")],
        [("X-Folded", f"a\r\n b{MARK}")],
        [("", MARK)],
        [("Connection", chance.choice(("close", "keep-alive, close", strange)))],
    )
    return (chance.choice(fine), True) if chance.random() < 0.6 else (chance.choice(bad), False)
