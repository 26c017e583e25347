"""The health port has a thread of its own: it answers while the service's event loop does not."""

import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
from testsupport.hosted import Hosted


def test_a_blocked_event_loop_makes_live_and_ready_fail_until_it_turns_again(
    besiege: Callable[..., Hosted], tmp_path: Path
) -> None:
    hosted = besiege(BLOCKED_AFTER_S="0.5")
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=hosted.health, timeout=20) as health:
        assert health.get("/health/live").json() == {"status": "live", "service": "besieged-ms"}
        answer = pool.submit(httpx.post, hosted.http + "/block", timeout=60)
        hosted.until((tmp_path / "blocked").exists)

        hosted.until(lambda: health.get("/health/live").status_code == 503)
        live = health.get("/health/live").json()
        assert (live["status"], live["service"]) == ("blocked", "besieged-ms")
        assert live["blocked_s"] >= 0.5
        ready = health.get("/health/ready")
        assert ready.status_code == 503
        assert [*ready.json()["not_ready"]] == ["event loop"]
        assert health.get("/counters").status_code == 200
        assert health.get("/status").status_code == 503

        (tmp_path / "go on").touch()
        assert answer.result().status_code == 200
        hosted.until(lambda: health.get("/health/live").status_code == 200)
        hosted.until(lambda: health.get("/health/ready").status_code == 200)
        assert health.get("/status").status_code == 200


def test_a_blocked_event_loop_does_not_keep_the_process_from_ending(
    besiege: Callable[..., Hosted], tmp_path: Path
) -> None:
    hosted = besiege(GRACE_S="1")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(httpx.post, hosted.http + "/block", timeout=60)
        hosted.until((tmp_path / "blocked").exists)
        hosted.signal(signal.SIGTERM)
        assert hosted.ended() == 1


def test_half_requests_on_the_health_port_do_not_stop_it(besiege: Callable[..., Hosted]) -> None:
    hosted = besiege()
    with ExitStack() as clients:
        for _ in range(100):
            with suppress(ConnectionError):
                client = socket.create_connection(("127.0.0.1", int(hosted.health.rpartition(":")[2])), timeout=20)
                clients.enter_context(client)
                client.sendall(b"GET /health/live HTTP/1.1\r\n")

        def live() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(hosted.health + "/health/live", timeout=1).status_code == 200
            return False

        hosted.until(live)
    assert httpx.get(hosted.http + "/hello", timeout=20).status_code == 200
    hosted.signal(signal.SIGTERM)
    assert hosted.ended() == 0
