"""Whether a run kept its promises: a pure function of what is in the databases and the broker when everything is quiet."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Applied", "Final", "problems"]


@dataclass(frozen=True, slots=True)
class Applied:
    """A row of the ledger."""

    consumer: str
    event_id: str
    key: str | None
    key_seq: int | None
    incarnation: str | None
    no: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What is there at the end."""

    committed: Mapping[str, int]
    """Event id → number, of every event whose business transaction committed."""
    ledger: Sequence[Applied]
    """In the order of application."""
    consumers: Collection[str]
    unsent: int = 0
    pending: int = 0
    """Entries delivered by the broker and not acknowledged, over all groups."""
    undelivered: int = 0
    waiting: Collection[tuple[str, str]] = ()
    """Consumer and event id of every delivery in the waiting room."""
    dead: Collection[tuple[str, str, str]] = ()
    """Consumer, event id and reason of every dead letter."""
    planted: Collection[int] = field(default_factory=frozenset[int])
    """Numbers of the events that were made to end as dead letters."""
    parked: Collection[int] = field(default_factory=frozenset[int])
    """Numbers of the events that are to stay behind a dead head of their key."""


def problems(final: Final) -> list[str]:
    """Everything that was promised and is not so; empty means that nothing is."""
    return [
        *_lost_ghosts_doubles(final),
        *_order(final),
        *_quiescence(final),
        *_dead_letters(final),
        *_accounting(final),
    ]


def _lost_ghosts_doubles(final: Final) -> Iterator[str]:
    aside = {(consumer, event_id) for consumer, event_id in final.waiting}
    aside |= {(consumer, event_id) for consumer, event_id, _ in final.dead}
    for consumer in final.consumers:
        applied = Counter(row.event_id for row in final.ledger if row.consumer == consumer)
        lost = [
            no
            for event_id, no in final.committed.items()
            if not applied[event_id] and (consumer, event_id) not in aside
        ]
        ghosts = [event_id for event_id in applied if event_id not in final.committed]
        doubles = [final.committed.get(event_id, 0) for event_id, times in applied.items() if times > 1]
        if lost:
            yield f"{consumer}: {len(lost)} lost: {_some(sorted(lost))}"
        if ghosts:
            yield f"{consumer}: {len(ghosts)} ghosts: {_some(ghosts)}"
        if doubles:
            yield f"{consumer}: {len(doubles)} doubles: {_some(sorted(doubles))}"


def _order(final: Final) -> Iterator[str]:
    """Per key strictly rising. A hole needs no look of its own: what was committed and is not there is lost."""
    seen: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row in final.ledger:
        if row.key is not None and row.key_seq is not None:
            seen[row.consumer, row.key, row.incarnation or ""].append(row.key_seq)
    for (consumer, key, _), numbers in seen.items():
        inverted = [pair for pair in pairwise(numbers) if pair[0] >= pair[1]]
        if inverted:
            yield f"{consumer}: key {key} was applied out of order: {_some(inverted)}"
    stray = {row.consumer for row in final.ledger} - set(final.consumers)
    if stray:
        yield f"the ledger knows consumers that do not exist: {sorted(stray)}"


def _quiescence(final: Final) -> Iterator[str]:
    if final.unsent:
        yield f"{final.unsent} rows of the outbox are not sent"
    if final.pending:
        yield f"{final.pending} entries of the broker are not acknowledged"
    if final.undelivered:
        yield f"{final.undelivered} entries of the broker were never delivered"
    dead = {(consumer, event_id) for consumer, event_id, _ in final.dead}
    unexpected = [
        final.committed.get(event_id, 0)
        for consumer, event_id in final.waiting
        if final.committed.get(event_id) not in final.parked and (consumer, event_id) not in dead
    ]
    if unexpected:
        yield f"{len(unexpected)} deliveries still wait: {_some(sorted(unexpected))}"


def _dead_letters(final: Final) -> Iterator[str]:
    for consumer in final.consumers:
        dead = {final.committed.get(event_id, 0): reason for one, event_id, reason in final.dead if one == consumer}
        if missing := set(final.planted) - set(dead):
            yield f"{consumer}: no dead letter of {_some(sorted(missing))}"
        if innocent := set(dead) - set(final.planted):
            reasons = Counter(dead[no] for no in innocent)
            yield f"{consumer}: {len(innocent)} innocents are dead letters: {_some(sorted(innocent))} {dict(reasons)}"


def _accounting(final: Final) -> Iterator[str]:
    """committed = applied + parked + dead, for every consumer."""
    for consumer in final.consumers:
        applied = {row.event_id for row in final.ledger if row.consumer == consumer}
        dead = {event_id for one, event_id, _ in final.dead if one == consumer and event_id in final.committed}
        parked = {event_id for one, event_id in final.waiting if one == consumer} - dead
        total = len(applied) + len(dead) + len(parked)
        if total != len(final.committed):
            yield (
                f"{consumer}: {len(final.committed)} committed are not {len(applied)} applied + {len(parked)} parked "
                f"+ {len(dead)} dead"
            )


def _some(things: Sequence[object]) -> str:
    return f"{list(things[:8])}{' …' if len(things) > 8 else ''}"
