"""What `[tool.cauce.dev]` of a pyproject.toml says: which servers, which services.

    [tool.cauce.dev]
    servers = ["valkey", "postgres", "mail-sink"]      # default: none
    ready_within_s = 60                                # how long a service may take to become ready
    grace_s = 10                                       # how long it may take to stop
    pubsub_if = "EVENTS_TRANSPORT=redis-pubsub"        # when the services use Pub/Sub, and no topics
    bridge_if = "NEST_BRIDGE=on"                       # when they join NestJS's Pub/Sub to their topics

    [tool.cauce.dev.services.accounts]
    command  = "python -m accounts"                    # run in the folder of pyproject.toml, by no shell
    ready    = "http://127.0.0.1:${ACCOUNTS_HEALTH_PORT:-9013}/health/ready"   # 200 when ready
    address  = "http://127.0.0.1:${ACCOUNTS_PORT:-3013}"                       # for the table
    database = "ACCOUNTS_DATABASE_URL"                 # the variable that gets the URL of its own database
    broker   = "ACCOUNTS_REDIS_URL"                    # the one that gets the broker's, with a user of its own
    source   = "accounts-ms"                           # its name, for that user's rights
    hears    = ["music-discovery-ms"]                  # the services whose events it hears, for the same
    env      = { LOG_LEVEL = "DEBUG" }                 # further variables; those set by hand win
    settings = "accounts.settings:Settings"            # for `cauce config`

`${NAME}` and `${NAME:-default}` in `ready`, `address` and `env` are taken from the environment.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cauce.errors import ConfigurationError, did_you_mean
from cauce.settings.broker_rights import BrokerRights
from cauce.settings.pyproject import DEV_TABLE, as_table, dev_table, documents, parse, places, project_name

__all__ = ["SERVERS", "Condition", "Project", "ServiceSpec", "expand", "project_settings"]

SERVERS = ("valkey", "postgres", "mail-sink")

_PROJECT_KEYS = ("servers", "services", "ready_within_s", "grace_s", "pubsub_if", "bridge_if")
_SERVICE_KEYS = ("command", "ready", "address", "database", "broker", "source", "hears", "env", "settings")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-((?:[^}$]|\$(?!\{))*))?\}")
_SERVICE_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_OPERATOR_OF_BROKER = "default"
_OPERATOR_OF_DATABASE = "postgres"
_SOURCE = re.compile(r"[A-Za-z0-9._-]+")

_EXAMPLE = """\
    [tool.cauce.dev]
    servers = ["valkey"]

    [tool.cauce.dev.services.hello]
    command = "python hello.py"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """That a variable has this value."""

    variable: str
    value: str

    def holds(self, environment: Mapping[str, str]) -> bool:
        return environment.get(self.variable) == self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One service as the project describes it; the texts still hold their `${…}`."""

    name: str
    command: tuple[str, ...]
    ready: str | None = None
    address: str | None = None
    database: str | None = None
    broker: str | None = None
    source: str | None = None
    hears: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def database_name(self) -> str:
        """The name of its database, of the role that owns it, and of its user at the broker."""
        return self.name.replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with a pyproject.toml that has a `[tool.cauce.dev]` table."""

    root: Path
    name: str
    servers: tuple[str, ...] = ()
    services: Mapping[str, ServiceSpec] = field(default_factory=dict[str, ServiceSpec])
    ready_within_s: float = 60.0
    grace_s: float = 10.0
    pubsub_if: Condition | None = None
    bridge_if: Condition | None = None

    def rights(self, spec: ServiceSpec, environment: Mapping[str, str]) -> BrokerRights:
        """What the service's user may do at the broker, in this environment.

        Channels of Pub/Sub are whoever's speaks in them, so there they are all of them. A bridge hears its service's own
        topic to tell NestJS of it, and writes what NestJS says into the topics that the service hears.
        """
        given = {**spec.env, **environment}
        own = [spec.source] if spec.source else []
        if self.pubsub_if and self.pubsub_if.holds(given):
            return BrokerRights(channels=("*",))
        if self.bridge_if and self.bridge_if.holds(given):
            return BrokerRights(writes=(*own, *spec.hears), hears=(*own, *spec.hears), channels=("*",))
        return BrokerRights(writes=own, hears=spec.hears)

    @property
    def folder(self) -> Path:
        """Where data, logs and the state file are kept."""
        return self.root / ".cauce"

    @classmethod
    def find(cls, start: Path) -> "Project":
        """The nearest one from `start` upward. Raises ConfigurationError with all that is wrong in it."""
        for file, document in documents(start):
            if dev_table(document) is not None:
                return cls.read(file)
        raise ConfigurationError(
            ["no pyproject.toml with a [tool.cauce.dev] table, so nothing to start. For example:\n\n" + _EXAMPLE],
            where=f"{start.resolve()} and the folders above it",
        )

    @classmethod
    def read(cls, file: Path) -> "Project":
        """What this file says. Raises ConfigurationError with every problem, each with its line."""
        document = parse(file)
        table = dev_table(document)
        reading = _Reading(file)
        if table is None:
            raise ConfigurationError([f"{file.name} has no [tool.cauce.dev] table."], where=str(file))
        reading.refuse_unknown_keys(table, _PROJECT_KEYS, DEV_TABLE)
        servers = reading.servers(table)
        services = reading.services(table)
        ready_within_s = reading.seconds(table, "ready_within_s", 60.0)
        grace_s = reading.seconds(table, "grace_s", 10.0)
        pubsub_if, bridge_if = reading.condition(table, "pubsub_if"), reading.condition(table, "bridge_if")
        if reading.problems:
            raise ConfigurationError(reading.problems, where=file.name)
        return cls(
            root=file.resolve().parent,
            name=project_name(document) or file.resolve().parent.name,
            servers=servers,
            services=services,
            ready_within_s=ready_within_s,
            grace_s=grace_s,
            pubsub_if=pubsub_if,
            bridge_if=bridge_if,
        )


