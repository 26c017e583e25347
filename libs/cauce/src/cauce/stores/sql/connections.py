"""A connection for our own statements, given back however its user ends."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.concurrency.cancellation import to_the_end

__all__ = ["connected"]


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """As `engine.connect()`, which forgets a connection whose user is cancelled while it is being made."""
    connection = engine.connect()
    try:
        await to_the_end(connection.start())
        yield connection
    finally:
        if connection.sync_connection is not None:
            await to_the_end(connection.close())
