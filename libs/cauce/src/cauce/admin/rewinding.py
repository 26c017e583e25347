"""Rewind a service: send again, deliver again, or renew a restored database."""

from collections.abc import Sequence
from datetime import timedelta

from msgspec import Struct

from cauce.admin.broker import open_broker
from cauce.admin.database import open_engine, read_only_connection
from cauce.admin.descriptions import read_descriptions
from cauce.admin.targets import Target, find_targets
from cauce.errors import CauceError, ConfigurationError, TransportUnavailableError
from cauce.ports.description import Description
from cauce.ports.topics import Inspectable
from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.figures import read_figures
from cauce.stores.sql.registry import description_of
from cauce.stores.sql.rewinding import Published, Restored, mark_unsent_since, renew_incarnation

__all__ = ["Heard", "Renewed", "StillRunningError", "find_restored", "renew", "rewind_heard", "rewind_published"]


class Heard(Struct, frozen=True, kw_only=True):
    """`entries` of a topic are given again; `trimmed`: the broker has trimmed some of that time."""

    topic: str
    entries: int
    trimmed: bool


class StillRunningError(CauceError):
    """Processes of the service are running, as far as its database knows; nothing was changed."""


async def rewind_published(target: Target, since_s: float, *, why: str | None, dry_run: bool) -> Published:
    """Kept rows of that age and younger are sent again, before anything new."""
    async with open_engine(target) as engine, engine.begin() as connection:
        return await mark_unsent_since(connection, since_s, why=why, dry_run=dry_run)


async def rewind_heard(target: Target, since_s: float, *, why: str | None, dry_run: bool) -> Sequence[Heard]:
    """The service's group goes back in every topic it hears; it may run meanwhile, and its inbox knows the repeats.

    Raises ConfigurationError if the service has never been started.
    """
    async with read_only_connection(target) as connection:
        description = await description_of(connection)
    if description is None:
        raise ConfigurationError(
            [f"{target.name} has never been started with this database, so what it hears is not known"]
        )
    prefix = description.transport.prefix if description.transport else None
    async with open_broker(target.broker, prefix=prefix) as broker:
        heard = await _set_back(broker, description, since_s, dry_run=dry_run)
    if not dry_run:
        async with open_engine(target) as engine, engine.begin() as connection:
            detail = {"since_s": since_s, "topics": {one.topic: one.entries for one in heard}}
            await write_audit(connection, "rewind heard", why=why, detail=detail)
    return heard


async def _set_back(broker: Inspectable, description: Description, since_s: float, *, dry_run: bool) -> Sequence[Heard]:
    since = await broker.now() - timedelta(seconds=since_s)
    found: list[Heard] = []
    for topic in description.topics:
        if dry_run:
            entries = await broker.count_since(topic, since)
        else:
            entries = sum((await broker.set_back(topic, description.service, since)).values())
        found.append(Heard(topic=topic, entries=entries, trimmed=await broker.trimmed_since(topic, since)))
    return found


class Renewed(Struct, frozen=True, kw_only=True):
    """`registered`: the topics in which the broker had another database noted for the service, and has this one now.
    `untold`: why the broker could not be told."""

    restored: Restored
    registered: Sequence[str]
    untold: str | None


async def find_restored(
    names: Sequence[str], *, database_url: str | None = None, redis_url: str | None = None
) -> Sequence[Target]:
    """As `find_targets`; a service may also be named as it calls itself, which is all that it can say of itself.

    Raises ConfigurationError.
    """
    try:
        return find_targets(names, database_url=database_url, redis_url=redis_url)
    except ConfigurationError:
        if database_url is not None:
            raise
        everyone = find_targets(redis_url=redis_url)
        described, _ = await read_descriptions(everyone)
        found = [one for one in everyone if one.name in described and described[one.name].service in names]
        if len(found) != len(set(names)):
            raise
        return found


async def renew(target: Target, *, why: str | None, force: bool, prefix: str | None = None) -> Renewed:
    """Give a restored database a new incarnation, and have the broker note it for the service wherever it is noted.

    `prefix`: of its streams; without it, as the service was started last. Raises StillRunningError unless `force`. A
    broker that does not answer prevents nothing: `untold` says why, and a second call makes up for it.
    """
    async with read_only_connection(target) as connection:
        figures = await read_figures(connection)
        description = await description_of(connection)
    if figures.members and not force:
        processes = ", ".join(one.member.rpartition(":")[0] for one in figures.members)
        raise StillRunningError(f"{target.name} is running ({processes}).")
    async with open_engine(target) as engine, engine.begin() as connection:
        restored = await renew_incarnation(connection, why=why)
    registered: Sequence[str] = ()
    untold = None
    if description is not None and description.transport is not None and description.transport.name == "redis":
        try:
            async with open_broker(target.broker, prefix=prefix or description.transport.prefix) as broker:
                registered = await _register(broker, description.service, restored.after)
        except (TransportUnavailableError, ConfigurationError) as error:
            untold = str(error)
    return Renewed(restored=restored, registered=registered, untold=untold)


async def _register(broker: Inspectable, service: str, incarnation: str) -> Sequence[str]:
    topics = sorted(await broker.databases(service))
    for topic in topics:
        await broker.register_database(topic, service, incarnation)
    return topics
