"""Which listener of a service an operator means by a name.

Tables: cauce_listener, cauce_dead_letter and cauce_waiting (the consumers in them).
"""

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.errors import CauceError, did_you_mean
from cauce.ports.figures import listener_of
from cauce.stores.sql.connections import ask

__all__ = ["NoSuchListenerError", "resolve_listener"]


class NoSuchListenerError(CauceError):
    """No listener of this service has that name; the message names the nearest."""


async def resolve_listener(connection: AsyncConnection, query: str) -> str:
    """Find the consumer by its whole name, or by the last segments of it if no other listener has them."""
    rows = await ask(
        connection,
        "SELECT consumer, name FROM cauce_listener UNION SELECT DISTINCT consumer, NULL FROM cauce_dead_letter "
        "UNION SELECT DISTINCT consumer, NULL FROM cauce_waiting",
    )
    names = {listener_of(str(row.consumer)): str(row.consumer) for row in rows}
    consumers = set(names.values())
    names.update((str(row.name), str(row.consumer)) for row in rows if row.name is not None)
    if query in consumers:
        return query
    if query in names:
        return names[query]
    ending = [name for name in names if name.endswith(f".{query}")]
    if len(ending) == 1:
        return names[ending[0]]
    if ending:
        raise NoSuchListenerError(f"{query!r} is several listeners: {', '.join(sorted(ending))}")
    nearest = did_you_mean(query, names) or did_you_mean(query, [name.rpartition(".")[2] for name in names])
    raise NoSuchListenerError(f"no listener {query!r} here.{nearest} There is {', '.join(sorted(names)) or 'none'}.")
