"""`DevSystem`: servers and services of a project, ready inside the `async with`, gone after it."""

# redis-py's methods take untyped keyword arguments
# pyright: reportUnknownMemberType=false

import asyncio
import os
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from cauce.dev.errors import AlreadyRunningError, DevError, PortInUseError, ProcessDiedError
from cauce.dev.ports import choose_port
from cauce.dev.servers import PostgresServer
from cauce.dev.state_file import StateFile
from cauce.dev.system import DevSystem
from cauce.errors import ConfigurationError
from cauce.settings.project import Project
from testsupport.services import FOLDER

pytestmark = pytest.mark.usefixtures("nothing_left")

SERVICE = FOLDER / "dev_service.py"

MakeProject = Callable[..., Project]


@pytest.fixture
def project() -> Iterator[MakeProject]:
    """Makes a project of one service, `one`, in a folder that PostgreSQL's account can enter."""
    with tempfile.TemporaryDirectory(prefix="cauce-test-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        root.chmod(0o711)

        def make(*servers: str, env: Mapping[str, str] | None = None, more: str = "") -> Project:
            port = choose_port()
            variables = ", ".join(f'{key} = "{value}"' for key, value in (env or {}).items())
            (root / "pyproject.toml").write_text(f"""\
[tool.cauce.dev]
servers = {list(servers)}
ready_within_s = 20
grace_s = 5

[tool.cauce.dev.services.one]
command = "python -S {SERVICE} {port}"
ready = "http://127.0.0.1:${{ONE_PORT:-{port}}}/ready"
address = "http://127.0.0.1:{port}"
database = "ONE_DATABASE_URL"
env = {{ {variables} }}
{more}
""")
            return Project.find(root)

        yield make


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **more}


def get(url: str | None) -> None:
    assert url
    with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5):
        pass


class Notes:
    """A report that is kept."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lines: list[str] = []

    def progress(self, name: str, text: str, *, done: bool) -> None:
        self.steps.append(f"{name} {text}")

    def line(self, service: str, text: str) -> None:
        self.lines.append(text)


async def test_all_is_ready_inside_and_gone_after(project: MakeProject) -> None:
    here, notes = project("valkey", "postgres", "mail-sink"), Notes()
    async with DevSystem(here, environment=environment(), report=notes) as system:
        variables = system.variables
        with redis.Redis(
            host=variables["REDIS_HOST"], port=int(variables["REDIS_PORT"]), password=variables["REDIS_PASS"]
        ) as client:
            assert client.ping()
        with psycopg.connect(variables["ONE_DATABASE_URL"].replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT current_database(), current_user").fetchone() == ("one", "one")
        assert set(system.addresses) == {"one", "valkey", "postgres", "mail-sink"}
        said = await system.line("one", "listening on")
        assert said.split(",")[1] == f" redis at {variables['REDIS_PORT']}"
        assert await system.line("one", "to standard error")

        state = here.folder / "dev.env"
        assert state.stat().st_mode & 0o777 == 0o600
        written = dict(line.split("=", 1) for line in state.read_text().splitlines() if not line.startswith("#"))
        assert written == variables
        assert set(variables) == {
            "CAUCE_MAILS_URL",
            "ONE_DATABASE_URL",
            "REDIS_HOST",
            "REDIS_PASS",
            "REDIS_PORT",
            "SMTP_HOST",
            "SMTP_PORT",
        }

    assert not state.exists()
    assert notes.lines[-1] == "drained"
    assert any(step.startswith("one ready (") for step in notes.steps)


async def test_a_second_run_has_the_same_addresses_and_data(project: MakeProject) -> None:
    here = project("valkey", "postgres")
    async with DevSystem(here, environment=environment()) as system:
        first = system.variables
        with psycopg.connect(first["ONE_DATABASE_URL"].replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE kept ()")
    async with DevSystem(here, environment=environment()) as system:
        assert system.variables == first
        with psycopg.connect(first["ONE_DATABASE_URL"].replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT to_regclass('kept')::text").fetchone() == ("kept",)


async def test_sqlite_gives_every_service_a_file_and_starts_no_postgres(project: MakeProject) -> None:
    here = project("postgres")
    async with DevSystem(here, environment=environment(STORE="sqlite")) as system:
        assert not any(isinstance(server, PostgresServer) for server in system.servers.values())
        assert system.variables == {
            "ONE_DATABASE_URL": f"sqlite+aiosqlite:///{here.folder}/data/sqlite/one.sqlite",
        }


async def test_variables_set_by_hand_win(project: MakeProject) -> None:
    here = project("valkey", "postgres", env={"LEVEL": "from the project", "OTHER": "${LEVEL}"})
    given = environment(REDIS_HOST="elsewhere", ONE_DATABASE_URL="sqlite+aiosqlite:///mine", LEVEL="mine")
    async with DevSystem(here, environment=given) as system:
        assert system.servers == {}
        assert system.elsewhere == {"valkey": "REDIS_HOST", "postgres": "the …_DATABASE_URL variables"}
        assert system.variables == {}
        pid = system.services["one"].pid
        assert pid
        seen = psutil.Process(pid).environ()
        for name in ("REDIS_HOST", "ONE_DATABASE_URL", "LEVEL"):
            assert seen[name] == given[name]
        assert seen["OTHER"] == "mine"


async def test_only_servers_starts_no_service_and_needs_no_port_of_theirs(project: MakeProject) -> None:
    here = project("valkey")
    with DevListener(here):
        async with DevSystem(here, environment=environment(), only_servers=True) as system:
            assert (list(system.servers), list(system.services)) == (["valkey"], [])


class DevListener:
    """Holds the port of a project's service."""

    def __init__(self, project: Project) -> None:
        import socket

        address = project.services["one"].address
        assert address
        self.port = int(address.rsplit(":", 1)[1])
        self._socket = socket.create_server(("127.0.0.1", self.port))

    def __enter__(self) -> "DevListener":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


