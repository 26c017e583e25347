"""What every way can do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["Listener", "Way", "share"]

Listener = Callable[[float], Awaitable[None]]
"""Gets the moment at which the message was made."""


class Way(Protocol):
    """One way, connected to one server."""

    name: str

    async def one_by_one(self, count: int) -> None: ...
    async def by_hundreds(self, count: int) -> None: ...
    async def concurrently(self, count: int, publishers: int) -> None: ...
    async def at_pace(self) -> None:
        """One message with the time of now."""
        ...

    async def consume(self, ready: Callable[[], None], listener: Listener) -> None:
        """Until cancelled."""
        ...

    async def close(self) -> None: ...


async def share(count: int, publishers: int, one: Callable[[], Awaitable[object]]) -> None:
    """`count` calls by so many publishers at once."""

    async def publish() -> None:
        for _ in range(count // publishers):
            await one()

    await asyncio.gather(*(publish() for _ in range(publishers)))
