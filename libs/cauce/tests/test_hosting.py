"""A service as a real process: signals, exit codes, ports, the start-up log, and the health pages."""

import signal
import socket
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from testsupport.hosted import Hosted


@pytest.fixture
def host(tmp_path: Path) -> Generator[Callable[..., Hosted]]:
    made: list[Hosted] = []

    def start(scenario: str, **options: object) -> Hosted:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Hosted(scenario, folder, **options))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # passed through
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def test_sigterm_drains_the_request_in_flight_and_its_listeners_and_exits_0(host: Callable[..., Hosted]) -> None:
    hosted = host("http")
    hosted.ready()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, hosted.http + "/slow", timeout=10)
        hosted.until(lambda: "request begins" in hosted.out)
        hosted.signal(signal.SIGTERM)
        assert answer.result().status_code == 201
    assert hosted.ended() == 0
    assert hosted.out == ["request begins", "request ends", "listener begins", "listener ends"]
    assert hosted.err[-2:] == ["INFO hosted-ms: stopping", "INFO hosted-ms: stopped"]


def test_a_second_signal_exits_at_once(host: Callable[..., Hosted]) -> None:
    hosted = host("http", REQUEST_TAKES_S="30")
    hosted.ready()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, hosted.http + "/slow", timeout=20)
        hosted.until(lambda: "request begins" in hosted.out)
        hosted.signal(signal.SIGTERM)
        hosted.until(lambda: "INFO hosted-ms: stopping" in hosted.err)
        hosted.signal(signal.SIGINT)
        assert hosted.process.wait(5) == 1
        assert isinstance(answer.exception(), httpx.TransportError)
    assert "request ends" not in hosted.out


def test_the_grace_period_bounds_the_whole_drain(host: Callable[..., Hosted]) -> None:
    hosted = host("http", REQUEST_TAKES_S="60", GRACE_S="1")
    hosted.ready()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, hosted.http + "/slow", timeout=20)
        hosted.until(lambda: "request begins" in hosted.out)
        hosted.signal(signal.SIGTERM)
        assert hosted.ended() == 1
        answer.exception()
    assert "ERROR hosted-ms: did not drain within 1 s" in hosted.err


@pytest.mark.parametrize(
    ("how", "where"),
    [("swallow", "never_end (hosted_service.py:"), ("block", "never_end ("), ("thread", "thread never_return (")],
)
def test_what_does_not_end_is_named_and_left_when_the_grace_period_is_over(
    host: Callable[..., Hosted], how: str, where: str
) -> None:
    hosted = host("http", GRACE_S="1")
    hosted.ready()
    with suppress(httpx.TransportError):  # a blocked event loop does not answer
        httpx.post(f"{hosted.http}/endless/{how}", timeout=1)
    hosted.until(lambda: how in hosted.out)
    began = time.monotonic()
    hosted.signal(signal.SIGTERM)
    assert hosted.ended() == 1
    assert time.monotonic() - began < 15, "not after the minute that it takes"
    [line] = [one for one in hosted.err if "did not end within 1 s, still running: " in one]
    assert line.partition("still running: ")[2].startswith(where)


def test_when_half_of_the_threads_are_stuck_the_process_ends_and_exits_1(host: Callable[..., Hosted]) -> None:
    hosted = host("jammed", GRACE_S="1")
    hosted.ready()
    assert httpx.post(f"{hosted.http}/jam", timeout=20).status_code == 202
    assert hosted.ended() == 1
    assert [one for one in hosted.err if "16 of 32 threads of blocking listeners do not end: " in one]


def test_a_connection_that_does_not_close_is_left_behind(host: Callable[..., Hosted]) -> None:
    hosted = host("clinging-alone", GRACE_S="2")
    hosted.ready()
    hosted.signal(signal.SIGTERM)
    assert hosted.ended() == 0
    assert [one for one in hosted.err if "memory did not close within" in one]
    assert hosted.err[-1] == "INFO hosted-ms: stopped"


def test_ctrl_c_stops_a_service_without_a_public_door(host: Callable[..., Hosted]) -> None:
    hosted = host("alone")
    hosted.ready()
    hosted.signal(signal.SIGINT)
    assert hosted.ended() == 0
    assert hosted.err == [
        "INFO hosted-ms hears hosted.told",
        "INFO hosted-ms publishes hosted.told",
        "INFO hosted-ms uses memory (at most once: what nobody hears in that moment is lost) and sqlite",
        f"INFO hosted-ms is ready · health {hosted.health}",
        "INFO hosted-ms: stopping",
        "INFO hosted-ms: stopped",
    ]


