"""The settings of music-discovery-ms, from the environment."""

from pydantic import Field
from seedwork.settings import LOOPBACK, AllowedHosts, BrokerSettings, DatabaseUrl, LogSettings, RedisUrl, own_broker_url

__all__ = ["Settings"]


class Settings(BrokerSettings, LogSettings):
    redis_url: RedisUrl | None = own_broker_url("MUSIC_DISCOVERY_REDIS_URL")
    music_discovery_host: str = Field("127.0.0.1", description="the address the HTTP port is opened on")
    music_discovery_allowed_hosts: AllowedHosts = Field(
        LOOPBACK, description="the names clients may call it by (Host), separated by commas; * for any"
    )
    music_discovery_port: int = Field(3015, ge=1, le=65535, description="the HTTP port")
    music_discovery_health_port: int = Field(9015, ge=1, le=65535, description="the health port, on loopback")
    music_discovery_database_url: DatabaseUrl = Field(
        "sqlite+aiosqlite:///.cauce/data/music-discovery.sqlite",
        repr=False,
        description="this service's own database, as an SQLAlchemy URL",
    )
