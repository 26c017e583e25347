"""Clients that are not slow but greedy: bytes beside the body, requests left behind, requests held to the very end."""

import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from testsupport.besieging import CHUNKED, HALF_A_BODY, WHOLE, answer, connected, is_served, limits, lines, until_closed
from testsupport.hosted import Hosted


def test_requests_that_hang_at_the_end_are_one_line_and_no_traceback(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(), GRACE_S="4")
    with ExitStack() as clients:
        for request in (HALF_A_BODY, WHOLE.replace(b"/hello", b"/long")) * 10:
            clients.enter_context(connected(hosted, request))
        assert is_served(hosted)
        hosted.signal(signal.SIGTERM)
        assert hosted.ended() == 0
    first, number = lines(hosted)
    assert "a request was cancelled, because it had not ended when the service did" in first
    assert "19 more like this" in number
    assert not [line for line in hosted.err if "Traceback" in line]


def test_who_hangs_up_leaves_no_more_requests_behind_than_connections_are_allowed(
    besiege: Callable[..., Hosted],
) -> None:
    hosted = besiege(LIMITS=limits(connections=5))
    for _ in range(20):
        with suppress(ConnectionError):
            connected(hosted, WHOLE.replace(b"/hello", b"/long")).close()
    hosted.until(
        lambda: (
            not is_served(hosted) and any("5 requests have not ended, those included" in one for one in lines(hosted))
        )
    )


def test_a_body_in_chunks_of_one_byte_is_given_up_and_one_in_small_chunks_is_read(
    besiege: Callable[..., Hosted],
) -> None:
    hosted = besiege(LIMITS=limits())
    post = CHUNKED.replace(b"/nowhere HTTP/1.1", b"/length HTTP/1.1\r\nconnection: close")
    with connected(hosted, post) as client:
        client.sendall(b"8\r\n12345678\r\n" * 40_000 + b"0\r\n\r\n")
        assert until_closed(client).endswith(b"320000")
    with connected(hosted, post) as client, suppress(ConnectionError):
        client.sendall(b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n")
        assert b"40000" not in until_closed(client)
    [line] = lines(hosted)
    assert "it sent more beside a request's body than is taken" in line
    assert is_served(hosted)


def test_what_one_connection_has_sent_is_read_in_small_parts(besiege: Callable[..., Hosted], tmp_path: Path) -> None:
    hosted = besiege(LIMITS=limits())
    size = 4 << 20
    with connected(hosted, b"POST /block HTTP/1.1\r\nhost: a\r\n\r\n"), connected(hosted) as client:
        hosted.until((tmp_path / "blocked").exists)
        client.sendall(b"POST /largest-part HTTP/1.1\r\nhost: a\r\nconnection: close\r\n")
        client.sendall(b"content-length: %d\r\n\r\n" % size)
        client.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < size:
                sent += client.send(b"x" * min(65536, size - sent))
        (tmp_path / "go on").touch()
        client.settimeout(20)
        client.sendall(b"x" * (size - sent))
        largest = int(until_closed(client).rpartition(b"\r\n\r\n")[2])
    assert largest < 65536


def test_what_is_sent_after_a_request_that_waits_does_not_fill_the_memory(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits())
    with connected(hosted, WHOLE.replace(b"/hello", b"/until-hung-up")) as client, pytest.raises(ConnectionError):
        for _ in range(512):
            client.sendall(b"x" * 65536)
    assert is_served(hosted)
    assert any("it sent more beside a request's body than is taken" in line for line in lines(hosted))


@pytest.mark.parametrize("rest", [b"1\r\nx\r\n", b"4000\r\n" + b"x" * 0x4000 + b"\r\n"])
def test_a_request_is_answered_once_whatever_follows_of_its_body(besiege: Callable[..., Hosted], rest: bytes) -> None:
    hosted = besiege(LIMITS=limits(body_s=0.3))
    with connected(hosted, CHUNKED) as client:
        answer(client)
        with suppress(ConnectionError):
            for _ in range(30):
                client.sendall(rest)
        assert until_closed(client) == b""
