"""The inbox row is committed by itself, before the transaction of the effect."""

from typing import Any

from cauce.delivery.inbox.attempts import Attempts
from cauce.delivery.inbox.failures import Outcome
from cauce.events.envelope import Emission
from cauce.listeners.listener import Listener


def plant() -> None:
    async def first(
        self: Attempts, listener: Listener, emission: Emission, channel: str, **_circumstances: Any
    ) -> Outcome:
        consumer = self.transactions.consumer_name(listener)
        async with self.transactions.begin() as (_, inbox):
            (found,) = await inbox.arrive(consumer, [emission.envelope], idle_s=30)
        if found.known:
            return "duplicate"
        async with self.transactions.begin() as (tx, _):
            await self.call(listener, emission, tx, 1, False, channel)
        return "handled"

    Attempts.first = first