async def test_a_port_in_use_is_one_line_and_nothing_is_started(project: MakeProject) -> None:
    here = project("valkey", "postgres")
    with DevListener(here) as taken, pytest.raises(PortInUseError) as refused:
        async with DevSystem(here, environment=environment(ONE_PORT=str(taken.port))):
            pytest.fail("it started")

    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith(f"Port {taken.port} is in use")
    assert "one needs it. Stop what listens there" in said
    assert not (here.folder / "data").exists()


async def test_the_way_out_of_a_port_in_use_is_a_free_one(project: MakeProject) -> None:
    here = project()
    address = here.services["one"].address
    assert address
    free = replace(here.services["one"], address=None)  # leaves the ready URL, whose port a variable chooses
    with DevListener(here) as taken, pytest.raises(PortInUseError) as refused:
        async with DevSystem(replace(here, services={"one": free}), environment=environment()):
            pytest.fail("it started")
    suggested = str(refused.value).rstrip(".").rsplit("ONE_PORT=", 1)[1]
    assert int(suggested) > taken.port


async def test_two_services_on_one_port_are_refused(project: MakeProject) -> None:
    here = project(more='[tool.cauce.dev.services.two]\ncommand = "x"\nready = "http://127.0.0.1:${ONE:-81}/"\n')
    port = here.services["one"].address
    assert port
    given = environment(ONE=port.rsplit(":", 1)[1])
    with pytest.raises(ConfigurationError, match="one and two both want port"):
        async with DevSystem(here, environment=given):
            pytest.fail("it started")


async def test_a_second_system_beside_a_running_one_is_refused(project: MakeProject) -> None:
    here = project("valkey")
    async with DevSystem(here, environment=environment()) as system:
        with pytest.raises(AlreadyRunningError) as refused:
            async with DevSystem(here, environment=environment()):
                pytest.fail("it started")
        assert str(refused.value) == (
            f"cauce dev is running for {here.root} already (pid {os.getpid()}). "
            "Use that one, or stop it first (Ctrl-C in its terminal)."
        )
        assert system.servers["valkey"].running
        assert (here.folder / "dev.env").exists()


async def test_a_service_that_ends_unasked_stops_everything(project: MakeProject) -> None:
    here, notes = project("valkey"), Notes()
    system = DevSystem(here, environment=environment(), report=notes)
    with pytest.raises(ProcessDiedError) as died:
        async with system:
            await asyncio.to_thread(get, f"{system.services['one'].address}/exit/3")
            await asyncio.Event().wait()

    assert (died.value.name, died.value.exit_code) == ("one", 3)
    said = str(died.value)
    assert said.startswith("one ended unasked (exit code 3); everything was stopped. Its last lines:\n")
    assert "    going down" in said
    assert "one ended unasked (exit code 3): stopping everything" in notes.steps
    assert not (here.folder / "dev.env").exists()
    assert not system.servers["valkey"].running


async def test_even_a_service_that_ends_with_success_is_missed(project: MakeProject) -> None:
    with pytest.raises(ProcessDiedError, match="exit code 0"):
        async with DevSystem(project(), environment=environment()) as system:
            await asyncio.to_thread(get, f"{system.services['one'].address}/exit/0")
            await asyncio.Event().wait()


async def test_a_service_that_ends_while_starting_is_told_with_its_lines(project: MakeProject) -> None:
    here = project("valkey")
    broken = replace(here.services["one"], command=("python", "-S", "-c", "print('no module'); raise SystemExit(4)"))
    with pytest.raises(ProcessDiedError, match=r"(?s)one ended unasked \(exit code 4\).*no module"):
        async with DevSystem(replace(here, services={"one": broken}), environment=environment()):
            pytest.fail("it started")


async def test_a_command_that_does_not_exist_is_told_as_such(project: MakeProject) -> None:
    here = project("valkey")
    missing = replace(here.services["one"], command=("pyton", "-m", "one"))
    with pytest.raises(DevError, match=r"one could not be started: 'pyton': No such file or directory\. Its command"):
        async with DevSystem(replace(here, services={"one": missing}), environment=environment()):
            pytest.fail("it started")


