"""What mailing-ms does beside handling events: it deletes the records of mails that were kept long enough."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from mailing.infrastructure.mail_records import SqlMailRecords

__all__ = ["Upkeep"]

_EVERY_S: Final = 60.0
_log = logging.getLogger(__name__)


class Upkeep:
    """Prunes records older than `keep`, every minute. Every replica does, which costs a statement that finds nothing."""

    def __init__(
        self, records: SqlMailRecords, *, keep: timedelta, now: Callable[[], datetime], every_s: float = _EVERY_S
    ) -> None:
        self._records: Final = records
        self._keep: Final = keep
        self._now: Final = now
        self._every_s: Final = every_s

    async def run(self) -> None:
        """Prune until cancelled. Errors are logged and the pruning repeated: it is never urgent."""
        while True:
            try:
                if pruned := await self._records.prune(now=self._now(), keep=self._keep):
                    _log.info("The records of %d mails were kept for %d days and are deleted", pruned, self._keep.days)
            except Exception as error:  # the database's trouble is reported by readiness
                _log.warning("Records of mails could not be pruned (%s)", type(error).__name__)
            await asyncio.sleep(self._every_s)
