"""Nobody remembers that handling an event began: one that kills its process is begun again for ever."""

from typing import Any

from cauce.delivery.inbox.attempts import Applying


def plant() -> None:
    async def mark_started(self: Applying, listener: Any, envelope: Any) -> int:
        return 1

    Applying.mark_started = mark_started
