"""A broker inside the process, for tests and for a single-process start: several services may share one."""

import asyncio
from collections.abc import Sequence

import msgspec

from cauce.events.envelope import Envelope
from cauce.events.names import matches
from cauce.formats.payload import encode
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId, Deliver, Delivery, Status, Subscription

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """Hands every envelope to every subscribed service of this process, in order. Nothing outlives the process."""

    name = "memory"
    durable = False

    def __init__(self) -> None:
        self._subscribers: list[tuple[Subscription, Deliver]] = []
        self._count = 0

    async def publish(self, lane: Lane, batch: Sequence[Envelope]) -> Sequence[BrokerId]:
        ids: list[BrokerId] = []
        for envelope in batch:
            self._count += 1
            # Through bytes, so that what could not travel over a real broker does not travel over this one.
            raw = encode(envelope.payload)
            copy = msgspec.structs.replace(envelope, payload=msgspec.Raw(raw))
            ids.append(BrokerId(str(self._count)))
            for subscription, deliver in list(self._subscribers):
                if _wanted(subscription, envelope.name):
                    await deliver(Delivery(channel=envelope.name, raw=raw, envelope=copy))
        return ids

    async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
        entry = (subscription, deliver)
        self._subscribers.append(entry)
        status.up()
        try:
            await asyncio.Event().wait()
        finally:
            self._subscribers.remove(entry)

    async def close(self) -> None:
        return None


def _wanted(subscription: Subscription, name: str) -> bool:
    return name in subscription.names or any(matches(pattern, name) for pattern in subscription.patterns)
