"""The numbers of a service, and its outbox: what `cauce status` and `cauce outbox status` show."""

from collections.abc import Sequence
from typing import Any

import msgspec

from cauce.admin.database import read_only_connection
from cauce.admin.targets import Target
from cauce.admin.waiting import ChosenDelivery, soonest_failing
from cauce.ports.figures import Figures
from cauce.stores.sql.figures import read_figures
from cauce.stores.sql.outbox_status import OutboxStatus, read_outbox

__all__ = ["Status", "figures_of", "outbox_of", "status_of"]

_SHOWN = 3


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The figures, and the failing deliveries that are tried next. `failing_in_all`: how many fail."""

    figures: Figures
    failing: Sequence[ChosenDelivery]
    failing_in_all: int

    def as_json(self) -> dict[str, Any]:
        """The figures as the health port has them, and the failing deliveries under `failing_next`."""
        failing = [
            {
                "id": one.id,
                "event": one.delivery.name,
                "listener": one.delivery.listener,
                "key": one.delivery.key,
                "error": one.delivery.error,
                "place": one.delivery.place,
                "attempts": one.delivery.attempts,
                "allowed_attempts": one.delivery.allowed,
                "due_in_s": one.delivery.due_in_s,
            }
            for one in self.failing
        ]
        return {**msgspec.to_builtins(self.figures), "failing_next": failing}


async def figures_of(target: Target) -> Figures:
    """Raises DatabaseUnavailableError, NoTablesError."""
    async with read_only_connection(target) as connection:
        return await read_figures(connection)


async def status_of(target: Target) -> Status:
    """Raises DatabaseUnavailableError, NoTablesError."""
    async with read_only_connection(target) as connection:
        figures = await read_figures(connection)
        failing, count = await soonest_failing(connection, target, limit=_SHOWN)
    return Status(figures=figures, failing=failing, failing_in_all=count)


async def outbox_of(target: Target) -> tuple[OutboxStatus, Figures]:
    """The outbox, and the figures of the same moment. Raises DatabaseUnavailableError, NoTablesError."""
    async with read_only_connection(target) as connection:
        return await read_outbox(connection)
