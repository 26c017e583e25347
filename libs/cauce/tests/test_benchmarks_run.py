"""The benchmark of the bus still runs. What it measures is for `make bench`: here nothing depends on time."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

DISPATCH = Path(__file__).parents[3] / "benchmarks" / "dispatch.py"


def test_a_tiny_round_of_the_dispatch_benchmark_runs_and_every_listener_counts() -> None:
    done = subprocess.run(
        [sys.executable, str(DISPATCH), "--quick"], capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stderr) == (0, "")
    for section in ("plain call, 1 listener", "awaited, 10 listeners", "pattern, plain call", "a new event", "imports"):
        assert f"### {section}" in done.stdout
    absent = [name for name in ("blinker", "pyee", "pymitter", "pyventus", "bubus") if find_spec(name) is None]
    assert all(name in done.stdout for name in absent), "a peer that is left out is named"
