"""The numbers of a service, and its outbox: what `cauce status` and `cauce outbox status` show."""

from cauce.admin.database import read_only_connection
from cauce.admin.targets import Target
from cauce.ports.figures import Figures
from cauce.stores.sql.figures import read_figures
from cauce.stores.sql.outbox_status import OutboxStatus, read_outbox

__all__ = ["figures_of", "outbox_of"]


async def figures_of(target: Target) -> Figures:
    """Raises DatabaseUnavailableError, NoTablesError."""
    async with read_only_connection(target) as connection:
        return await read_figures(connection)


async def outbox_of(target: Target) -> tuple[OutboxStatus, Figures]:
    """The outbox, and the figures of the same moment. Raises DatabaseUnavailableError, NoTablesError."""
    async with read_only_connection(target) as connection:
        return await read_outbox(connection)
