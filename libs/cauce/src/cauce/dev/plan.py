"""What will be started for a project in this environment, decided before anything is."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cauce.dev.errors import PortInUseError
from cauce.dev.ports import choose_port, holder_of, is_free
from cauce.dev.project import Project, ServiceSpec, expand
from cauce.errors import ConfigurationError, did_you_mean

__all__ = ["Plan", "make_plan", "require_free_ports"]

_STORES = ("postgres", "sqlite")

# A server that somebody has named by one of these is theirs: it is used, not started.
_NAMED_BY = {
    "valkey": ("REDIS_URL", "REDIS_HOST", "REDIS_PORT"),
    "mail-sink": ("SMTP_HOST", "SMTP_PORT"),
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`servers` to start; `elsewhere`: those named by hand, with the variable that does; `databases` to
    create on PostgreSQL and `files` for SQLite, each a variable with a name."""

    servers: tuple[str, ...]
    elsewhere: Mapping[str, str]
    databases: Mapping[str, str]
    files: Mapping[str, str]


def make_plan(project: Project, environment: Mapping[str, str]) -> Plan:
    """Decide by the project and the environment. Raises ConfigurationError for a STORE that does not exist."""
    store = environment.get("STORE") or ("postgres" if "postgres" in project.servers else "sqlite")
    if store not in _STORES:
        raise ConfigurationError(
            [f"STORE={store}: not one of {', '.join(_STORES)}.{did_you_mean(store, _STORES)}"],
            where="the environment",
        )
    if store == "postgres" and "postgres" not in project.servers and environment.get("STORE"):
        raise ConfigurationError(
            ["STORE=postgres, but postgres is not among the servers of [tool.cauce.dev]. Add it there."],
            where="the environment",
        )
    wanted = {
        spec.database: spec.database_name
        for spec in project.services.values()
        if spec.database and not environment.get(spec.database)
    }
    elsewhere: dict[str, str] = {}
    servers: list[str] = []
    for server in project.servers:
        named = next((name for name in _NAMED_BY.get(server, ()) if environment.get(name)), None)
        if named:
            elsewhere[server] = named
        elif server == "postgres" and (store == "sqlite" or not wanted):
            if store != "sqlite":
                elsewhere[server] = "the …_DATABASE_URL variables"
        else:
            servers.append(server)
    on_postgres = store == "postgres"
    return Plan(
        servers=tuple(servers),
        elsewhere=elsewhere,
        databases=wanted if on_postgres else {},
        files={} if on_postgres else wanted,
    )


def require_free_ports(project: Project, environment: Mapping[str, str]) -> None:
    """Raise PortInUseError when a service's port is taken, with one line for each: who needs it, what to do.

    Raises ConfigurationError when two services want the same port or a URL cannot be read.
    """
    lines: list[str] = []
    wanted: dict[int, str] = {}
    ports = list(_ports(project, environment))
    taken = {port for _, _, port, _ in ports}
    for service, host, port, variable in ports:
        owner = wanted.setdefault(port, service.name)
        if owner != service.name:
            raise ConfigurationError([f"{owner} and {service.name} both want port {port}."], where="the services")
        if is_free(port, "127.0.0.1" if host in ("localhost", "0.0.0.0") else host):
            continue
        holder = holder_of(port)
        other = f", or give {service.name} another port: {variable}={_free_port_beside(taken)}" if variable else ""
        line = (
            f"Port {port} is in use{f' by {holder}' if holder else ''}, and {service.name} needs it. "
            f"Stop what listens there{other}."
        )
        if line not in lines:
            lines.append(line)
    if lines:
        raise PortInUseError("\n".join(lines))


def _ports(project: Project, environment: Mapping[str, str]) -> Iterator[tuple[ServiceSpec, str, int, str | None]]:
    """Every port on this machine that a service's URLs name, with the variable that chooses it."""
    for service in project.services.values():
        for template in (service.address, service.ready):
            if template is None:
                continue
            try:
                parts = urlsplit(expand(template, environment))
                host, port = parts.hostname, parts.port
            except KeyError as error:
                raise ConfigurationError(
                    [f"{service.name}: {template} needs the variable {error.args[0]}, which is not set."],
                    where="the environment",
                ) from None
            except ValueError as error:
                raise ConfigurationError(
                    [f"{service.name}: {expand(template, environment)}: {error}."], where="the environment"
                ) from None
            if host in _LOOPBACK and port:
                named = re.search(r":\$\{(\w+)[^}]*\}(?:/|$)", template)
                yield service, host, port, named[1] if named else None


def _free_port_beside(taken: set[int]) -> int:
    candidates = range(max(taken) + 1, 65_536)
    return next((port for port in candidates if is_free(port)), choose_port())
