"""One process that has imported everything forks the test processes, so that their start costs no imports.

Reads an order per line (JSON: environment, log) from its standard input and answers with the pid. Each child is a
process like any other: its own session, its own log, its own death. How it ended stands in FOLDER/PID.exit. All of
them end with this process, and it ends when its standard input does.
"""

import ctypes
import gc
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]  # this and what follows is not to be paid for every time
import sqlalchemy.dialects.postgresql.psycopg  # pyright: ignore[reportUnusedImport]
import sqlalchemy.dialects.sqlite.aiosqlite  # noqa: F401  # pyright: ignore[reportUnusedImport]

from testsupport.durable import program

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def _nothing(_number: int, _frame: object) -> None:
    """Only so that the signal wakes the loop."""


def main(folder: Path) -> None:
    gc.collect()
    gc.freeze()  # a child that collects its garbage must not copy all that is here

    libc = ctypes.CDLL(None)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    buffered = b""
    while True:
        ready, _, _ = select.select([0, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
            _reap(folder)
        if 0 in ready:
            part = os.read(0, 65536)
            if not part:
                return
            *orders, buffered = (buffered + part).split(b"\n")
            for order in orders:
                pid = _fork(json.loads(order), libc)
                os.write(1, json.dumps({"pid": pid}).encode() + b"\n")


def _fork(order: Any, libc: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 256)
        os.environ.update(order["environment"])
        code = program.main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap(folder: Path) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        written = folder / f"{pid}.exit.new"
        written.write_text(str(os.waitstatus_to_exitcode(status)), encoding="ascii")
        written.rename(folder / f"{pid}.exit")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
