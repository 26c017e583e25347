"""What happened, in the order it happened: one line per fact, written so that a SIGKILL right afterwards cannot lose it."""

import json
import os
import time
from typing import Any

__all__ = ["happened", "read"]


def happened(what: str, **facts: Any) -> None:
    """Append to the file named by HISTORY. One `write` on O_APPEND: whole lines, from any number of processes."""
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.monotonic(), **facts}) + "\n"
    file = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(path: str, what: str | None = None) -> list[dict[str, Any]]:
    """All facts so far, or those of one kind."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        facts = [json.loads(line) for line in file if line.endswith("\n")]
    return [fact for fact in facts if what is None or fact["what"] == what]