async def test_a_service_that_never_becomes_ready_is_told_with_its_own_reason(project: MakeProject) -> None:
    here = replace(project(env={"NEVER_READY": "1"}), ready_within_s=0.5)
    with pytest.raises(DevError) as refused:
        async with DevSystem(here, environment=environment()):
            pytest.fail("it started")
    said = str(refused.value)
    assert 'one was not ready within 0.5 s: it answers 503 {"redis": "no Redis at 127.0.0.1:1"}. Asked at' in said
    assert "    listening on" in said


async def test_a_server_that_dies_stops_everything(project: MakeProject) -> None:
    here, notes = project("valkey"), Notes()
    with pytest.raises(ProcessDiedError) as died:
        async with DevSystem(here, environment=environment(), report=notes) as system:
            pid = system.servers["valkey"].pid
            assert pid
            os.kill(pid, signal.SIGKILL)
            await asyncio.Event().wait()

    said = str(died.value)
    assert said.startswith("The server valkey ended unasked (killed by SIGKILL); everything was stopped.")
    assert f"The whole log: {here.folder}/data/valkey/server.log" in said
    assert notes.lines[-1] == "drained"


async def test_what_is_stopped_or_killed_on_request_is_not_missed(project: MakeProject) -> None:
    async with DevSystem(project("valkey"), environment=environment()) as system:
        port = system.variables["REDIS_PORT"]
        await system.kill("valkey")
        await system.kill("one")
        mark = system.services["one"].said
        await system.start("valkey")
        await system.start("one")
        assert f"redis at {port}" in await system.line("one", "listening on", since=mark)
        await system.stop("one")
        await system.start("one")
        await system.stop("valkey")
    assert not system.services["one"].running


async def test_a_name_that_is_no_part_of_the_system_is_refused(project: MakeProject) -> None:
    async with DevSystem(project(), environment=environment()) as system:
        with pytest.raises(DevError, match="There is no 'two' in this system; there are one"):
            await system.stop("two")


async def test_a_service_that_does_not_drain_in_time_is_killed_with_its_children(project: MakeProject) -> None:
    here, notes = replace(project(env={"STUBBORN": "1", "CHILD": "1"}), grace_s=0.2), Notes()
    async with DevSystem(here, environment=environment(), report=notes):
        pass
    assert "one did not stop within 0.2 s and was killed" in notes.steps
    assert notes.lines[-1] == "draining"


async def test_an_error_of_the_body_leaves_as_it_is(project: MakeProject) -> None:
    with pytest.raises(ZeroDivisionError):
        async with DevSystem(project("valkey"), environment=environment()):
            _ = 1 / 0


async def test_a_cancelled_start_leaves_nothing(project: MakeProject) -> None:
    here = project("valkey", "postgres", "mail-sink", env={"NEVER_READY": "1"})
    for moment in ("postgres", "one"):
        reached = asyncio.Event()

        class UntilThen(Notes):
            def progress(self, name: str, text: str, *, done: bool) -> None:
                if name == moment:  # noqa: B023
                    reached.set()  # noqa: B023

            def line(self, service: str, text: str) -> None:
                self.progress(service, text, done=False)

        async def run(report: Notes) -> None:
            async with DevSystem(here, environment=environment(), report=report):
                pytest.fail("it started")

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(run(UntilThen()))
            await reached.wait()
            starting.cancel()
        assert not (here.folder / "dev.env").exists()


async def test_waiting_for_a_line_that_never_comes_tells_what_came(project: MakeProject) -> None:
    async with DevSystem(project(), environment=environment()) as system:
        with pytest.raises(TimeoutError, match=r"(?s)one did not say 'nothing of the kind' within 0.1 s.*listening on"):
            await system.line("one", "nothing of the kind", within_s=0.1)


async def test_a_line_without_end_does_not_grow_without_limit(project: MakeProject) -> None:
    here = project()
    loud = replace(
        here.services["one"], ready=None, command=("python", "-S", "-c", "print('x' * 300_000); input() if 0 else 0")
    )
    system = DevSystem(replace(here, services={"one": loud}), environment=environment())
    with pytest.raises(ProcessDiedError):
        async with system:
            await asyncio.Event().wait()
    assert sum(map(len, system.services["one"].lines)) == 300_000
    assert max(map(len, system.services["one"].lines)) <= 2 * 64 * 1024


def test_the_state_file_can_be_read_by_a_shell(tmp_path: Path) -> None:
    values = {"PLAIN": "redis://:a@127.0.0.1:1/0", "BLANK": "/a folder/x", "QUOTES": 'say "hi"', "EMPTY": ""}
    StateFile(tmp_path / "dev.env").write(values)
    import subprocess

    for name, value in values.items():
        said = subprocess.run(
            ["/bin/sh", "-c", f'. ./dev.env; printf %s "${name}"'], cwd=tmp_path, capture_output=True, check=True
        )
        assert said.stdout.decode() == value