def project_settings(folder: Path | None = None) -> dict[str, str]:
    """The `module:Class` of every service of the project around `folder`, by the service's name.

    From `[tool.cauce.dev.services.NAME] settings = "module:Class"` in the nearest pyproject.toml with such a
    table; empty without one. Raises ConfigurationError when that file is not TOML.
    """
    for _, document in documents(folder or Path.cwd(), where="the configuration"):
        services = as_table((dev_table(document) or {}).get("services"))
        if services:
            found = {name: (as_table(service) or {}).get("settings") for name, service in services.items()}
            return {name: target for name, target in found.items() if isinstance(target, str)}
    return {}


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace `${NAME}` and `${NAME:-default}`. Raises KeyError with the name of a variable that is not set.

    As in a shell, the default also stands in for an empty variable.
    """

    def value(found: re.Match[str]) -> str:
        name, default = found[1], cast("str | None", found[2])
        if default is None:
            return environment[name]
        return environment.get(name) or default

    return _REFERENCE.sub(value, text)


class _Reading:
    """Reads one file and collects what is wrong, so that everything is reported at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places = dict(places(file.read_text(encoding="utf-8").splitlines()))
        self.problems: list[str] = []

    def problem(self, path: tuple[str, ...], text: str) -> None:
        self.problems.append(f"{self._file.name}:{self._line(path)}: {text}")

    def refuse_unknown_keys(self, table: Mapping[str, object], valid: Iterable[str], path: tuple[str, ...]) -> None:
        known = sorted(valid)
        for key in table:
            if key not in known:
                self.problem(
                    (*path, key),
                    f"unknown key {key!r} in [{'.'.join(path)}]. Valid: {', '.join(known)}.{did_you_mean(key, known)}",
                )

    def servers(self, table: Mapping[str, object]) -> tuple[str, ...]:
        given = table.get("servers", [])
        path = (*DEV_TABLE, "servers")
        if not isinstance(given, list):
            self.problem(path, f'servers = {given!r}: expected a list, as in ["valkey"].')
            return ()
        names: list[str] = []
        for name in cast("list[object]", given):
            if name not in SERVERS:
                self.problem(
                    path,
                    f"unknown server {name!r}. Valid: {', '.join(SERVERS)}.{did_you_mean(str(name), SERVERS)}",
                )
            elif name in names:
                self.problem(path, f"server {name!r} is there twice.")
            else:
                names.append(str(name))
        return tuple(names)

    def services(self, table: Mapping[str, object]) -> dict[str, ServiceSpec]:
        path = (*DEV_TABLE, "services")
        given = as_table(table.get("services", {}))
        if given is None:
            self.problem(path, "services: expected tables, as in [tool.cauce.dev.services.accounts].")
            return {}
        services: dict[str, ServiceSpec] = {}
        owners: dict[str, str] = {}
        users: dict[str, str] = {}
        for name, value in given.items():
            spec = self._service(name, value, (*path, name))
            if spec is None:
                continue
            services[name] = spec
            taken = users.setdefault(spec.database_name, name) != name
            if (
                taken
                or (spec.broker and name == _OPERATOR_OF_BROKER)
                or (spec.database and name == _OPERATOR_OF_DATABASE)
            ):
                self.problem((*path, name), f"{name}: another user is called {spec.database_name}. Call it otherwise.")
            for key, variable in (("database", spec.database), ("broker", spec.broker)):
                owner = owners.setdefault(variable, name) if variable else name
                if owner != name:
                    what = "the database" if key == "database" else "the user at the broker"
                    self.problem(
                        (*path, name, key), f"{variable} is {what} of {owner} already; every service has its own."
                    )
        return services

    def seconds(self, table: Mapping[str, object], key: str, default: float) -> float:
        value = table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            self.problem((*DEV_TABLE, key), f"{key} = {value!r}: expected a number of seconds above 0.")
            return default
        return float(value)

    def condition(self, table: Mapping[str, object], key: str) -> Condition | None:
        text = self._text(table, key, DEV_TABLE)
        if text is None:
            return None
        variable, equals, wanted = text.partition("=")
        if not (equals and wanted and _VARIABLE.fullmatch(variable)):
            self.problem((*DEV_TABLE, key), f'{key} = {text!r}: expected a variable and its value, as in "NAME=on".')
        return Condition(variable=variable, value=wanted)

    def _service(self, name: str, value: object, path: tuple[str, ...]) -> ServiceSpec | None:
        table = as_table(value)
        if table is None:
            self.problem(path, f"{name}: expected a table with a command.")
            return None
        before = len(self.problems)
        self.refuse_unknown_keys(table, _SERVICE_KEYS, path)
        if not _SERVICE_NAME.fullmatch(name):
            self.problem(path, f"service name {name!r}: use a-z, 0-9, - and _, beginning with a letter.")
        command = self._command(table, path, name)
        ready, address = (self._url(table, key, path) for key in ("ready", "address"))
        database = self._variable(table, "database", path, f"{_capitals(name)}_DATABASE_URL")
        broker = self._variable(table, "broker", path, f"{_capitals(name)}_REDIS_URL")
        source, hears = self._source(table, path), self._hears(table, path)
        if broker and "source" not in table:
            self.problem((*path, "broker"), f'{name} has a broker and no source, as in source = "{name}-ms".')
        self._text(table, "settings", path)
        env = self._env(table, path)
        if len(self.problems) > before:
            return None
        return ServiceSpec(
            name=name,
            command=command,
            ready=ready,
            address=address,
            database=database,
            broker=broker,
            source=source,
            hears=hears,
            env=env,
        )

    def _variable(self, table: Mapping[str, object], key: str, path: tuple[str, ...], example: str) -> str | None:
        name = self._text(table, key, path)
        if name is not None and not _VARIABLE.fullmatch(name):
            self.problem(
                (*path, key),
                f'{key} = {name!r}: expected the name of an environment variable, as in "{example}".',
            )
        return name

    def _source(self, table: Mapping[str, object], path: tuple[str, ...]) -> str | None:
        source = self._text(table, "source", path)
        if source is not None and not _SOURCE.fullmatch(source):
            self.problem((*path, "source"), f"source = {source!r}: use letters, digits, dots, - and _.")
        return source

    def _hears(self, table: Mapping[str, object], path: tuple[str, ...]) -> tuple[str, ...]:
        given = table.get("hears", [])
        names = cast("list[object]", given) if isinstance(given, list) else [None]
        if not all(isinstance(name, str) and _SOURCE.fullmatch(name) for name in names):
            self.problem((*path, "hears"), f'hears = {given!r}: expected names of services, as in ["accounts-ms"].')
            return ()
        return tuple(str(name) for name in names)

    def _command(self, table: Mapping[str, object], path: tuple[str, ...], name: str) -> tuple[str, ...]:
        text = self._text(table, "command", path)
        if text is None:
            if all(key in _SERVICE_KEYS for key in table) and "command" not in table:  # else it is misspelt
                self.problem(path, f'{name} has no command, as in command = "python -m {name}".')
            return ()
        try:
            words = tuple(shlex.split(text))
            operator = _shell_operator(text)
        except ValueError as error:
            self.problem((*path, "command"), f"command = {text!r}: {error}.")
            return ()
        if operator:
            self.problem(
                (*path, "command"),
                f"command = {text!r}: no shell reads it, so {operator!r} would be passed on as a word. Write a program "
                "and its arguments, or name a shell yourself, as in command = \"sh -c 'first && exec second'\".",
            )
            return ()
        if not words:
            self.problem((*path, "command"), "command is empty.")
        return words

    def _url(self, table: Mapping[str, object], key: str, path: tuple[str, ...]) -> str | None:
        text = self._text(table, key, path)
        if text is not None and not text.startswith(("http://", "https://")):
            self.problem((*path, key), f'{key} = {text!r}: expected a URL, as in "http://127.0.0.1:8000/ready".')
        return text

    def _text(self, table: Mapping[str, object], key: str, path: tuple[str, ...]) -> str | None:
        value = table.get(key)
        if value is None or isinstance(value, str):
            return value
        self.problem((*path, key), f"{key} = {value!r}: expected a text in quotes.")
        return None

    def _env(self, table: Mapping[str, object], path: tuple[str, ...]) -> dict[str, str]:
        given = as_table(table.get("env", {}))
        if given is None:
            self.problem((*path, "env"), 'env: expected a table, as in env = { LOG_LEVEL = "DEBUG" }.')
            return {}
        for name, value in given.items():
            if not _VARIABLE.fullmatch(name) or not isinstance(value, str):
                self.problem((*path, "env"), f"env: {name} = {value!r}: expected a variable and a text in quotes.")
        return {name: str(value) for name, value in given.items()}

    def _line(self, path: tuple[str, ...]) -> int:
        """The line where `path` is written, or else the nearest table around it."""
        while path:
            if path in self._places:
                return self._places[path]
            path = path[:-1]
        return 1


def _capitals(name: str) -> str:
    return name.upper().replace("-", "_")


# Quoted and escaped pieces of a command; an operator inside them is an argument like any.
_QUOTED = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
# At an edge of a word, so that the & of an address is none; && and || anywhere.
_OPERATOR = re.compile(r"(?:^|(?<=\s))\d*([&|;<>]+)|(?<![&|;<>])([&|;<>]+)(?=\s|$)|(&&|\|\|)")


def _shell_operator(text: str) -> str | None:
    """The first unquoted operator of a shell in `text`; None without one."""
    found = _OPERATOR.search(_QUOTED.sub("x", text))
    return next(filter(None, found.groups())) if found else None