def test_the_start_up_log_has_at_most_five_lines_also_without_a_logging_configuration(
    host: Callable[..., Hosted],
) -> None:
    hosted = host("http", LOG="default")
    hosted.ready()
    assert hosted.err == [
        "hosted-ms hears hosted.told",
        "hosted-ms publishes hosted.told",
        "hosted-ms uses memory (at most once: what nobody hears in that moment is lost) and sqlite",
        f"hosted-ms is ready · serves {hosted.http} · health {hosted.health}",
    ]
    assert hosted.out == []


def test_a_port_in_use_is_one_line_and_exit_2(host: Callable[..., Hosted]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        hosted = host("http", http_port=port)
        assert hosted.ended() == 2
    [line] = hosted.err
    assert line.startswith(f"hosted-ms: the http port 127.0.0.1:{port} cannot be opened (address already in use).")


@pytest.mark.parametrize("scenario", ["misconfigured", "misconfigured-alone"])
def test_a_wrong_configuration_found_at_the_start_is_said_and_exits_2(
    host: Callable[..., Hosted], scenario: str
) -> None:
    hosted = host(scenario)
    assert hosted.ended() == 2
    assert hosted.err[-1] == "hosted-ms: no broker is called 'rediss': use redis"
    assert not [line for line in hosted.err if "Traceback" in line]


def test_an_application_that_does_not_start_the_service_is_told_how(host: Callable[..., Hosted]) -> None:
    hosted = host("no-lifespan")
    assert hosted.ended() == 2
    assert hosted.err[-1] == (
        "hosted-ms: its application does not start it; give it the service's lifespan: "
        "FastAPI(lifespan=service.lifespan)"
    )


def test_an_application_that_fails_to_start_exits_1_with_one_traceback(host: Callable[..., Hosted]) -> None:
    hosted = host("failing-lifespan")
    assert hosted.ended() == 1
    assert "CRITICAL hosted-ms: could not start: RuntimeError: its own lifespan fails" in hosted.err
    assert sum("Traceback" in line for line in hosted.err) == 1


def test_a_loop_that_crashes_takes_the_process_down_loudly(host: Callable[..., Hosted]) -> None:
    hosted = host("crash")
    hosted.ready()
    httpx.post(hosted.http + "/crash")
    assert hosted.ended() == 1
    assert "CRITICAL hosted-ms: crashed: RuntimeError('the transport has a bug')" in hosted.err
    assert "CRITICAL hosted-ms: stopped by RuntimeError: the transport has a bug" in hosted.err


def test_the_same_for_a_service_alone(host: Callable[..., Hosted]) -> None:
    hosted = host("crash-alone")
    assert hosted.ended() == 1
    assert "CRITICAL hosted-ms: crashed: RuntimeError('the transport has a bug')" in hosted.err


def test_the_health_pages(host: Callable[..., Hosted]) -> None:
    hosted = host("http")
    hosted.ready()
    with httpx.Client(base_url=hosted.health) as client:
        live = client.get("/health/live")
        assert (live.status_code, live.json()) == (200, {"status": "live", "service": "hosted-ms"})
        quiet: dict[str, object] = {"ready": True, "service": "hosted-ms", "not_ready": {}, "needs_attention": {}}
        hosted.until(lambda: client.get("/health/ready").json() == quiet)
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert httpx.post(hosted.http + "/slow").status_code == 201
        counted = {"service": "hosted-ms", "unfinished": 0, "published": 1, "handled": 1}
        hosted.until(lambda: client.get("/counters").json() == counted)
        head = client.head("/health/ready")
        assert (head.status_code, head.content) == (200, b"")
        for method, path in (("GET", "/"), ("POST", "/health/live"), ("GET", "/health")):
            missing = client.request(method, path)
            assert (missing.status_code, missing.json()["pages"]) == (
                404,
                ["/health/live", "/health/ready", "/health/moving", "/counters", "/status"],
            )
        assert ready.headers["cache-control"] == "no-store"
        assert "server" not in ready.headers
    hosted.signal(signal.SIGTERM)
    assert hosted.ended() == 0
