"""Later events of a key run while an earlier one waits for its next try: it is queued again behind them."""

from typing import Any

from cauce.delivery.inbox.failures import Outcome
from cauce.delivery.inbox.ordering import Ordering
from cauce.ports.inbox import Arrival
from msgspec.structs import replace


def plant() -> None:
    in_turn = Ordering.in_turn

    async def at_once(
        self: Ordering, inbox: Any, consumer: str, envelope: Any, channel: str, found: Arrival, **repeated: float | None
    ) -> Outcome | None:
        return await in_turn(self, inbox, consumer, envelope, channel, replace(found, parked=False), **repeated)

    Ordering.in_turn = at_once
