"""A real PostgreSQL."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cauce.dev.account import Account, unprivileged_account
from cauce.dev.errors import DevError
from cauce.dev.private_file import write_private
from cauce.dev.private_folder import let_through, outermost
from cauce.dev.servers.embedded import EmbeddedServer
from cauce.dev.servers.programs import find_postgres

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresServer"]

_SUPERUSER = "postgres"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

# Only root meets these: an unprivileged server cannot enter, say, root's home folder.
_PROGRAMS_FOR_ALL = Path("/var/cache/cauce")
_DATA_FOR_ALL = Path("/var/lib/cauce")
_PLACE = "place"
"""The file in the server's folder that says where its data lie instead."""


class PostgresServer(EmbeddedServer):
    """PostgreSQL with SCRAM passwords, on TCP only; one database with a role of its own per service.

    Started by root it runs as `nobody`, with its data folder handed over. If `nobody` cannot enter the
    folder, the data lie in /var/lib/cauce instead; if it cannot reach the programs, they are copied once to
    /var/cache/cauce.
    """

    name: ClassVar[str] = "postgres"
    port_names: ClassVar[Sequence[str]] = ("postgres",)
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": disconnects clients, writes a checkpoint

    def __init__(
        self,
        folder: Path,
        *,
        options: Mapping[str, str] | None = None,
        environment: Mapping[str, str] = os.environ,
        start_within_s: float = 60.0,
    ) -> None:
        """`options` are further settings of postgresql.conf, for this process only."""
        super().__init__(folder, start_within_s=start_within_s)
        self._options = dict(options or {})
        self._environment = environment

    @cached_property
    def _account(self) -> Account | None:
        return unprivileged_account()

    def account(self) -> Account | None:
        return self._account

    @cached_property
    def _programs(self) -> Path:
        found = find_postgres(self._environment)
        return _programs_within_reach(found, self._account) if self._account else found

    @cached_property
    def version(self) -> str:
        said = self._run([str(self._programs / "postgres"), "--version"], Path("/"))
        found = re.search(r"(\d+(?:\.\d+)?)", said)
        return found[1] if found else ""

    @property
    def _major(self) -> int:
        return int(self.version.partition(".")[0])

    @cached_property
    def _place(self) -> Path:
        """The folder that holds the data folder, in reach of the account."""
        account = self._account
        if account is None:
            return self.folder
        if _belongs_elsewhere(self.folder):  # from when the account could not enter: the data stay where they are
            return _place_for_all(self.folder)
        if account.can_enter((outermost(self.folder) or self.folder).parent):
            let_through(self.folder)
        return self.folder if account.can_enter(self.folder) else _place_for_all(self.folder)

    @property
    def _data(self) -> Path:
        return self._place / "data"

    def working_folder(self) -> Path:
        return self._data

    def prepare(self) -> None:
        password = self.kept.secret(_SUPERUSER)
        marker = self._data / "PG_VERSION"
        if not marker.exists():
            self._initialise(password)
        made_by = marker.read_text(encoding="ascii").strip()
        if made_by != str(self._major):
            raise DevError(
                f"The data in {self._data} were made by PostgreSQL {made_by}, and the one found here is "
                f"{self.version}. Use the other one, or remove {self._data} to begin with empty databases."
            )

    def command(self) -> Sequence[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": self.host,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": "200",
            # In files of its folder: a server that is killed leaves nothing elsewhere.
            "dynamic_shared_memory_type": "mmap",
            # The log must not become a second place where passwords and addresses of people are found.
            "log_min_error_statement": "panic",
            "log_parameter_max_length_on_error": "0",
            **self._options,
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._programs / "postgres"), "-D", str(self._data), *flags]

    def answers(self) -> bool:
        import psycopg

        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str, *, role: str | None = None) -> str:
        """Make sure the database and the role that owns it exist; returns its `postgresql+psycopg://…` URL.

        The role is named like the database unless said otherwise. Nobody else may connect. Repeating is
        harmless.
        """
        role = role or name
        for word in (name, role):
            if not _NAME.fullmatch(word):
                raise ValueError(f"{word!r} is no name for a database: use a-z, 0-9 and _, at most 63 of them.")
        password = self.kept.secret(f"role {role}")
        with self._connect() as connection:
            # The verifier is computed here, so the password itself never travels or reaches a log.
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            verb = "ALTER" if known else "CREATE"
            connection.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{verifier}'".encode())
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                connection.execute(f"CREATE DATABASE {name} OWNER {role}{self._strategy}".encode())
                connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC".encode())
        return f"postgresql+psycopg://{role}:{password}@{self.host}:{self.port}/{name}"

    @property
    def _strategy(self) -> str:
        """Where nothing is synced, copying files is quicker than logging each page of them."""
        return " STRATEGY file_copy" if self._options.get("fsync") == "off" and self._major >= 15 else ""

    def drop_database(self, name: str) -> None:
        """Remove the database, whoever is connected. A missing one is no mistake; its role stays."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a database made here.")
        with self._connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    def _connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        import psycopg

        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=_SUPERUSER,
            password=self.kept.secret(_SUPERUSER),
            dbname="postgres",
            connect_timeout=2,
            autocommit=True,
        )

    def _initialise(self, password: str) -> None:
        """Create the data folder, whole or not at all."""
        place, account = self._place, self._account
        if self._data.exists():
            raise DevError(f"{self._data} is not a data folder of PostgreSQL. Remove it, and start again.")
        unfinished = place / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        descriptor, password_file = tempfile.mkstemp(dir=place)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(password)
            if account:
                account.own(unfinished)
                account.own(Path(password_file))
            # Independent of the machine's locales, which the builtin provider of 17 and later makes possible.
            if self._major >= 17:
                locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            else:
                locale = ["--locale=C.UTF-8"]
            self._run(
                [
                    str(self._programs / "initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={_SUPERUSER}",
                    "--auth=scram-sha-256",
                    f"--pwfile={password_file}",
                    "--encoding=UTF8",
                    "--no-sync",  # the server syncs what matters from its first start on
                    *locale,
                ],
                unfinished,
            )
        finally:
            with suppress(FileNotFoundError):
                os.unlink(password_file)
        os.rename(unfinished, self._data)

    def _run(self, command: list[str], folder: Path) -> str:
        account = self._account
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603
                command,
                cwd=folder,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                timeout=120,
                check=False,
            )
            output.seek(0)
            said = output.read().decode(errors="replace")
        if done.returncode != 0:
            raise DevError(f"{Path(command[0]).name} failed (exit code {done.returncode}):\n{said.strip()[-2000:]}")
        return said


def _programs_within_reach(programs: Path, account: Account) -> Path:
    """`programs`, or a copy of the whole installation that `account` can execute."""
    if account.can_enter(programs):
        return programs
    install = programs.parent
    libraries = install.parent.with_name(f"{install.parent.name}.libs")  # beside the wheel's package; RPATH leads there
    version = hashlib.sha256(f"{programs} {(programs / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:16]
    copy = _PROGRAMS_FOR_ALL / f"postgres-{version}"
    in_copy = copy / install.parent.name / install.name / programs.name
    if not in_copy.is_dir():
        _make_folder_for_all(_PROGRAMS_FOR_ALL)
        unfinished = Path(tempfile.mkdtemp(dir=_PROGRAMS_FOR_ALL))
        unfinished.chmod(0o755)
        shutil.copytree(install, unfinished / install.parent.name / install.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        (unfinished / install.parent.name).chmod(0o755)
        try:
            os.rename(unfinished, copy)
        except OSError:  # another process was faster, and its copy is as good
            shutil.rmtree(unfinished, ignore_errors=True)
    return in_copy


def _belongs_elsewhere(folder: Path) -> bool:
    return _place_of(folder) is not None and not (folder / "data").exists()


def _place_of(folder: Path) -> Path | None:
    """Where else its data lie; None if nowhere, or if what was there is gone."""
    with suppress(OSError):
        place = Path((folder / _PLACE).read_text(encoding="utf-8"))
        return place if place.is_dir() else None
    return None


def _place_for_all(folder: Path) -> Path:
    """A folder outside `folder` that belongs to it; those whose owner is gone are removed on the way."""
    _make_folder_for_all(_DATA_FOR_ALL)
    owner = folder / _PLACE
    for place in _DATA_FOR_ALL.iterdir():
        belongs_to = place / "belongs-to"
        with suppress(OSError):
            pointer = Path(belongs_to.read_text(encoding="utf-8"))
            if not pointer.exists() or pointer.read_text(encoding="utf-8") != str(place):
                shutil.rmtree(place, ignore_errors=True)
    if (known := _place_of(folder)) is not None:
        return known
    place = Path(tempfile.mkdtemp(dir=_DATA_FOR_ALL, prefix="postgres-"))
    place.chmod(0o711)
    write_private(owner, str(place))
    write_private(place / "belongs-to", str(owner))
    return place


def _make_folder_for_all(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
