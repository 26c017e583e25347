"""What will be started for a project in this environment, decided before anything is."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cauce.dev.errors import PortInUseError
from cauce.dev.ports import choose_port, holder_of, is_free
from cauce.errors import ConfigurationError, did_you_mean
from cauce.settings.broker_rights import BrokerRights
from cauce.settings.project import Project, expand

__all__ = ["BrokerUser", "Plan", "make_plan", "require_free_ports"]

_STORES = ("postgres", "sqlite")

# A server that somebody has named by one of these is theirs: it is used, not started.
_NAMED_BY = {
    "valkey": ("REDIS_URL", "REDIS_HOST", "REDIS_PORT"),
    "mail-sink": ("SMTP_HOST", "SMTP_PORT"),
}
# What a URL may call this machine, and where to try the port.
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::1": "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUser:
    """A service's own user at the broker."""

    name: str
    rights: BrokerRights


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`servers` to start; `elsewhere`: those named by hand, with the variable that does; `databases` to
    create on PostgreSQL and `files` for SQLite, each a variable with a name; `users` to make at the broker that is
    started, by the variable that gets the URL."""

    servers: tuple[str, ...]
    elsewhere: Mapping[str, str]
    users: Mapping[str, BrokerUser]
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
    users = _users(project, environment)
    elsewhere: dict[str, str] = {}
    servers: list[str] = []
    for server in project.servers:
        named = next((name for name in _NAMED_BY.get(server, ()) if environment.get(name)), None)
        if named:
            elsewhere[server] = named
        elif server == "postgres" and (store == "sqlite" or not wanted):
            if store != "sqlite":
                elsewhere[server] = "the …_DATABASE_URL variables"
        elif server == "valkey" and not users and any(spec.broker for spec in project.services.values()):
            elsewhere[server] = "the variables of the services' own users"
        else:
            servers.append(server)
    on_postgres = store == "postgres"
    return Plan(
        servers=tuple(servers),
        elsewhere=elsewhere,
        users=users if "valkey" in servers else {},
        databases=wanted if on_postgres else {},
        files={} if on_postgres else wanted,
    )


def _users(project: Project, environment: Mapping[str, str]) -> Mapping[str, BrokerUser]:
    return {
        spec.broker: BrokerUser(name=spec.database_name, rights=project.rights(spec, environment))
        for spec in project.services.values()
        if spec.broker and not environment.get(spec.broker)
    }


def require_free_ports(project: Project, environment: Mapping[str, str]) -> None:
    """Raise PortInUseError when a service's port is taken, with one line for each: who needs it, what to do.

    Raises ConfigurationError when two services want the same port or a URL cannot be read.
    """
    wanted: dict[int, _Port] = {}
    for port in _ports(project, environment):
        before = wanted.get(port.number)
        if before and before.service != port.service:
            raise ConfigurationError(
                [f"{before.service} and {port.service} both want port {port.number}."], where="the services"
            )
        if before is None or before.variable is None:
            wanted[port.number] = port
    lines: list[str] = []
    for port in wanted.values():
        if is_free(port.number, port.host):
            continue
        holder = holder_of(port.number)
        way_out = "Stop what listens there"
        if port.variable:
            way_out += f", or give {port.service} another port: {port.variable}={_free_after(port.number, wanted)}"
        lines.append(
            f"Port {port.number} is in use{f' by {holder}' if holder else ''}, and {port.service} needs it. {way_out}."
        )
    if lines:
        raise PortInUseError("\n".join(lines))


@dataclass(frozen=True, slots=True)
class _Port:
    service: str
    host: str
    number: int
    variable: str | None  # that chooses it


def _ports(project: Project, environment: Mapping[str, str]) -> Iterator[_Port]:
    """Every port on this machine that a service's URLs name."""
    for service in project.services.values():
        for template in (service.address, service.ready):
            if template is None:
                continue
            try:
                url = expand(template, environment)
                parts = urlsplit(url)
                host, number = parts.hostname, parts.port
            except KeyError as error:
                raise ConfigurationError(
                    [f"{service.name}: {template} needs the variable {error.args[0]}, which is not set."],
                    where="the environment",
                ) from None
            except ValueError as error:
                raise ConfigurationError(
                    [f"{service.name}: {template} cannot be read as a URL: {error}."], where="the environment"
                ) from None
            if host in _LOOPBACK and number:
                named = re.search(r":\$\{(\w+)\b[^}$]*\}(?:/|$)", template)
                yield _Port(service.name, _LOOPBACK[host], number, named[1] if named else None)


def _free_after(number: int, wanted: Collection[int]) -> int:
    for other in range(number + 1, 65_536):
        if other not in wanted and is_free(other):
            return other
    return choose_port()
