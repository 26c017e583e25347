"""Erase what Cauce keeps of one key: in a service's database, and in the topics that the service sends to."""

from collections.abc import Sequence

from msgspec import Struct

from cauce.admin.broker import open_broker
from cauce.admin.database import open_engine, read_only_connection
from cauce.admin.targets import Target
from cauce.errors import CauceError, ConfigurationError, TransportUnavailableError
from cauce.ports.description import Description
from cauce.ports.topics import ErasedEntries
from cauce.stores.sql.erased_keys import erased_name
from cauce.stores.sql.erasing import ErasedRows, count_rows, erase_rows
from cauce.stores.sql.registry import description_of

__all__ = ["Erasure", "StillToBeDoneError", "erase"]


class Erasure(Struct, frozen=True, kw_only=True):
    """What was erased, or would be. `untold`: why the broker could not be asked; nothing was erased there."""

    service: str
    key_hash: str
    dry_run: bool
    rows: ErasedRows
    streams: Sequence[ErasedEntries]
    untold: str | None

    @property
    def complete(self) -> bool:
        return self.untold is None and not any(one.unacknowledged for one in self.streams)


class StillToBeDoneError(CauceError):
    """Events of the key are still to be sent or handled; nothing was erased."""


async def erase(target: Target, key: str, *, why: str | None, force: bool, dry_run: bool) -> Erasure:
    """Erase the rows first: an event that is gone from a stream while its row is kept would be sent again.

    Raises StillToBeDoneError, unless `force` gives up what is still to be done.
    """
    async with read_only_connection(target) as connection:
        description = await description_of(connection)
        rows = await count_rows(connection, key)
    if not dry_run:
        async with open_engine(target) as engine:
            done = await erase_rows(engine, key, why=why, force=force)
        if isinstance(done, str):
            raise StillToBeDoneError(done)
        rows = done
    streams, untold = await _streams(target, description, key, dry_run=dry_run)
    return Erasure(
        service=target.name,
        key_hash=erased_name(key),
        dry_run=dry_run,
        rows=rows,
        streams=streams,
        untold=untold,
    )


async def _streams(
    target: Target, description: Description | None, key: str, *, dry_run: bool
) -> tuple[Sequence[ErasedEntries], str | None]:
    if description is None:
        return [], "the service has not been started yet, so nobody knows where it sends to"
    if description.transport is None or description.transport.name != "redis":
        return [], None  # nothing is kept there
    topics = description.sends_to if description.sends_to is not None else (description.service,)
    try:
        async with open_broker(target.broker, prefix=description.transport.prefix) as broker:
            return [await broker.erase(topic, key, dry_run=dry_run) for topic in topics], None
    except (TransportUnavailableError, ConfigurationError) as error:
        return [], str(error)
