"""The benchmarks still run. What they measure is for `make bench`: here nothing depends on time."""

import subprocess
import sys
from importlib.util import find_spec

from testsupport.repository import ROOT

BENCHMARKS = ROOT / "benchmarks"


def _quickly(name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--quick"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_tiny_round_of_the_dispatch_benchmark_runs_and_every_listener_counts() -> None:
    said = _quickly("dispatch.py")

    for section in ("plain call, 1 listener", "awaited, 10 listeners", "pattern, plain call", "a new event", "imports"):
        assert f"### {section}" in said
    absent = [name for name in ("blinker", "pyee", "pymitter", "pyventus", "bubus") if find_spec(name) is None]
    assert all(name in said for name in absent), "a peer that is left out is named"


def test_a_tiny_round_of_the_streams_benchmark_runs_and_every_message_arrives() -> None:
    said = _quickly("streams.py")

    for section in ("one awaited publish", "batches of 100", "100 concurrent", "consuming", "end to end", "latency"):
        assert f"### {section}" in said
    assert ("faststream" in said) == (find_spec("faststream") is None), "a peer that is left out is named"
