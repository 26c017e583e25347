"""Checks of who reads what on a broker: services that lag, readers that are not ours, groups nobody comes for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from cauce.admin.service_checks import Examined
from cauce.admin.verdicts import QUIET_S, age_state
from cauce.ports.topics import Group, Inspectable, Topic
from cauce.ports.transport import Verdict

__all__ = ["examine_groups"]

_RIGHTS = "docs/how-to/rights-per-service.md"


async def examine_groups(broker: Inspectable, services: Sequence[Examined]) -> Sequence[Verdict]:
    """The groups of the topics that these services publish or hear. Raises TransportUnavailableError."""
    described = [(one, one.description) for one in services if one.description]
    names = {name for _, one in described for name in (one.service, *one.topics)}
    topics = {name: await broker.topic(name) for name in sorted(names)}
    found: list[Verdict] = []
    for examined, description in described:
        for name in description.topics:
            found += _hearing(topics[name], description.service, running=examined.running)
    hears = {one.service: frozenset(one.topics) for _, one in described}
    typed = {one.service: examined.target.typed for examined, one in described}
    for topic in topics.values():
        for group in topic.groups:
            found += _foreign_readers(topic, group, typed.get(group.name))
            found += _ghost(topic, group, hears)
        found += _marks(topic)
    return found


def _hearing(topic: Topic, service: str, *, running: bool) -> Iterator[Verdict]:
    group = next((one for one in topic.groups if one.name == service), None)
    subject = f"{service} ← {topic.name}"
    if group is not None:
        yield _lag(subject, group, running=running)
    elif running and topic.streams:
        fact = "it runs, and has no group there: it hears nothing"
        yield Verdict(subject, "bad", fact, "look at its log; its broker user may lack rights")


def _lag(subject: str, group: Group, *, running: bool) -> Verdict:
    waiting = group.lag + group.pending
    age = group.oldest_waiting_s or 0.0
    if not waiting:
        return Verdict(subject, "good", "nothing waits on the broker")
    fact = f"{group.lag:,} not given yet, {group.pending:,} given and not acknowledged, the oldest {age:,.0f} s old"
    state = age_state(age)
    return Verdict(subject, state, fact, "" if state == "good" else "cauce topic list" if running else "start it")


def _foreign_readers(topic: Topic, group: Group, typed: str | None) -> Iterator[Verdict]:
    """No process of Cauce reads under such a name: what it was given, the service never gets."""
    if group.foreign:
        who = ", ".join(repr(name) for name in group.foreign)
        fact = (
            f"{who} reads {topic.name} in the group of {group.name} and is no process of it: what it takes, "
            f"{group.name} does not get"
        )
        again = f"; what it took is given again by: cauce rewind {typed} --heard --since WHEN" if typed else ""
        fix = f"give every service a broker user of its own: {_RIGHTS}{again}"
        yield Verdict("foreign reader", "bad", fact, fix)


def _ghost(topic: Topic, group: Group, hears: Mapping[str, frozenset[str]]) -> Iterator[Verdict]:
    """A group that trimming waits for, and nobody comes for: the topic grows until the broker is full."""
    why = _why_nobody_comes(topic, group, hears)
    if why is None:
        return
    state, what = why
    fact = f"{what}; {topic.name} cannot be trimmed, and grows"
    fix = f"start it; or, if it is none of yours or retired: cauce topic forget {group.name} --topic {topic.name}"
    yield Verdict(group.name, state, fact, fix)


def _why_nobody_comes(
    topic: Topic, group: Group, hears: Mapping[str, frozenset[str]]
) -> tuple[Literal["weak", "bad"], str] | None:
    if topic.name in hears.get(group.name, frozenset()):
        return None  # it is one of these: how it does is told of itself
    if group.name in hears:
        return "bad", f"has a group in {topic.name}, and {group.name} does not hear it"
    if group.registered and not group.lanes and topic.streams:
        return "bad", f"is registered in {topic.name}, and no stream has its group: it never came"
    if group.idle_s is None and group.lanes and group.lag:
        return "bad", f"has a group in {topic.name}, and never read from it"
    waiting = group.lag + group.pending
    if waiting and max(group.oldest_waiting_s or 0.0, 0.0) > QUIET_S:
        return "weak", f"has not read for {(group.oldest_waiting_s or 0.0) / 86400:,.0f} days"
    return None


def _marks(topic: Topic) -> Iterator[Verdict]:
    if topic.marked_beyond:
        lanes = " ".join(str(lane) for lane in topic.marked_beyond)
        fact = (
            f"{topic.name} says of {len(topic.marked_beyond)} lanes that more was trimmed on purpose than there ever was: "
            "an event that is lost there is not sent again"
        )
        yield Verdict("trimming marks", "bad", fact, f"redis-cli HDEL 'cauce:{{{topic.name}}}:trimmed' {lanes}")
