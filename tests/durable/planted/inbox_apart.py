"""The inbox row is committed by itself, before the transaction of the effect."""

from typing import Any

from cauce.delivery.inbox.attempts import Applying, Outcome
from cauce.events.envelope import Emission
from cauce.listeners.listener import Listener, consumer_name


def plant() -> None:
    async def first(
        self: Applying, listener: Listener, emission: Emission, channel: str, **_circumstances: Any
    ) -> Outcome:
        consumer = consumer_name(self.rules.name, listener)
        async with self.rules.transaction() as tx:
            (found,) = await self.rules.inbox(tx).arrive(consumer, [emission.envelope], idle_s=30)
        if found.known:
            return "duplicate"
        async with self.rules.transaction() as tx:
            await self.call(listener, emission, tx, 1, False, channel)
        return "handled"

    Applying.first = first
