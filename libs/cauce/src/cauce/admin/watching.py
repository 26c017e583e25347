"""Follow events as they are published, by name and start time."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta

from cauce.admin.descriptions import known_events
from cauce.errors import did_you_mean
from cauce.events.names import is_pattern, matches
from cauce.ports.topics import Inspectable, Seen

__all__ = ["unknown_names", "watch_events"]


async def watch_events(
    broker: Inspectable,
    names: Sequence[str] = (),
    *,
    topics: Sequence[str] = (),
    since_s: float | None = None,
    follow: bool,
    trouble: Callable[[str | None], None],
) -> AsyncGenerator[Seen]:
    """As `Inspectable.watch`, only events of these names or patterns, if any is given; `since_s` is an age."""
    since = None if since_s is None else await broker.now() - timedelta(seconds=since_s)
    async with aclosing(broker.watch(topics, since=since, follow=follow, trouble=trouble)) as entries:
        async for seen in entries:
            name = seen.envelope.name if seen.envelope else ""
            if not names or any(matches(pattern, name) for pattern in names):
                yield seen


async def unknown_names(names: Sequence[str]) -> dict[str, str]:
    """Names that no service of the project knows, as far as the databases can be asked, each with the nearest:
    ` Did you mean 'x'?`, or nothing."""
    exact = [name for name in names if not is_pattern(name)]
    known = await known_events() if exact else set[str]()
    return {name: did_you_mean(name, known) for name in exact if known and name not in known}
