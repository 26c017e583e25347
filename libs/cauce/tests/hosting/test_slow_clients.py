"""Clients that take what is not theirs: half requests, slow bodies, answers nobody fetches, connections without end."""

import json
import signal
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest
from testsupport.besieging import (
    CHUNKED,
    HALF,
    HALF_A_BODY,
    HALF_A_BODY_NOBODY_READS,
    WHOLE,
    answer,
    connected,
    handled,
    is_served,
    limits,
    lines,
    until_closed,
)
from testsupport.hosted import Hosted


@contextmanager
def slow_loris(hosted: Hosted, connections: int) -> Generator[None]:
    with ExitStack() as clients:
        for _ in range(connections):
            with suppress(ConnectionError):
                clients.enter_context(closing(connected(hosted, HALF)))
        yield


def test_300_half_requests_at_256_descriptors_stop_neither_health_nor_lanes_and_http_comes_back(
    besiege: Callable[..., Hosted],
) -> None:
    hosted = besiege(OPEN_FILES="256:256", LIMITS=limits(headers_s=2))
    with ExitStack() as rounds:
        for _ in range(3):
            rounds.enter_context(slow_loris(hosted, 300))
            for page in ("/health/live", "/health/ready", "/status"):
                assert httpx.get(hosted.health + page, timeout=20).status_code == 200
            before = handled(hosted)
            hosted.until(lambda before=before: handled(hosted) > before)
        hosted.until(lambda: is_served(hosted))
    hosted.signal(signal.SIGTERM)
    assert hosted.ended() == 0
    too_many = [line for line in lines(hosted) if "was closed at once, because 128 are open" in line]
    too_slow = [line for line in lines(hosted) if "headers took too long" in line]
    assert [len(too_many), len(too_slow)] == [2, 2], "the first, and a number for the others"
    assert len(hosted.err) < 20


TOO_SLOW = [
    (HALF, "headers took too long (HttpLimits.headers_s)"),
    (WHOLE + HALF, "headers took too long (HttpLimits.headers_s)"),
    (HALF_A_BODY, "body took too long (HttpLimits.body_s, request_s)"),
]


def test_a_request_that_does_not_end_is_given_up_however_it_drips(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(headers_s=0.3, body_s=0.3))
    for first, _ in TOO_SLOW:
        with connected(hosted, first) as client, pytest.raises(ConnectionError):
            while True:
                client.sendall(b"x")
                time.sleep(0.02)
    assert is_served(hosted)
    assert len(lines(hosted)) == len({line for _, line in TOO_SLOW})
    assert all(any(line in one for one in lines(hosted)) for _, line in TOO_SLOW)
    assert not [one for one in hosted.err if "Traceback" in one]


@pytest.mark.parametrize("limit", ["body_s", "request_s"])
def test_a_client_that_waits_is_answered_408(besiege: Callable[..., Hosted], limit: str) -> None:
    hosted = besiege(LIMITS=limits(headers_s=0.3, **{limit: 0.3}))
    for first, _ in TOO_SLOW:
        with connected(hosted, first) as client:
            said = until_closed(client)
        last = said[said.rindex(b"HTTP/1.1") :]
        assert last.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"connection: close" in last
    assert not [one for one in hosted.err if "Traceback" in one]


def test_an_answer_that_takes_too_long_is_503(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(request_s=0.3))
    assert httpx.get(hosted.http + "/long", timeout=20).status_code == 503
    assert is_served(hosted)


def test_without_a_limit_for_the_request_an_answer_may_take_longer_than_its_body(
    besiege: Callable[..., Hosted],
) -> None:
    hosted = besiege(LIMITS=json.dumps({"headers_s": 0.1, "body_s": 0.1, "request_s": None, "keep_alive_s": 300}))
    with connected(hosted, WHOLE.replace(b"/hello", b"/big")) as client:
        received = 0
        while received < 1024 * 65536:
            part = client.recv(1 << 20)
            assert part
            received += len(part)
            if received < 1 << 22:
                time.sleep(0.02)  # for longer than the other limits
    assert lines(hosted) == []


def test_an_answer_that_nobody_fetches_is_given_up(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(request_s=0.5))
    with connected(hosted, WHOLE.replace(b"/hello", b"/big")) as client:
        hosted.until(lambda: any("too long in all (HttpLimits.request_s)" in line for line in lines(hosted)))
        assert len(until_closed(client)) < 1024 * 65536
    assert not [one for one in hosted.err if "Traceback" in one]


