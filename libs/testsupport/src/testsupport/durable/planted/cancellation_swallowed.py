"""A loop that goes on whatever is raised in it, its own cancellation too."""

import asyncio

from cauce.delivery.lanes.ownership import Ownership


def plant() -> None:
    run = Ownership.run

    async def for_ever(self: Ownership) -> None:
        while True:
            try:
                await run(self)
            except asyncio.CancelledError:
                continue

    Ownership.run = for_ever
