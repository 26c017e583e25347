"""A broker opened from outside, by its URL: for people who look at what it holds, or set it right."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from cauce.admin.targets import Broker
from cauce.errors import ConfigurationError
from cauce.ports.topics import Inspectable
from cauce.transports.redis.topics import RedisTopics

__all__ = ["open_broker"]


@asynccontextmanager
async def open_broker(broker: Broker, *, prefix: str | None = None) -> AsyncGenerator[Inspectable]:
    """Connects when first asked. Raises ConfigurationError for a URL that cannot be read.

    `prefix` separates systems on one broker; the usual one by default.
    """
    hint = f"is it running? ({broker.origin})"
    try:
        topics = (
            RedisTopics(broker.url, if_down=hint)
            if not prefix
            else RedisTopics(broker.url, prefix=prefix, if_down=hint)
        )
    except ConfigurationError as error:
        raise ConfigurationError(error.problems, where=broker.origin) from None
    try:
        yield topics
    finally:
        topics.close()
