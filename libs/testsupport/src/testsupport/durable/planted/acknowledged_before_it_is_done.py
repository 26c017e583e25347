"""An entry is acknowledged when it is taken from the broker, before the listener has run."""

from cauce.delivery.inbox.consumer import DurableConsumer
from cauce.ports.transport import Delivery
from msgspec.structs import replace


async def _nothing() -> None:
    pass


def plant() -> None:
    deliver = DurableConsumer.deliver

    async def at_once(self: DurableConsumer, delivery: Delivery) -> None:
        await delivery.ack()
        await deliver(self, replace(delivery, ack=_nothing))

    DurableConsumer.deliver = at_once
