"""What a server keeps between runs: its ports and its passwords."""

import json
import secrets
from pathlib import Path
from typing import cast

from cauce.dev.errors import DevError
from cauce.dev.private_file import write_private

__all__ = ["Kept"]


class Kept:
    """`kept.json` in a server's folder, mode 600. Passwords are made on first use and written at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, dict[str, str]] = {}

    def load(self) -> None:
        """Read what an earlier run left; no file is an empty one."""
        if not self._path.exists():
            return
        try:
            self._values = cast("dict[str, dict[str, str]]", json.loads(self._path.read_text(encoding="utf-8")))
        except ValueError:
            raise DevError(
                f"{self._path} is not readable as JSON. Restore it, or remove the folder {self._path.parent} "
                "to begin with empty data."
            ) from None

    def port(self, name: str) -> int | None:
        text = self._values.get("ports", {}).get(name)
        return int(text) if text else None

    def keep_ports(self, ports: dict[str, int]) -> None:
        wanted = {name: str(port) for name, port in ports.items()}
        if self._values.get("ports") != wanted:
            self._values["ports"] = wanted
            self._write()

    def secret(self, name: str) -> str:
        """The secret of that name: letters and digits only, so it fits into any URL or file unquoted."""
        secrets_kept = self._values.setdefault("secrets", {})
        if name not in secrets_kept:
            secrets_kept[name] = secrets.token_hex(16)
            self._write()
        return secrets_kept[name]

    def _write(self) -> None:
        write_private(self._path, json.dumps(self._values, indent=2) + "\n")
