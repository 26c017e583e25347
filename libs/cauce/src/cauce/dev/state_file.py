"""`.cauce/dev.env`: the addresses and passwords of the running servers, for commands started elsewhere."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from cauce.dev.private_file import write_private
from cauce.settings.sources import MARK

__all__ = ["StateFile"]


class StateFile:
    """`NAME=value` lines, mode 600, there only while the servers run. Variables set by hand win over it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, variables: Mapping[str, str]) -> None:
        """Replace the file in one step."""
        lines = [f"{name}={_quoted(value)}" for name, value in variables.items()]
        head = f"{MARK} (pid {os.getpid()}) and removed when it stops. What is set in the environment wins."
        write_private(self.path, "\n".join([head, *lines]) + "\n")

    def remove(self) -> None:
        """Remove it; a missing one is no mistake."""
        self.path.unlink(missing_ok=True)


def _quoted(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]*", value):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'
