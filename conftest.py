"""Real servers for every test of this repository: started on first use, stopped and removed at the end.

    valkey         the session's Valkey, emptied before the test; put right if an earlier test stopped it
    own_valkey     a Valkey of this test's own, to kill as it likes
    redis7_program where a Redis 7 is; skips where there is none
    postgres       `.database()` gives the URL of a fresh database; as many as wanted, dropped after the test
    own_postgres   a PostgreSQL of this test's own
    url            of an empty database; the test runs once on SQLite and once on PostgreSQL
    any_url        the same, and once more on PostgreSQL by its other driver, asyncpg
    mail_sink      the session's mail sink, emptied before the test
    nothing_left   fails the test when a process that it started is still there at its end
    family         `remaining = family(pid)`: all descendants of a process, to see later that none remained

None survives this process, not even if it is killed. What they write goes into memory where there is enough of it.
"""

import faulthandler
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cauce.dev.servers import MailSinkServer, PostgresServer, ScratchDatabases, ValkeyServer

pytest.register_assert_rewrite("cauce.testing.store_contract", "cauce.testing.transport_contract")  # before any import

_HARD_S = 90
"""After its time limit, which raises in the test: a listener that swallows everything, or a thread, may stay all the same."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that outlives its failure by far ends its process with the stacks of all threads: the run does not hang."""
    marker = item.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker is not None and marker.args else item.config.getini("timeout"))
    _end_in(limit_s + _HARD_S)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The same for what a worker of xdist may wait for when its tests are over."""
    if hasattr(session.config, "workerinput"):
        _end_in(_HARD_S)


def _end_in(limit_s: float) -> None:
    faulthandler.dump_traceback_later(limit_s, exit=True, file=sys.__stderr__ or sys.stderr)


def _write_into_memory() -> None:
    """Hundreds of databases are made and removed, and what the disk remembers of them is of no use to anybody."""
    memory = Path("/dev/shm")  # noqa: S108 — the folders in it are made as in any other place for them
    if "TMPDIR" in os.environ or not memory.is_dir() or not os.access(memory, os.W_OK):
        return
    if shutil.disk_usage(memory).free > _ENOUGH_MEMORY:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


_ENOUGH_MEMORY = 8 << 30
_write_into_memory()

# A test server may lose its data when the machine loses power, never when its process is killed.
_FAST = {"fsync": "off", "full_page_writes": "off"}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Where the test servers keep their data; PostgreSQL's account, if it is another, can enter it."""
    folder = Path(tempfile.mkdtemp(prefix="cauce-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def session_valkey(servers_folder: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(servers_folder / "valkey")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def session_postgres(servers_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(servers_folder / "postgres", options=_FAST)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def session_mail_sink(servers_folder: Path) -> Iterator[MailSinkServer]:
    server = MailSinkServer(servers_folder / "mail-sink")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis7_program(pytestconfig: pytest.Config) -> Path:
    """Redis 7, where it could be fetched; for a server beside Valkey."""
    unpacked = pytestconfig.rootpath / ".cauce" / "redis7"
    program = shutil.which("redis-server", path=os.pathsep.join([str(unpacked), os.environ.get("PATH", "")]))
    if program is None:
        pytest.skip("NOT TESTED on Redis 7: scripts/redis7.sh could not fetch it, and there is none on PATH")
    return Path(program)


@pytest.fixture
def valkey(session_valkey: ValkeyServer) -> ValkeyServer:
    session_valkey.resume()
    session_valkey.start()
    session_valkey.flush()
    return session_valkey


@pytest.fixture
def own_valkey(servers_folder: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(servers_folder / f"own-valkey-{next(_numbers)}")
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def postgres(session_postgres: PostgresServer) -> Iterator[ScratchDatabases]:
    session_postgres.start()
    databases = ScratchDatabases(session_postgres, prefix=f"test_{next(_numbers)}")
    yield databases
    session_postgres.start()
    databases.drop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/service.sqlite"
    postgres: ScratchDatabases = request.getfixturevalue("postgres")
    return postgres.database()


@pytest.fixture(params=["sqlite", "postgresql", "asyncpg"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/service.sqlite"
    postgres: ScratchDatabases = request.getfixturevalue("postgres")
    return postgres.database() if request.param == "postgresql" else postgres.database().replace("psycopg", "asyncpg")


@pytest.fixture
def own_postgres(servers_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(servers_folder / f"own-postgres-{next(_numbers)}", options=_FAST)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def mail_sink(session_mail_sink: MailSinkServer) -> MailSinkServer:
    session_mail_sink.resume()
    session_mail_sink.start()
    session_mail_sink.clear()
    return session_mail_sink


def _still_running(processes: list[psutil.Process], within_s: float = 15.0) -> list[str]:
    """Who still runs when all should be gone, after waiting for the last of them."""
    deadline = time.monotonic() + within_s
    while processes := [process for process in processes if _runs(process)]:
        if time.monotonic() > deadline:
            return [_describe(process) for process in processes]
        time.sleep(0.02)
    return []


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _describe(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())}"
    return str(process.pid)


@pytest.fixture
def family() -> Callable[[int], Callable[[], list[str]]]:
    """`remaining = family(pid)` remembers all descendants; `remaining()` waits for their end and names who stays."""

    def remember(pid: int) -> Callable[[], list[str]]:
        members = psutil.Process(pid).children(recursive=True)
        return lambda: _still_running(members)

    return remember


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails the test when a process that it started is still there at its end."""
    before = set(psutil.Process().children(recursive=True))
    yield
    later = psutil.Process().children(recursive=True)
    if remaining := _still_running([process for process in later if process not in before]):
        pytest.fail(f"still running: {remaining}")
