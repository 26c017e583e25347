"""What the services of a project say about themselves, each in its own database."""

from collections.abc import Sequence

from cauce.admin.database import DatabaseUnavailableError, read_only_connection
from cauce.admin.targets import Target, find_targets
from cauce.errors import ConfigurationError
from cauce.ports.description import Description
from cauce.ports.figures import NoTablesError
from cauce.stores.sql.registry import description_of

__all__ = ["known_events", "read_descriptions"]


async def read_descriptions(targets: Sequence[Target]) -> tuple[dict[str, Description], dict[str, str]]:
    """The descriptions by the name the project uses; and for the other services, why there is none."""
    found: dict[str, Description] = {}
    missing: dict[str, str] = {}
    for target in targets:
        try:
            async with read_only_connection(target) as connection:
                description = await description_of(connection)
        except (DatabaseUnavailableError, NoTablesError) as error:
            missing[target.name] = str(error)
            continue
        if description is None:
            missing[target.name] = f"{target.name}: it has not been started yet with durable delivery"
        else:
            found[target.name] = description
    return found, missing


async def known_events() -> set[str]:
    """The names of all events that the services of this project know; empty where they cannot be asked."""
    try:
        targets = find_targets()
    except ConfigurationError:
        return set()
    found, _ = await read_descriptions(targets)
    return {
        name
        for description in found.values()
        for event in description.events
        for name in (event.name, *event.earlier_names)
    }
