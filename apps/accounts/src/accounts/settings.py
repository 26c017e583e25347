"""The settings of accounts-ms, from the environment."""

from pydantic import Field
from seedwork.settings import LOOPBACK, AllowedHosts, BrokerSettings, DatabaseUrl, LogSettings, RedisUrl, own_broker_url

__all__ = ["Settings"]


class Settings(BrokerSettings, LogSettings):
    redis_url: RedisUrl | None = own_broker_url("ACCOUNTS_REDIS_URL")
    accounts_host: str = Field("127.0.0.1", description="where HTTP is served")
    accounts_allowed_hosts: AllowedHosts = Field(
        LOOPBACK, description="the names clients may call it by (Host), separated by commas; * for any"
    )
    accounts_port: int = Field(3013, ge=1, le=65535, description="the port of HTTP")
    accounts_health_port: int = Field(9013, ge=1, le=65535, description="health and counters, on loopback")
    accounts_database_url: DatabaseUrl = Field(
        "sqlite+aiosqlite:///.cauce/data/accounts.sqlite", repr=False, description="the database of accounts-ms"
    )
    accounts_hashing_memory_mib: int = Field(
        128, ge=19, le=65536, description="memory for hashing passwords, 19 MiB for each one at a time"
    )
