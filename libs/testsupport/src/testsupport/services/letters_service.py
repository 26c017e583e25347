"""A small service as a newcomer would write it, and make mistakes in: `import letters_service; letters_service.main()`.

It hears `accounts.opened` over Redis and publishes a domain event when asked to by `LETTERS_MISTAKE`.
"""

import asyncio
import os
import sys
from typing import Literal

from cauce import ConfigurationError, IntegrationEvent, Service, on
from cauce.hosting import EXIT_CONFIGURATION, run
from cauce.listeners.retry import Retry
from cauce.settings import load
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory import MemoryTransport
from cauce.transports.redis_pubsub import RedisPubSub
from cauce.transports.redis_streams import RedisStreams
from pydantic import SecretStr
from pydantic_settings import BaseSettings


class AccountOpened(IntegrationEvent, name="accounts.opened", version=1, key="id", source="accounts"):
    id: str
    email: str


class LetterSent(IntegrationEvent, name="letters.sent", version=1, source="letters"):
    to: str


class Settings(BaseSettings):
    redis_url: SecretStr = SecretStr("redis://localhost:6379")
    events_transport: Literal["redis-pubsub", "redis-streams", "memory"] = "redis-pubsub"
    letters_database: str = ""
    letters_health_port: int = 9000


class Mailer:
    async def send(self, to: str) -> None:
        await asyncio.sleep(0)
        if to.endswith("@nowhere.example"):
            raise RuntimeError("smtp said no")
        print(f"sent to {to}", flush=True)


mailer = Mailer()


@on(AccountOpened, retry=Retry(attempts=3, base=0.05, cap=0.05))
async def welcome(event: AccountOpened) -> None:
    await mailer.send(event.email)


def main() -> None:
    listeners: list[object] = [welcome]
    if os.environ.get("LETTERS_MISTAKE") == "a name nobody bears":

        @on("accounts.opend", kind=IntegrationEvent, name="letters.goodbye")
        async def goodbye(event: IntegrationEvent) -> None: ...

        listeners.append(goodbye)
    try:
        settings = load(Settings)
        url = settings.redis_url.get_secret_value()
        if settings.events_transport == "redis-streams":
            store = SqlAlchemyStore(create_engine(settings.letters_database))
            service = Service(
                "letters",
                version="2.0",
                modules=listeners,
                store=store,
                transport=RedisStreams(url),
                start="retained",
                publishes=[LetterSent],
            )
        else:
            redis = settings.events_transport == "redis-pubsub"
            service = Service("letters", modules=listeners, transport=RedisPubSub(url) if redis else MemoryTransport())
    except ConfigurationError as error:
        sys.stderr.write(f"letters: {error}\n")
        sys.exit(EXIT_CONFIGURATION)
    sys.exit(run(service, health_port=settings.letters_health_port))
