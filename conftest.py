"""Real servers for every test of this repository: started on first use, stopped and removed at the end.

    valkey         the session's Valkey, emptied before the test; put right if an earlier test stopped it
    own_valkey     a Valkey of this test's own, to kill as it likes
    postgres       `.database()` gives the URL of a fresh database; as many as wanted, dropped after the test
    own_postgres   a PostgreSQL of this test's own
    mail_sink      the session's mail sink, emptied before the test

None survives this process, not even if it is killed.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cauce.dev.servers import MailSinkServer, PostgresServer, ScratchDatabases, ValkeyServer

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
    server.kill()


@pytest.fixture(scope="session")
def session_mail_sink(servers_folder: Path) -> Iterator[MailSinkServer]:
    server = MailSinkServer(servers_folder / "mail-sink")
    server.start()
    yield server
    server.kill()


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


@pytest.fixture
def own_postgres(servers_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(servers_folder / f"own-postgres-{next(_numbers)}", options=_FAST)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def mail_sink(session_mail_sink: MailSinkServer) -> MailSinkServer:
    session_mail_sink.resume()
    session_mail_sink.start()
    session_mail_sink.clear()
    return session_mail_sink
