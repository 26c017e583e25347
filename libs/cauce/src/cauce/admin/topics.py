"""Look at topics, and remove a retired service's group from them."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from cauce.admin.selection import UnclearError
from cauce.errors import CauceError, did_you_mean
from cauce.ports.topics import Group, Inspectable, Topic

__all__ = ["Forgotten", "StillWaitingError", "forget_group"]


class Forgotten(Struct, frozen=True, kw_only=True):
    """`unheard`: entries that waited for the group, and are lost for it."""

    group: str
    topics: Sequence[str]
    unheard: int


class StillWaitingError(CauceError):
    """Entries still wait for the group; nothing was forgotten."""


async def forget_group(
    broker: Inspectable, name: str, *, topic: str | None = None, force: bool = False, dry_run: bool = False
) -> Forgotten:
    """Remove the group from the topic, or from every one it hears or sends to.

    Raises UnclearError if no topic knows it, StillWaitingError if entries wait for it, unless `force`.
    """
    topics = await broker.topics()
    groups = {
        one.name: group for one in topics if topic in (None, one.name) for group in one.groups if group.name == name
    }
    registered = {one for one in await broker.databases(name) if topic in (None, one)}
    found = sorted(groups.keys() | registered)
    if not found:
        raise UnclearError(_unknown(name, topic, topics))
    waiting = _waiting(groups.values())
    if waiting and not (force or dry_run):
        events = f"{waiting:,} event{'' if waiting == 1 else 's'}"
        raise StillWaitingError(f"{events} in {', '.join(groups)} still wait for {name}.")
    if not dry_run:
        for one in found:
            await broker.forget(one, name)
    return Forgotten(group=name, topics=found, unheard=waiting)


def _waiting(groups: Iterable[Group]) -> int:
    return sum(group.lag + group.pending for group in groups)


def _unknown(name: str, topic: str | None, topics: Sequence[Topic]) -> str:
    if topic is not None and topic not in {one.name for one in topics}:
        return f"No topic {topic!r}.{did_you_mean(topic, [one.name for one in topics])}"
    known = {group.name for one in topics for group in one.groups}
    heard = f" There is {', '.join(sorted(known))}." if known else ""
    return f"No topic is heard by {name!r}.{did_you_mean(name, known)}{heard}"
