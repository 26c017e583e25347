"""Going back on the broker: the group of a service gets again what it was given since a moment."""

from msgspec import Struct

from cauce.ports.description import Description
from cauce.transports.redis.topics import BrokerView

__all__ = ["Heard", "rewind_heard"]


class Heard(Struct, frozen=True, kw_only=True):
    """`entries` of a topic are given again; `trimmed`: the broker let go of some of that time."""

    topic: str
    entries: int
    trimmed: bool


async def rewind_heard(view: BrokerView, description: Description, since_s: float, *, dry_run: bool) -> list[Heard]:
    """The service's group in every topic it hears goes back; it may run meanwhile, and its inbox knows the repeats."""
    since_ms = await view.now_ms() - int(since_s * 1000)
    found: list[Heard] = []
    for topic in description.topics:
        if dry_run:
            entries = await view.count_topic_since(topic, since_ms)
        else:
            entries = sum((await view.set_back(topic, description.service, since_ms)).values())
        found.append(Heard(topic=topic, entries=entries, trimmed=await view.trimmed_since(topic, since_ms)))
    return found
