"""The swarm: listeners that misbehave at random among good ones, and what must be so when everything is quiet.

An event says in `does` how the listener `swarm` misbehaves (see misbehaviour.py). A second listener, the one of the
ledger, hears the same events and behaves. Whatever the first one does: the second one has applied everything, once and
in order, and every event of the first one is applied once, dead with a cause, or waits behind a dead one of its key.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct

from testsupport.databases import query
from testsupport.durable.checker import Applied, Final, problems
from testsupport.durable.harness import NOT_YET, Running, World
from testsupport.durable.misbehaviour import WAYS
from testsupport.durable.shop import LEDGER
from testsupport.durable.swarm_listener import KINDS, OUTSIDE, SWARM

__all__ = ["Plan", "plans", "play", "wrong"]

_ATTEMPTS = 2
_LIMIT_S = 0.5
_PACE = (2.0, 0.4, 60.0, 30.0)
"""The lease outlasts whatever blocks the event loop: see misbehaviour.py."""
_DEATHS = 20


class Plan(Struct, frozen=True):
    """Key and way of every event; an event without a way is good."""

    kind: str
    dialect: str
    events: Sequence[tuple[str | None, str]]

    def way(self, no: int) -> str:
        return self.events[no - 1][1]

    def may_end(self, no: int) -> frozenset[str]:
        """How the event of that number may end, if its turn comes."""
        return WAYS[way].may_end(self.kind, self.dialect) if (way := self.way(no)) else frozenset({"applied"})


# The plan


@st.composite
def plans(draw: st.DrawFn, *, kind: str, dialect: str, deadly: bool = False) -> Plan:
    """Every way that fits the kind and the database, in any order, each on a key of its own with a good event behind it,
    on a key with others, or without one; among twice as many good events on a few keys."""
    chance = random.Random(f"{kind} {dialect} {draw(st.integers(0, 2**32))}")
    ways = [name for name in WAYS if _fits(name, kind, dialect, deadly=deadly)]
    chance.shuffle(ways)
    events: list[tuple[str | None, str]] = []
    for no, way in enumerate(ways):
        where = chance.choice(("own", "own", "own", "none", "shared"))
        if where == "own":
            events += [(f"own{no}", way), (f"own{no}", "")]
        else:
            events.append((None if where == "none" else f"shared{no % 3}", way))
        events += [(chance.choice(("k1", "k2", "k3", "k4", None)), "") for _ in range(2)]
    return Plan(kind, dialect, events)


def _fits(name: str, kind: str, dialect: str, *, deadly: bool) -> bool:
    way = WAYS[name]
    if way.deadly and (not deadly or kind in OUTSIDE):
        return False
    return way.needs in KINDS[kind] and (way.needs != "postgresql" or dialect == "postgresql")


# What happens


def play(world: World, plan: Plan, *, processes: int) -> None:
    """Let the listeners misbehave as planned. AssertionError if anything of the promise is not so."""
    settings: dict[str, Any] = {
        "swarm": plan.kind,
        "retry": (_ATTEMPTS, 0.02, 0.05),
        "limit_s": _LIMIT_S,
        "pace": _PACE,
        "listeners": () if plan.kind == "shared" else (LEDGER,),
    }
    events = [(key, f"{SWARM}@{way}" if way else "") for key, way in plan.events]

    def start(place: int) -> Running:
        if plan.kind != "durable":
            return world.consumer(**settings)
        return world.exclusive([] if place else events, **settings)  # one of them writes

    if plan.kind != "durable":
        world.producer(events)
    running = [start(place) for place in range(processes)]
    deaths = _until_it_is_so(world, plan, running, start)
    # An event is a crash loop after its fourth death, or later if its lane changes hands before it can be suspected.
    allowed = 5 * processes * sum(WAYS[way].deadly for _, way in plan.events if way)
    assert deaths <= allowed, f"{deaths} processes died where {allowed} may: {world.last_words()}"


def _until_it_is_so(world: World, plan: Plan, running: list[Running], start: Callable[[int], Running]) -> int:
    """Wait, and start again whatever died; until nothing is wrong, or nothing changes. How often one died."""
    changed, deaths = time.monotonic(), 0
    before, found = list[str](), ["nothing is there yet"]
    while time.monotonic() - changed < world.patience_s:
        for place, process in enumerate(running):
            if not process.alive:
                deaths += 1
                assert deaths < _DEATHS, f"the processes do not stay: {process.said()[-2000:]}"
                running[place] = start(place)
        with suppress(*NOT_YET):
            found = wrong(world, plan)
            if not found:
                return deaths
        if found != before:
            before, changed = found, time.monotonic()
        time.sleep(0.2)
    raise AssertionError("\n".join(found))


def wrong(world: World, plan: Plan) -> list[str]:
    """What is not as promised, as far as it can be seen now."""
    final = world.final()
    if len(final.committed) < len(plan.events):
        return [f"{len(final.committed)} of {len(plan.events)} events are committed"]
    innocents = [] if plan.kind == "shared" else problems(_part(final, LEDGER))
    return [*innocents, *_wrong_in_the_swarm(world, plan, final), *_without_a_cause(world, final)]


def _wrong_in_the_swarm(world: World, plan: Plan, final: Final) -> list[str]:
    own = _part(final, SWARM)
    if plan.kind in OUTSIDE:
        own = replace(own, ledger=_effects(world, plan, own))
    dead = {final.committed.get(event_id, 0): reason for _, event_id, reason in own.dead}
    slow = _past_their_limit(world, final)
    must_die, parked, closed = set[int](), set[int](), set[str]()
    for no, (key, _) in enumerate(plan.events, start=1):
        if key is not None and key in closed:
            parked.add(no)
            continue
        may_end = {*plan.may_end(no), *(["exhausted"] if no in slow else [])}
        if "applied" not in may_end or dead.get(no) in may_end:
            must_die.add(no)
            if key is not None and dead.get(no) != "uncertain":
                closed.add(key)
    strange = [
        f"no {no} ({plan.way(no)}) is dead: {reason}"
        for no, reason in dead.items()
        if no and reason not in plan.may_end(no) and no not in slow
    ]
    return [*strange, *problems(replace(own, planted=frozenset(must_die), parked=frozenset(parked)))]


def _past_their_limit(world: World, final: Final) -> set[int]:
    """Events whose last attempt ran out of time: beside a listener that blocks the loop, or on a busy machine, anyone may."""
    rows = query(
        world.ledger, "SELECT event_id FROM cauce_dead_letter WHERE error LIKE 'TimeoutError: it took longer%'"
    )
    return {final.committed.get(event_id, 0) for (event_id,) in rows}


def _effects(world: World, plan: Plan, final: Final) -> list[Applied]:
    """What was done outside the database, each once as far as the guarantee lets it happen again or leaves it in doubt."""
    fields = ("event_id", "key", "key_seq", "incarnation", "no")
    effects = [Applied(SWARM, *(fact[name] for name in fields)) for fact in world.facts("effect")]
    if plan.kind == "at-most-once":
        doubtful = {event_id for _, event_id, reason in final.dead if reason == "uncertain"}
        return [one for one in effects if one.event_id not in doubtful]
    return list({one.event_id: one for one in effects}.values())


def _without_a_cause(world: World, final: Final) -> list[str]:
    """Dead letters that do not say why, or cost another number of attempts than the listener has."""
    rows = query(world.ledger, "SELECT event_id, reason, error, attempts FROM cauce_dead_letter")
    return [
        f"no {final.committed.get(event_id, 0)} is dead ({reason}) after {attempts} attempts: {error!r:.200}"
        for event_id, reason, error, attempts in rows
        if not error.strip() or (reason == "exhausted" and attempts != _ATTEMPTS)
    ]


def _part(final: Final, consumer: str) -> Final:
    return replace(
        final,
        consumers=(consumer,),
        ledger=[row for row in final.ledger if row.consumer == consumer],
        waiting=[one for one in final.waiting if one[0] == consumer],
        dead=[one for one in final.dead if one[0] == consumer],
    )
