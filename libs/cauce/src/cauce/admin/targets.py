"""Which service a command is about, and where its database and its broker are.

As in `cauce config`: a service is a table of the project, `[tool.cauce.dev.services.NAME]` of the nearest
pyproject.toml; its `database = "…_DATABASE_URL"` names the variable, whose value comes from the environment, else
from `.cauce/dev.env`, else from the default in the service's settings. The broker is REDIS_URL, or REDIS_HOST,
REDIS_PORT and REDIS_PASS, whose user is the operators'; only where none of them is set is it the service's own, its
`broker = "…_REDIS_URL"`. Anything else is named by its URL.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from cauce.errors import ConfigurationError, did_you_mean
from cauce.settings.declared import resolve
from cauce.settings.loading import value_of
from cauce.settings.project import Project, ServiceSpec, expand, project_settings

__all__ = ["Broker", "Target", "broker_of_project", "find_targets"]

_ASYNC = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite+aiosqlite"}
_NOT_SET = "default"
_EXPECTED = "expected postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """`origin`: the variable that named it, and where that is set. The URL holds the password."""

    url: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A service as a command finds it. `name` is what people here call it; its own name is in its database."""

    name: str
    database: URL
    origin: str
    broker: Broker

    @property
    def typed(self) -> str:
        """The words after a command that mean this service."""
        return "--database-url …" if self.origin == "--database-url" else self.name

    @property
    def option(self) -> str:
        """The same for a command whose words are something else, as ids."""
        return self.typed if self.origin == "--database-url" else f"--service {self.name}"

    @property
    def database_label(self) -> str:
        """The database for people: no user, no password."""
        if self.database.get_backend_name() == "sqlite":
            path = str(self.database.database)
            return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
        return f"{self.database.host or 'localhost'}:{self.database.port or 5432}/{self.database.database}"


def find_targets(
    names: Sequence[str] = (),
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Sequence[Target]:
    """The services of these names, or all of the project that have a database. Never empty.

    Raises ConfigurationError with everything that is wrong: no project, an unknown name (with the nearest), a service
    without a database, a variable without a value.
    """
    environ = os.environ if environ is None else environ
    folder = folder or Path.cwd()
    if database_url is not None:
        return [_target_by_url(names, database_url, redis_url, environ, folder)]
    project = _project(folder)
    problems = [
        f"no service {name!r} in the project.{did_you_mean(name, project.services)} It has {', '.join(project.services)}."
        for name in names
        if name not in project.services
    ]
    if problems:
        raise ConfigurationError(problems, where="the command line")
    targets: list[Target] = []
    for name in names or project.services:
        spec = project.services[name]
        if spec.database is None:
            if names:
                problems.append(
                    f'{name} has no database in pyproject.toml: database = "{name.upper().replace("-", "_")}_DATABASE_URL"'
                )
            continue
        try:
            targets.append(_target(spec, spec.database, project, redis_url, environ))
        except ConfigurationError as error:
            problems += error.problems
    if not problems and not targets:
        problems = [
            'no service of the project has a database. Say database = "…_DATABASE_URL" in its table, or --database-url'
        ]
    if problems:
        raise ConfigurationError(problems)
    return targets


def _target_by_url(
    names: Sequence[str], database_url: str, redis_url: str | None, environ: Mapping[str, str], folder: Path
) -> Target:
    if len(names) > 1:
        raise ConfigurationError(
            ["--database-url is one database; name one service, or none"], where="the command line"
        )
    url = _database_url(database_url, folder, where="--database-url")
    name = names[0] if names else str(url.database).rpartition("/")[2]
    broker = broker_of_project(redis_url=redis_url, environ=environ, folder=folder)
    return Target(name=name, database=url, origin="--database-url", broker=broker)


def broker_of_project(
    *,
    redis_url: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Broker:
    """The broker everybody here uses: `redis_url`, REDIS_URL, or REDIS_HOST, REDIS_PORT and REDIS_PASS."""
    if redis_url is not None:
        return Broker(url=redis_url, origin="--redis-url")
    found = {
        name: value
        for name in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASS")
        if (value := value_of(name, environ=environ, folder=folder))
    }
    if "REDIS_URL" in found:
        url, origin = found["REDIS_URL"]
        return Broker(url=url, origin=f"REDIS_URL ({origin})")
    password = f":{quote(found['REDIS_PASS'][0], safe='')}@" if "REDIS_PASS" in found else ""
    host = found["REDIS_HOST"][0] if "REDIS_HOST" in found else "localhost"
    port = found["REDIS_PORT"][0] if "REDIS_PORT" in found else "6379"
    origin = next((f"{name} ({origin})" for name, (_, origin) in found.items()), _NOT_SET)
    return Broker(url=f"redis://{password}{f'[{host}]' if ':' in host else host}:{port}", origin=origin)


def _project(folder: Path) -> Project:
    try:
        return Project.find(folder)
    except ConfigurationError as error:
        if any("[tool.cauce.dev]" in problem for problem in error.problems) and len(error.problems) == 1:
            raise ConfigurationError(
                ["no pyproject.toml here or above has a [tool.cauce.dev] table. Go there, or say --database-url URL"],
                where=str(folder),
            ) from None
        raise


def _target(
    spec: ServiceSpec, variable: str, project: Project, redis_url: str | None, environ: Mapping[str, str]
) -> Target:
    # As `cauce dev` does it: a variable set by hand wins over the service's own `env`, which wins over the state file.
    own = {name: expand(text, environ) for name, text in _expandable(spec.env, environ) if not environ.get(name)}
    merged = {**environ, **own}
    found = value_of(variable, environ=merged, folder=project.root)
    if found is None:
        found = value_of(variable, settings=_settings_of(spec.name, project.root), environ=merged, folder=project.root)
    if found is None:
        raise ConfigurationError(
            [f"{spec.name}: {variable} is not set. Set it, start `cauce dev`, or name a database with --database-url"]
        )
    value, origin = found
    return Target(
        name=spec.name,
        database=_database_url(value, project.root, where=variable),
        origin=f"{variable} ({origin})",
        broker=_broker(spec, project, redis_url, merged),
    )


def _broker(spec: ServiceSpec, project: Project, redis_url: str | None, environ: Mapping[str, str]) -> Broker:
    broker = broker_of_project(redis_url=redis_url, environ=environ, folder=project.root)
    if (
        broker.origin == _NOT_SET
        and spec.broker
        and (own := value_of(spec.broker, environ=environ, folder=project.root))
    ):
        url, origin = own
        return Broker(url=url, origin=f"{spec.broker} ({origin})")
    return broker


def _expandable(env: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, text in env.items():
        try:
            expand(text, environ)
        except KeyError:
            continue  # `cauce dev` will say so; this command may not need it
        yield name, text


def _settings_of(service: str, root: Path) -> type[BaseModel] | None:
    try:
        target = project_settings(root).get(service)
        return resolve(target) if target else None
    except ConfigurationError:
        return None  # the service is not installed here


def _database_url(text: str, root: Path, *, where: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError([f"{where} cannot be read as a database URL: {_EXPECTED}"]) from None
    backend = url.drivername.partition("+")[0]
    if backend not in _ASYNC:
        raise ConfigurationError([f"{where} names a database of the kind {backend!r}: {_EXPECTED}"])
    url = url.set(drivername=_ASYNC[backend])
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigurationError([f"{where} is a database in memory, which only its own process can see"])
        url = url.set(database=str((root / url.database).absolute()))
    return url
