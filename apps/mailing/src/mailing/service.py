"""The service with its upkeep: a Service of Cauce beside which old records are pruned."""

import asyncio
from types import TracebackType
from typing import Any, Self

from cauce import Service

from mailing.infrastructure.upkeep import Upkeep

__all__ = ["MailingService"]


class MailingService(Service):
    """A Service whose `upkeep` runs as long as it does."""

    def __init__(self, name: str, *, upkeep: Upkeep, **options: Any) -> None:
        super().__init__(name, **options)
        self._upkeep = upkeep
        self._upkeeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self.running:
            self._upkeeping = asyncio.get_running_loop().create_task(self._upkeep.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._upkeeping is not None:
                self._upkeeping.cancel()
                await asyncio.wait({self._upkeeping})
        finally:
            self._upkeeping = None
            await super().__aexit__(kind, error, traceback)
