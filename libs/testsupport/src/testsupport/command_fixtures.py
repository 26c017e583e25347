"""Fixtures: a project of two services, shop and mail, on a database of each kind; the `cauce` command in this process.

A conftest.py imports those it wants.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from cauce.dev.servers import ScratchDatabases, ValkeyServer

from testsupport.shop_and_mail import PYPROJECT, Project, Said, run_command

__all__ = ["broker", "cauce", "dialect", "project"]


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def project(
    tmp_path: Path, dialect: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The services' databases are there and empty; nothing runs. The clock on the wall is UTC."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    urls: dict[str, str] = {}
    for name in ("shop", "mail"):
        if dialect == "sqlite":
            urls[name] = f"sqlite+aiosqlite:///{tmp_path}/{name}.sqlite"
        else:
            databases: ScratchDatabases = request.getfixturevalue("postgres")
            urls[name] = databases.database()
        monkeypatch.setenv(f"{name.upper()}_DATABASE_URL", urls[name])
    for name in ("REDIS_HOST", "REDIS_PORT", "REDIS_PASS", "REDIS_URL", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAUCE_ENV_FILE", "")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    time.tzset()
    yield Project(tmp_path, dialect, urls)
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def broker(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, project: Project) -> ValkeyServer:
    """The project's broker, empty."""
    monkeypatch.setenv("REDIS_URL", valkey.url)
    return valkey


@pytest.fixture
def cauce(capsys: pytest.CaptureFixture[str]) -> Callable[..., Awaitable[Said]]:
    """`said = await cauce("dead", "list")`: what it printed, and the exit code."""

    async def run(*words: str) -> Said:
        capsys.readouterr()
        code = await asyncio.to_thread(run_command, words)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run
