"""Later events of a key run while an earlier one waits for its next try: it is queued again behind them."""

from dataclasses import replace
from typing import Any

from cauce.delivery.inbox.attempts import Applying, Outcome
from cauce.ports.inbox import Arrival


def plant() -> None:
    in_its_turn = Applying._in_its_turn

    async def at_once(
        self: Applying, inbox: Any, consumer: str, envelope: Any, channel: str, found: Arrival, **repeated: bool
    ) -> Outcome | None:
        return await in_its_turn(self, inbox, consumer, envelope, channel, replace(found, parked=False), **repeated)

    Applying._in_its_turn = at_once
