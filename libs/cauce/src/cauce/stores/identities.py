"""Which registered consumer a listener of the code is, and when a start has to be refused. Sans-I/O.

A listener is known by its name; when it is renamed, its earlier names find its past. The consumer under which that is
kept is the oldest registered one, and stays: code of before and code of after the renaming run side by side.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from cauce.errors import ConfigurationError, did_you_mean
from cauce.ports.figures import listener_of
from cauce.ports.registration import Identity, Joined, ListenerInCode

__all__ = ["Past", "Registered", "Resolution", "identities", "refuse_lost_pasts", "resolve"]


class Registered(Struct, frozen=True, kw_only=True):
    """A consumer that the database knows. `name`: of its listener, at its last start; `events`: None if unknown."""

    consumer: str
    name: str | None
    events: Collection[str] | None
    first_seen_at: float
    retired: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset({listener_of(self.consumer), self.shown})

    @property
    def shown(self) -> str:
        return self.name or listener_of(self.consumer)


class Past(Struct, frozen=True, kw_only=True):
    """What the database holds of a consumer."""

    handled: bool
    """Its inbox or its positions know events."""
    waiting: int
    dead: int

    def __bool__(self) -> bool:
        return self.handled or bool(self.waiting or self.dead)

    def __str__(self) -> str:
        parts = ["events it has handled"] if self.handled else []
        parts += [f"{self.waiting} waiting"] if self.waiting else []
        parts += [f"{self.dead} dead"] if self.dead else []
        return ", ".join(parts)


class Resolution(Struct, frozen=True, kw_only=True):
    """`found`: the registered consumer of each listener that has one, by its name."""

    found: Mapping[str, Registered]
    lost: Sequence[tuple[ListenerInCode, Registered]]
    """A listener that is unknown, and one that is gone and listened to the same event: trouble if that has a past."""
    doubled: Sequence[tuple[ListenerInCode, Registered, Registered]]
    """Names of one listener that are both registered: trouble if both have a past."""

    @property
    def suspects(self) -> Collection[str]:
        """The consumers whose past decides."""
        every = [gone.consumer for _, gone in self.lost]
        return {*every, *(one.consumer for _, first, second in self.doubled for one in (first, second))}


def resolve(
    listeners: Sequence[ListenerInCode], registered: Iterable[Registered], retired: Collection[str]
) -> Resolution:
    """Find the consumer of each listener, and what might be lost."""
    registered = sorted(registered, key=lambda one: (one.first_seen_at, one.consumer))
    found: dict[str, Registered] = {}
    doubled: list[tuple[ListenerInCode, Registered, Registered]] = []
    claimed: set[str] = set()
    for listener in listeners:
        names = {listener.name, *listener.earlier_names}
        own = [one for one in registered if not names.isdisjoint(one.names)]
        claimed.update(one.consumer for one in own)
        if own:
            found[listener.name] = own[0]
            doubled += [(listener, own[0], other) for other in own[1:]]
    gone = [
        one for one in registered
        if one.consumer not in claimed and not one.retired and one.names.isdisjoint(retired) and one.events
    ]  # fmt: skip
    lost = [
        (listener, one)
        for listener in listeners if listener.name not in found
        for one in gone if not set(listener.events).isdisjoint(one.events or ())
    ]  # fmt: skip
    return Resolution(found=found, lost=lost, doubled=doubled)


def refuse_lost_pasts(service: str, resolution: Resolution, pasts: Mapping[str, Past]) -> None:
    """Raise ConfigurationError if the past of a listener would be forgotten or kept twice."""
    problems = [*_lost(resolution, pasts), *_doubled(resolution, pasts)]
    if problems:
        raise ConfigurationError(problems, where=f"the listeners of {service!r}, in its database")


def _lost(resolution: Resolution, pasts: Mapping[str, Past]) -> Iterable[str]:
    by_name = {listener.name: listener for listener, _ in resolution.lost}
    for listener in by_name.values():
        gone = [one for other, one in resolution.lost if other.name == listener.name and pasts[one.consumer]]
        if not gone:
            continue
        # The most similar name first: it is probably meant.
        nearest = did_you_mean(listener.name, [one.shown for one in gone])
        gone.sort(key=lambda one: (repr(one.shown) not in nearest, one.shown))
        first = gone[0]
        common = next(one for one in listener.events if one in (first.events or ()))
        rest = f"; gone too: {', '.join(one.shown for one in gone[1:])}" if gone[1:] else ""
        earlier = ", ".join(f'"{one}"' for one in (*listener.earlier_names, first.shown))
        yield (
            f"{listener.name} is unknown and listens to {common}, and {first.shown}, which listened to it, is gone and "
            f"has a past ({pasts[first.consumer]}){rest}. The same listener under a new name? Then on {listener.name}: "
            f"@on(…, earlier_names=({earlier},)). Another one? Then "
            f"Service(…, retired=[{', '.join(f'{one.shown!r}' for one in gone)}])"
        ).replace("'", '"')


def _doubled(resolution: Resolution, pasts: Mapping[str, Past]) -> Iterable[str]:
    for listener, first, second in resolution.doubled:
        if pasts[first.consumer] and pasts[second.consumer]:
            names = f'"{listener_of(first.consumer)}" and "{listener_of(second.consumer)}"'
            yield (
                f"{listener.name} has a past under {names}, and can keep only one: it was started under both. Leave out "
                "of earlier_names the one whose past does not matter, and name it in Service(…, retired=[…])"
            )


def identities(
    service: str,
    listeners: Sequence[ListenerInCode],
    resolution: Resolution,
    registered: Sequence[Registered],
    now: float,
) -> Mapping[str, Identity]:
    """Give each listener its consumer, by name; those without one join now."""
    found: dict[str, Identity] = {}
    for listener in listeners:
        own = resolution.found.get(listener.name)
        consumer = own.consumer if own is not None else f"{service}/{listener.name}"
        at = own.first_seen_at if own is not None else now
        others = sorted(one.consumer for one in registered if one.consumer != consumer)
        before = any(one.first_seen_at < at for one in registered if one.consumer != consumer)
        joined = Joined(at=at, age_s=now - at, others=others) if before else None
        found[listener.name] = Identity(consumer=consumer, joined=joined)
    return found