def test_idle_connections_are_closed_without_a_line_and_others_are_kept(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(keep_alive_s=0.5, headers_s=0.5))
    with connected(hosted, WHOLE) as client, connected(hosted) as silent:
        assert answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(WHOLE)  # at once: the same connection
        assert answer(client).startswith(b"HTTP/1.1 200")
        assert until_closed(client) == until_closed(silent) == b""
    assert lines(hosted) == []


def test_requests_that_come_in_one_piece_are_all_answered(besiege: Callable[..., Hosted]) -> None:
    with connected(besiege(LIMITS=limits(keep_alive_s=0.5)), WHOLE * 3) as client:
        assert until_closed(client).count(b"HTTP/1.1 200") == 3


def test_the_rest_of_a_body_that_was_answered_early_is_no_header_and_the_connection_stays(
    besiege: Callable[..., Hosted],
) -> None:
    hosted = besiege(LIMITS=limits())
    with connected(hosted) as client:
        for _ in range(3):
            client.sendall(HALF_A_BODY_NOBODY_READS)
            assert answer(client).startswith(b"HTTP/1.1 405 ")
            client.sendall(b"x" * 200_000)
        client.sendall(WHOLE)
        assert answer(client).startswith(b"HTTP/1.1 200 ")
    assert lines(hosted) == []


def test_the_rest_of_a_body_that_was_answered_early_has_a_time_limit_too(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(body_s=0.5))
    with connected(hosted, HALF_A_BODY_NOBODY_READS) as client:
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"x")
                time.sleep(0.02)
        assert until_closed(client).count(b"HTTP/1.1 ") <= 1
    assert any("body took too long" in line for line in lines(hosted))


def test_after_such_a_body_a_connection_without_a_request_is_closed(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(headers_s=0.5))
    with connected(hosted, HALF_A_BODY_NOBODY_READS) as client:
        answer(client)
        client.sendall(b"x" * 200_000)
        assert until_closed(client) == b""
    assert lines(hosted) == []


def test_a_place_is_given_back_when_its_connection_ends(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits(connections=2))
    with connected(hosted, WHOLE) as first, connected(hosted, WHOLE) as second:
        answer(first)
        answer(second)
        for _ in range(50):
            with suppress(ConnectionError), connected(hosted, WHOLE) as refused:
                assert until_closed(refused) == b""
        second.sendall(WHOLE)
        answer(second)
    hosted.until(lambda: is_served(hosted))
    hosted.signal(signal.SIGTERM)
    assert hosted.ended() == 0
    first_line, number = lines(hosted)
    assert first_line.endswith(
        "http: a connection was closed at once, because 2 are open (HttpLimits.connections); "
        "the next ones are counted, and reported once a minute"
    )
    assert "more like this: a connection was closed at once" in number


TLS = b"\x16\x03\x01 this is TLS\r\n\r\n"


def test_what_is_no_http_is_two_lines_however_often(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(LIMITS=limits())
    for _ in range(25):
        with connected(hosted, TLS) as client:
            assert until_closed(client).startswith(b"HTTP/1.1 400 ")
        with connected(hosted, CHUNKED) as client:
            answer(client)
            client.sendall(b"no length\r\n")  # no chunk, and an answer has been sent already
            assert until_closed(client) == b""
    hosted.signal(signal.SIGTERM)
    assert hosted.ended() == 0
    first, number = lines(hosted)
    assert "a client sent what is not understood (Invalid HTTP request received.)" in first
    assert "49 more like this" in number
    assert not [one for one in hosted.err if "Traceback" in one]


def test_when_descriptors_are_used_up_new_connections_wait_and_the_log_stays_small(
    besiege: Callable[..., Hosted],
) -> None:
    hosted = besiege(OPEN_FILES="256:256", LIMITS=limits())
    with connected(hosted, WHOLE) as kept:
        answer(kept)
        kept.sendall(b"POST /use-up HTTP/1.1\r\nhost: a\r\n\r\n")
        assert kept.recv(1)
        with connected(hosted, WHOLE) as waiting:
            hosted.until(lambda: any("descriptors or memory are used up" in line for line in lines(hosted)))
            kept.sendall(b"POST /give-back HTTP/1.1\r\nhost: a\r\n\r\n")
            assert answer(waiting).startswith(b"HTTP/1.1 200")
    assert len(lines(hosted)) == 1


def test_open_files_are_raised_to_what_the_system_allows(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege(OPEN_FILES="128:640")
    assert httpx.get(hosted.http + "/hello", timeout=20).json()["open_files"] == 640
    [line] = [line for line in hosted.err if line.startswith("WARNING")]
    assert line == (
        "WARNING besieged-ms: the system lets this process open 640 files, so 512 HTTP connections are held at once "
        "instead of 1000; raise the hard limit (ulimit -Hn), or lower HttpLimits.connections"
    )
