"""The settings every service has, and the one function that chooses the transport from them.

A service's own settings inherit from these and are read by `cauce.settings.load`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote, urlsplit

from cauce import IntegrationEvent, NestBridge
from cauce.ports.transport import DurableTransport, Transport
from cauce.settings.this_machine import is_this_machine
from cauce.settings.tls_files import problems_of_url
from cauce.transports.memory import MemoryTransport
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

__all__ = [
    "LOOPBACK",
    "AllowedHosts",
    "BrokerSettings",
    "DatabaseUrl",
    "LogSettings",
    "RedisUrl",
    "bridge_from",
    "hosts_of",
    "own_broker_url",
    "transport_from",
]

TRANSPORTS: Final = ("redis-streams", "redis-pubsub", "memory")
NOT_YET: Final = ("nats", "rabbitmq")
IF_DOWN: Final = "start it (make infra), or correct REDIS_HOST, REDIS_PORT and REDIS_PASS"


def _transport(value: str) -> str:
    if value in TRANSPORTS:
        return value
    if value in NOT_YET:
        raise ValueError(f"not yet; there are {', '.join(TRANSPORTS)}")
    nearest = get_close_matches(value, TRANSPORTS, n=1)
    raise ValueError(f"not one of {', '.join(TRANSPORTS)}." + (f" Did you mean {nearest[0]}?" if nearest else ""))


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://")):
        raise ValueError("expected redis://[:password@]host:port, or rediss:// for TLS")
    return _with_its_files(value)


RedisUrl = Annotated[str, AfterValidator(_redis_url)]
"""The broker's address, with the user and the password."""


def own_broker_url(variable: str) -> Any:
    """What a service's settings say of `redis_url`: its own user at the broker, else the one that REDIS_URL names."""
    return Field(
        None,
        repr=False,
        validation_alias=AliasChoices(variable, "REDIS_URL"),
        description="the broker, with a user of this service's own; else REDIS_URL",
    )


def _database_url(value: str) -> str:
    expected = "expected sqlite+aiosqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError(expected) from None
    if url.drivername in ("postgresql", "postgres"):
        raise ValueError("name the driver: postgresql+psycopg://…")
    if url.drivername == "sqlite":
        raise ValueError("name the driver: sqlite+aiosqlite:///FILE")
    if url.drivername not in ("sqlite+aiosqlite", "postgresql+psycopg"):
        raise ValueError(expected)
    return _with_its_files(value)


def _with_its_files(url: str) -> str:
    if problems := [*problems_of_url(url)]:
        raise ValueError("; ".join(problems))
    return url


DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
"""A SQLAlchemy URL of one of the two databases, with an asyncio driver."""


def _hosts(value: str) -> str:
    hosts = [host.strip() for host in value.split(",")]
    if not all(hosts) or any("/" in host or " " in host for host in hosts):
        raise ValueError("expected names or addresses without ports, separated by commas, or * for any")
    return ",".join(hosts)


AllowedHosts = Annotated[str, AfterValidator(_hosts)]
"""By which names a service is called, separated by commas; see `hosts_of`."""

LOOPBACK: Final = "localhost,127.0.0.1,::1"


def hosts_of(allowed: str, host: str) -> list[str]:
    """The names in `allowed`, and the address that is listened on."""
    return [*allowed.split(","), host]


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class LogSettings(BaseSettings):
    log_format: Literal["console", "json"] = Field("console", description="console for people, json for machines")
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)] = Field(
        "INFO", description="the least level that is logged"
    )


class BrokerSettings(BaseSettings):
    """The article's names (REDIS_HOST, REDIS_PORT, REDIS_PASS); REDIS_URL overrides the three. A service has a variable of
    its own that overrides them all, see `own_broker_url`."""

    redis_host: str = Field("localhost", description="the broker's host")
    redis_port: int = Field(6379, ge=1, le=65535, description="the broker's port")
    redis_pass: SecretStr | None = Field(None, description="the broker's password")
    redis_url: RedisUrl | None = Field(
        None, repr=False, description="overrides host, port and password; rediss:// for TLS"
    )
    events_transport: Annotated[str, AfterValidator(_transport)] = Field(
        "redis-streams",
        description="how integration events travel: redis-streams (durable), redis-pubsub (the article's, at most once), "
        "memory (one process)",
    )

    nest_bridge: Literal["off", "on"] = Field(
        "off", description="on: NestJS services on Pub/Sub take part beside redis-streams, hearing and speaking"
    )

    @model_validator(mode="after")
    def _bridge_needs_two_banks(self) -> Self:
        if self.nest_bridge == "on" and self.events_transport != "redis-streams":
            already = " (which NestJS hears without a bridge)" if self.events_transport == "redis-pubsub" else ""
            raise ValueError(
                "NEST_BRIDGE=on joins NestJS to redis-streams, and EVENTS_TRANSPORT is "
                f"{self.events_transport}{already}: change one of the two"
            )
        return self

    @model_validator(mode="after")
    def _no_password_travels_readable(self) -> Self:
        url = urlsplit(self.broker_url)
        if url.scheme == "redis" and url.password and not is_this_machine(url.hostname or "localhost"):
            alias = type(self).model_fields["redis_url"].validation_alias
            names = " or ".join(map(str, alias.choices)) if isinstance(alias, AliasChoices) else "REDIS_URL"
            raise ValueError(
                f"{names if self.redis_url else 'REDIS_PASS'} would send the broker's password, and every event, "
                f"readable to {url.hostname}: set {names} to rediss://… (TLS)"
            )
        return self

    @property
    def broker_url(self) -> str:
        """The broker's address, password included: for connecting, not for showing."""
        if self.redis_url:
            return self.redis_url
        password = f":{quote(self.redis_pass.get_secret_value(), safe='')}@" if self.redis_pass else ""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{password}{host}:{self.redis_port}"


def transport_from(
    settings: BrokerSettings, nest_names: Mapping[type[IntegrationEvent], str]
) -> Transport | DurableTransport:
    """The transport these settings name (the article's `getMicroserviceOptions()`). Connects to nothing.

    `nest_names`: under which name a NestJS peer of the article hears an event, where that is not its own.
    """
    if settings.events_transport == "memory":
        return MemoryTransport()
    # Their driver is needed only here.
    if settings.events_transport == "redis-streams":
        from cauce.transports.redis_streams import RedisStreams

        return RedisStreams(settings.broker_url, if_down=IF_DOWN)
    from cauce.transports.redis_pubsub import RedisPubSub

    return RedisPubSub(settings.broker_url, nest_names=nest_names, if_down=IF_DOWN)


def bridge_from(settings: BrokerSettings, nest_names: Mapping[type[IntegrationEvent], str]) -> NestBridge | None:
    """The bridge to NestJS services, if these settings ask for one. Connects to nothing. `nest_names` as above."""
    if settings.nest_bridge == "off":
        return None
    from cauce.transports.redis_pubsub import RedisPubSub

    return NestBridge(RedisPubSub(settings.broker_url, nest_names=nest_names, durable=True, if_down=IF_DOWN))
