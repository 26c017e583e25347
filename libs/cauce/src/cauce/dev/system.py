"""A project's servers and services, started together, kept, and stopped together."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

from cauce.dev.errors import DevError, ProcessDiedError
from cauce.dev.lock import FileLock
from cauce.dev.plan import Plan, make_plan, require_free_ports
from cauce.dev.private_folder import make_file, make_folder, tighten
from cauce.dev.process import describe_exit
from cauce.dev.servers import EmbeddedServer, MailSinkServer, PostgresServer, ValkeyServer
from cauce.dev.service import DevService
from cauce.dev.state_file import StateFile
from cauce.settings.project import Project, expand

__all__ = ["DevSystem", "Report", "Silence"]


class Report(Protocol):
    """Who wants to know what happens: a terminal, or nobody."""

    def progress(self, name: str, text: str, *, done: bool) -> None:
        """A step of starting or stopping `name`: under way, or done."""
        ...

    def line(self, service: str, text: str) -> None:
        """A service said something."""
        ...


class Silence:
    """Reports to nobody."""

    def progress(self, name: str, text: str, *, done: bool) -> None:
        pass

    def line(self, service: str, text: str) -> None:
        pass


class DevSystem:
    """`async with DevSystem(Project.find(Path.cwd())) as system:` — everything is ready inside, gone after.

    Data, passwords and ports are kept in the project's `.cauce` folder, which others can neither read nor write.
    When a server or a service ends unasked, the body is cancelled, everything stops, and the `async with` raises
    ProcessDiedError. What `stop` and `kill` ended was asked for. One system a folder: a second one raises
    AlreadyRunningError.
    """

    def __init__(
        self,
        project: Project,
        *,
        environment: Mapping[str, str] = os.environ,
        only_servers: bool = False,
        report: Report | None = None,
    ) -> None:
        self.project = project
        self.variables: dict[str, str] = {}
        """What the services get to know about the servers; the content of the state file."""
        self.servers: dict[str, EmbeddedServer] = {}
        self.services: dict[str, DevService] = {}
        self.elsewhere: Mapping[str, str] = {}
        """Servers that are used but not started, with the variable that names them."""
        self._given = dict(environment)
        self._only_servers = only_servers
        self._report: Report = report or Silence()
        self._state_file = StateFile(project.folder / "dev.env")
        self._lock = FileLock(project.folder / "dev.lock")
        self._reading = asyncio.TaskGroup()
        self._watching = asyncio.TaskGroup()
        self._watch: asyncio.Task[None] | None = None
        self._watched: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What a service of this system gets, without its own `env`. Variables set by hand have won."""
        own_programs = str(Path(sys.executable).parent)  # so that "python" is the one that runs us
        path = os.pathsep.join([own_programs, self._given.get("PATH", os.defpath)])
        given = {name: value for name, value in self._given.items() if value or name not in self.variables}
        return {**self.variables, **given, "PATH": path, "PYTHONUNBUFFERED": "1"}

    @property
    def addresses(self) -> dict[str, str]:
        """Where to find what, by name: services that have an address, and the servers."""
        found = {name: service.address for name, service in self.services.items() if service.address}
        for name, server in self.servers.items():
            found[name] = server.url if isinstance(server, MailSinkServer) else server.address
        return found

    async def __aenter__(self) -> Self:
        await self._reading.__aenter__()
        await self._watching.__aenter__()
        try:
            await self._start_all()
        except BaseException as error:
            await self._close(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(error)

    # Single servers and services, by name

    async def stop(self, name: str) -> None:
        """Stop one cleanly. It stays down until `start`."""
        self._watched.discard(name)
        if name in self.servers:
            await asyncio.to_thread(self.servers[name].stop)
        elif not await self._service(name).stop(grace_s=self.project.grace_s):
            self._report.progress(name, f"did not stop within {self.project.grace_s:g} s and was killed", done=True)

    async def kill(self, name: str) -> None:
        """End one as a crash would. It stays down until `start`."""
        self._watched.discard(name)
        if name in self.servers:
            await asyncio.to_thread(self.servers[name].kill)
        else:
            await self._service(name).kill()

    async def start(self, name: str) -> None:
        """Start one that is down, at the address it had; returns when it is ready."""
        started = time.monotonic()
        if name in self.servers:
            server = self.servers[name]
            await asyncio.to_thread(server.start)
            self._report.progress(name, f"{_server_text(server)} ({_since(started)})", done=True)
        else:
            service = self._service(name)
            if service.running:
                return
            service.launch(self._reading)
            await service.until_ready(
                within_s=self.project.ready_within_s,
                waiting=lambda reason: self._report.progress(name, f"not ready yet: {reason}", done=False),
            )
            text = "ready" if service.ready_url else "started"
            self._report.progress(name, f"{text} ({_since(started)})", done=True)
        self._watched.add(name)

    async def line(
        self,
        service: str,
        wanted: str | Callable[[str], bool],
        *,
        within_s: float = 10.0,
        since: int = 0,
    ) -> str:
        """The first line of that service that contains or satisfies `wanted`; see `DevService.line`."""
        return await self._service(service).line(wanted, within_s=within_s, since=since)

    def abort(self) -> None:
        """Kill everything now (a second Ctrl-C). The `async with` must still be left."""
        for service in self.services.values():
            service.abort()
        for server in self.servers.values():
            server.abort()

    # Starting

    async def _start_all(self) -> None:
        make_folder(self.project.folder)
        self._lock.acquire(
            f"cauce dev is running for {self.project.root} already (pid {{pid}}). "
            "Use that one, or stop it first (Ctrl-C in its terminal)."
        )
        tighten(self.project.folder)
        plan = make_plan(self.project, self._given)
        self.elsewhere = plan.elsewhere
        if not self._only_servers:
            require_free_ports(self.project, self._given)
        self._report.progress(self.project.name, "starting (Ctrl-C stops)", done=False)
        self._state_file.remove()  # one that a killed run left behind tells of servers that are gone
        for name in plan.servers:
            self.servers[name] = self._make_server(name, plan)
        self._watch = self._watching.create_task(self._watch_all(), name="watch")
        await _together([self.start(name) for name in self.servers])
        self.variables = {
            **self._server_variables(),
            **self._broker_variables(plan),
            **await self._database_variables(plan),
        }
        self._state_file.write(self.variables)
        if not self._only_servers:
            self._make_services()
            await _together([self.start(name) for name in self.services])

    def _make_server(self, name: str, plan: Plan) -> EmbeddedServer:
        folder = self.project.folder / "data" / name
        match name:
            case "valkey":
                users = {user.name: user.rights for user in plan.users.values()}
                return ValkeyServer(folder, users=users, environment=self._given)
            case "postgres":
                return PostgresServer(folder, environment=self._given)
            case _:
                # The numbers people know from other mail sinks.
                return MailSinkServer(folder, preferred_ports={"smtp": 1025, "http": 8025})

    def _make_services(self) -> None:
        environment = self.environment
        for name, spec in self.project.services.items():

            def hear(text: str, name: str = name) -> None:
                self._report.line(name, text)

            own = {key: expand(value, environment) for key, value in spec.env.items() if key not in self._given}
            self.services[name] = DevService(
                spec, folder=self.project.root, environment={**environment, **own}, hear=hear
            )

    def _server_variables(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for server in self.servers.values():
            if isinstance(server, ValkeyServer):
                found |= {
                    "REDIS_HOST": server.host,
                    "REDIS_PORT": str(server.port),
                    "REDIS_PASS": server.password,
                }
            elif isinstance(server, MailSinkServer):
                found |= {
                    "SMTP_HOST": server.host,
                    "SMTP_PORT": str(server.smtp_port),
                    "CAUCE_MAILS_URL": server.url,
                }
        return found

    def _broker_variables(self, plan: Plan) -> dict[str, str]:
        valkey = self.servers.get("valkey")
        if not isinstance(valkey, ValkeyServer):
            return {}
        return {variable: valkey.url_of(user.name) for variable, user in plan.users.items()}

    async def _database_variables(self, plan: Plan) -> dict[str, str]:
        found: dict[str, str] = {}
        postgres = self.servers.get("postgres")
        if isinstance(postgres, PostgresServer):
            for variable, name in plan.databases.items():
                found[variable] = await asyncio.to_thread(postgres.create_database, name)
        for variable, name in plan.files.items():
            file = self.project.folder / "data" / "sqlite" / f"{name}.sqlite"
            make_file(file)
            found[variable] = f"sqlite+aiosqlite:///{file}"
        return found

    # Keeping and stopping

    async def _watch_all(self) -> None:
        """Raise as soon as something ends that nobody asked to end."""
        while True:
            for name in list(self._watched):
                try:
                    if name in self.servers:
                        self._server_must_run(name)
                    else:
                        await self._service(name).must_run()
                except ProcessDiedError as died:
                    self._report.progress(
                        name, f"ended unasked ({describe_exit(died.exit_code)}): stopping everything", done=False
                    )
                    raise
            await asyncio.sleep(0.1)

    def _server_must_run(self, name: str) -> None:
        server = self.servers[name]
        code = server.exit_code()
        if code is not None:
            raise ProcessDiedError(
                f"The server {name} ended unasked ({describe_exit(code)}); everything was stopped. Its last words:\n"
                f"{server.last_words()}\nThe whole log: {server.log_file}",
                name=name,
                exit_code=code,
            )

    async def _close(self, error: BaseException | None) -> None:
        """Stop services, then servers; raise the one cause of it all instead of a group."""
        ready, self._watched = self._watched, set()
        if self._watch is not None:
            self._watch.cancel()
        cause = await _leave(self._watching, error)
        try:
            await _together([self.stop(name) for name in self.services])
            for name in self.servers.keys() - ready:
                self.servers[name].abort()  # its start may be under way in a thread still
            await _together([asyncio.to_thread(server.stop) for server in self.servers.values()])
        finally:
            self.abort()  # only if this was cancelled is there anything left
            if self._lock.held:
                self._state_file.remove()
                self._lock.release()
        # Last, so that what the services say while they drain is still heard.
        cause = await _leave(self._reading, cause)
        if cause is not None and cause is not error:
            raise cause from None

    def _service(self, name: str) -> DevService:
        if name not in self.services:
            known = ", ".join([*self.services, *self.servers])
            raise DevError(f"There is no {name!r} in this system; there are {known}.")
        return self.services[name]


async def _leave(group: asyncio.TaskGroup, error: BaseException | None) -> BaseException | None:
    """Leave a task group entered by hand; what was wrong: `error`, or what a task of the group raised."""
    try:
        await group.__aexit__(type(error) if error else None, error, None)
    except BaseExceptionGroup as failed:
        return _first(failed)
    except asyncio.CancelledError as cancelled:
        return cancelled
    return error


async def _together(steps: Sequence[Awaitable[None]]) -> None:
    """Run them at once; the first failure cancels the others and is raised by itself."""

    async def run(step: Awaitable[None]) -> None:
        await step

    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(run(step))
    except BaseExceptionGroup as failed:
        raise _first(failed) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", error))
    return error


def _server_text(server: EmbeddedServer) -> str:
    match server:
        case ValkeyServer():
            return f"Valkey {server.version} at {server.address}"
        case PostgresServer():
            return f"PostgreSQL {server.version} at {server.address}"
        case MailSinkServer():
            return f"mails at {server.url}, SMTP at {server.address}"
        case _:
            return server.address


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
