"""An entry is acknowledged when it is taken from the broker, before the listener has run."""

from cauce.delivery.durable import DurableDelivery
from cauce.ports.transport import Delivery
from msgspec.structs import replace


async def _nothing() -> None:
    pass


def plant() -> None:
    deliver = DurableDelivery.deliver

    async def at_once(self: DurableDelivery, delivery: Delivery) -> None:
        await delivery.ack()
        await deliver(self, replace(delivery, ack=_nothing))

    DurableDelivery.deliver = at_once
