"""Goal 15: how long an import takes, each in a fresh interpreter, interleaved."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cauce
from rounds import Measured

__all__ = ["import_times"]

_TIMED = "import time; start = time.process_time_ns(); {statement}; print(time.process_time_ns() - start, flush=True)"


def import_times(statements: Sequence[str], *, rounds: int) -> dict[str, Measured]:
    """Nanoseconds of processor time of each import statement in an interpreter that has imported nothing else; the interpreter's own
    start is not counted. Statements whose package is not installed are left out."""
    able = [statement for statement in statements if find_spec(statement.split()[1].partition(".")[0])]
    for statement in able:
        _once(statement)  # writes the bytecode, fills the file cache
    taken: dict[str, list[float]] = {statement: [] for statement in able}
    for turn in range(rounds):
        for step in range(len(able)):
            statement = able[(turn + step) % len(able)]
            taken[statement].append(_once(statement))
    return {statement: Measured(name=statement, ns=ns) for statement, ns in taken.items()}


def _once(statement: str) -> int:
    source = Path(cauce.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(statement=statement)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"{statement} failed:\n{done.stderr}")
    return int(done.stdout)
