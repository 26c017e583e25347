"""Bare sockets for the tests of the HTTP door: requests whole and half, and what the besieged service says to them."""

import json
import socket
from contextlib import suppress

import httpx

from testsupport.hosted import Hosted

__all__ = [
    "CHUNKED",
    "HALF",
    "HALF_A_BODY",
    "HALF_A_BODY_NOBODY_READS",
    "WHOLE",
    "answer",
    "connected",
    "handled",
    "is_served",
    "limits",
    "lines",
    "until_closed",
]

HALF = b"GET /hello HTTP/1.1\r\nhost: besieged\r\n"
WHOLE = HALF + b"\r\n"
CHUNKED = b"POST /nowhere HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
HALF_A_BODY = b"POST /length HTTP/1.1\r\nhost: besieged\r\ncontent-length: 1000\r\n\r\nx"
HALF_A_BODY_NOBODY_READS = b"PUT /hello HTTP/1.1\r\nhost: besieged\r\ncontent-length: 300000\r\n\r\n" + b"x" * 100_000
MINUTES = {"headers_s": 300, "body_s": 300, "request_s": 300, "keep_alive_s": 300}


def limits(**given: float) -> str:
    return json.dumps(MINUTES | given)


def connected(hosted: Hosted, first: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(hosted.http.rpartition(":")[2])), timeout=20)
    client.sendall(first)
    return client


def until_closed(client: socket.socket) -> bytes:
    """What the server says before it closes the connection."""
    said = b""
    with suppress(ConnectionError):
        while part := client.recv(65536):
            said += part
    return said


def answer(client: socket.socket) -> bytes:
    said = b""
    while b"}" not in said:
        part = client.recv(65536)
        assert part, f"closed after {said!r}"
        said += part
    return said


def lines(hosted: Hosted) -> list[str]:
    return [line for line in hosted.err if "besieged-ms: http" in line]


def handled(hosted: Hosted) -> int:
    return httpx.get(hosted.health + "/counters", timeout=20).json().get("handled", 0)


def is_served(hosted: Hosted) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(hosted.http + "/hello", timeout=1).status_code == 200
    return False
