"""Confirms orders: one row for each in its own database. An address may be wrong; the mail server may be away."""

import asyncio
import sys
from os import environ
from pathlib import Path

from cauce import Reject, Retry, Service, on
from cauce.hosting import run
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from demo.crash.events import OrderPlaced

__all__ = ["MAIL_SERVER_IS_AWAY"]

MAIL_SERVER_IS_AWAY = Path("the-mail-server-is-away")
"""As long as this file exists."""


class MailServerError(Exception):
    """Nobody took the mail; somebody may later."""


def hand_over_mail(to: str) -> None:
    if "@" not in to:
        raise Reject(f"{to!r} is no address")
    if MAIL_SERVER_IS_AWAY.exists():
        raise MailServerError("no answer from the mail server")


@on(OrderPlaced, name="mail.confirm", retry=Retry(attempts=100, base=2.0, cap=4.0))
async def confirm(event: OrderPlaced, session: AsyncSession) -> None:
    hand_over_mail(event.email)
    # No unique key: an effect that happened twice would be there twice.
    await session.execute(text("INSERT INTO confirmation VALUES (:order)"), {"order": event.order})


async def make_table(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE IF NOT EXISTS confirmation (order_no text)"))
    await engine.dispose()


def main() -> int:
    engine = create_engine(environ["MAIL_DATABASE_URL"])
    asyncio.run(make_table(engine))
    service = Service(
        "mail",
        modules=[confirm],
        store=SqlAlchemyStore(engine),
        transport=RedisStreams(environ["MAIL_REDIS_URL"]),
        start="retained",
    )
    return run(service, health_port=int(environ["MAIL_HEALTH_PORT"]))


if __name__ == "__main__":
    sys.exit(main())
