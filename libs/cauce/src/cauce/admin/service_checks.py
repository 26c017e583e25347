"""Checks of one service by its database alone: each a verdict, a fact and one command. Nothing is changed."""

import time
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.admin.database import DatabaseUnavailableError, read_only_connection
from cauce.admin.targets import Target
from cauce.admin.verdicts import QUIET_S, STUCK_S, age_state, clock_verdict
from cauce.ports.description import Description
from cauce.ports.figures import Figures, ListenerFigures, NoTablesError, StuckFigures
from cauce.ports.transport import Verdict
from cauce.stores.sql.checks import clock_of, oldest_transaction_s, server_settings
from cauce.stores.sql.figures import read_figures
from cauce.stores.sql.registry import description_of
from cauce.stores.sql.schema import SCHEMA, Found, examine

__all__ = ["Examined", "examine_service"]

_PASSES_S = 1.0
"""Trouble with the database that is over sooner, a conflict of two transactions for example, needs no operator."""


class Examined:
    """What was found of one service: verdicts, and for the broker's checks, what the service says of itself."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.verdicts: list[Verdict] = []
        self.description: Description | None = None
        self.running = False
        self.incarnation: str | None = None
        """Of its database, as its broker should have it noted."""

    def add(self, *verdicts: Verdict) -> None:
        self.verdicts += verdicts


async def examine_service(target: Target) -> Examined:
    """The checks that need the service's database alone. Raises nothing: what cannot be reached is a verdict."""
    found = Examined(target)
    asked = time.monotonic()
    try:
        async with read_only_connection(target) as connection:
            await _database(found, connection, asked)
            tables = await connection.run_sync(examine)
            found.add(_tables(target, tables))
            if tables.present:
                await _service(found, connection)
    except DatabaseUnavailableError as error:
        fix = "start it, or correct the URL: cauce config"
        found.add(Verdict("database", "bad", str(error).removeprefix(f"{target.name}: "), fix))
    except NoTablesError:
        pass  # the verdict on the tables reports it
    return found


async def _database(found: Examined, connection: AsyncConnection, asked: float) -> None:
    target = found.target
    server = await server_settings(connection)
    took = (time.monotonic() - asked) * 1000
    found.add(Verdict("database", "good", f"{server.version}, {target.database_label}, answers in {took:.0f} ms"))
    found.add(_commits(server.values, postgres=server.postgres))
    before = time.time()
    now = await clock_of(connection)
    found.add(clock_verdict("the database's clock", now - (before + time.time()) / 2))
    oldest_s = await oldest_transaction_s(connection)
    if oldest_s is not None and oldest_s > STUCK_S:
        fact = f"one has been open for {oldest_s:,.0f} s: nothing that was deleted since is cleaned up"
        fix = "SELECT pid, query FROM pg_stat_activity ORDER BY xact_start LIMIT 1, then pg_terminate_backend(pid)"
        found.add(Verdict("transactions", "weak", fact, fix))


def _commits(settings: Mapping[str, str], *, postgres: bool) -> Verdict:
    if not postgres:
        if settings["journal_mode"] == "wal":
            return Verdict("commits", "good", "write-ahead log, flushed at every commit of the service")
        fact = f"journal mode {settings['journal_mode']}: whoever reads holds up whoever writes"
        return Verdict("commits", "weak", fact, "open it with cauce.stores.sqlalchemy.create_engine")
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings[name] == "off"]
    if not off:
        return Verdict("commits", "good", "flushed to the disk before they are confirmed")
    fact = f"{', '.join(off)} off: a crash of the database's machine loses committed events"
    return Verdict("commits", "bad", fact, f"ALTER SYSTEM SET {off[0]} = on; SELECT pg_reload_conf()")


def _tables(target: Target, tables: Found) -> Verdict:
    upgrade = f"cauce db upgrade {target.typed}"
    if not tables.present:
        fact = "none of Cauce's. Nothing is written down before it is sent: EVENTS ARE LOST if a process dies"
        return Verdict("tables", "bad", fact, f"run the service with a durable transport, or: {upgrade}")
    if tables.version is not None and tables.version > SCHEMA:
        fact = f"of version {tables.version}; this command knows {SCHEMA}"
        return Verdict("tables", "weak", fact, "pip install --upgrade cauce")
    if tables.missing:
        shown = ", ".join(tables.missing[:3]) + (f" and {len(tables.missing) - 3} more" if tables.missing[3:] else "")
        return Verdict("tables", "bad", f"missing: {shown}", upgrade)
    return Verdict("tables", "good", f"version {SCHEMA}, complete")


async def _service(found: Examined, connection: AsyncConnection) -> None:
    figures = await read_figures(connection)
    found.description = await description_of(connection)
    found.running = bool(figures.members)
    found.incarnation = figures.incarnation
    target, typed = found.target, found.target.typed
    if figures.durable is not False:  # otherwise it needs no lanes, and does not record in the database that it runs
        found.add(_lanes(figures, target))
    if found.description is not None and found.description.transport is not None:
        found.add(_transport(found.description))
    found.add(_outbox(figures, typed))
    if figures.outbox.set_aside:
        found.add(_set_aside(figures, typed))
    found.add(*_listeners(figures, target))
    found.add(*_stuck(figures.stuck, figures.service, target, None if found.running else _start(target)))


def _lanes(figures: Figures, target: Target) -> Verdict:
    if not figures.members:
        waiting = figures.outbox.waiting + sum(one.waiting for one in figures.listeners)
        fact = f"no process of {figures.service} is running; {waiting:,} events wait for one"
        return Verdict("processes", "bad", fact, _start(target))
    processes = f"{len(figures.members)} process{'' if len(figures.members) == 1 else 'es'}"
    if figures.lanes_owned < figures.lanes:
        fact = f"{processes}, {figures.lanes - figures.lanes_owned} of {figures.lanes} lanes have no owner"
        return Verdict("processes", "weak", fact, f"cauce status {target.typed}; it should be over in 15 s")
    return Verdict("processes", "good", f"{processes}, all {figures.lanes} lanes owned")


def _start(target: Target) -> str:
    return "start it" if target.origin == "--database-url" else "cauce dev, or start it by hand"


def _transport(description: Description) -> Verdict:
    transport = description.transport
    assert transport is not None  # noqa: S101  # asked by the caller
    if transport.durable:
        return Verdict(
            "transport", "good", f"{transport.name}, durable: an event outlives the absence of its listeners"
        )
    fact = f"{transport.name} remembers nothing: AN EVENT IS LOST for every service that is not listening"
    return Verdict("transport", "bad", fact, "transport=RedisStreams(url) (EVENTS_TRANSPORT=redis-streams)")


def _outbox(figures: Figures, typed: str) -> Verdict:
    outbox = figures.outbox
    age = outbox.oldest_waiting_s
    if age is None:
        return Verdict("outbox", "good", f"empty; {outbox.sent_kept:,} sent events kept")
    fact = f"{outbox.waiting:,} waiting, the oldest for {age:,.0f} s"
    state = age_state(age)
    return Verdict("outbox", state, fact, "" if state == "good" else f"cauce outbox status {typed}")


def _set_aside(figures: Figures, typed: str) -> Verdict:
    outbox = figures.outbox
    behind = f", and {outbox.behind:,} later ones of their keys wait" if outbox.behind else ""
    fact = f"{outbox.set_aside:,} that the broker will never take{behind}"
    return Verdict("set aside", "bad", fact, f"cauce outbox status {typed}")


def _listeners(figures: Figures, target: Target) -> Iterator[Verdict]:
    typed = target.typed
    dead = [one for one in figures.listeners if one.dead]
    if dead:
        fact = f"{figures.dead:,}, of {_named([one.listener for one in dead])}"
        yield Verdict("dead", "bad", fact, f"cauce dead list {typed}")
    else:
        yield Verdict("dead", "good", "no dead letters")
    failing = [one for one in figures.listeners if one.failing]
    if failing:
        fact = f"{sum(one.failing for one in failing):,} deliveries failed and are tried again: {_named([one.listener for one in failing])}"
        yield Verdict("failing", "weak", fact, f"cauce waiting list {typed} --state failing")
    yield from (_trouble(one, target) for one in figures.listeners if one.in_trouble and _is_called(one))
    for one in figures.listeners:
        if one.paused_s is not None:
            fact = (
                f"{one.listener}, for {one.paused_s:,.0f} s, because {one.paused_because}; {one.waiting:,} events wait"
            )
            yield Verdict("paused", "bad", fact, f"cauce listener resume {one.listener} {target.option}")
    quiet = [
        one for one in figures.listeners if one.in_code and _never_called(one) and (one.known_for_s or 0) > QUIET_S
    ]
    if quiet:
        days = min(one.known_for_s or 0 for one in quiet) / 86400
        fact = f"{_named([one.listener for one in quiet])}: not once in {days:,.0f} days"
        yield Verdict("never called", "weak", fact, "is the event still published? cauce explain EVENT")
    orphans = [one for one in figures.listeners if not one.in_code and one.dead]
    if orphans:
        fact = f"dead letters of {_named([one.listener for one in orphans])}, not in the code any more"
        fix = f'cauce dead discard {target.option} --listener {orphans[0].listener} --because "…"'
        yield Verdict("dead of old", "weak", fact, fix)


def _stuck(stuck: StuckFigures, service: str, target: Target, start: str | None) -> Iterator[Verdict]:
    """What waits and does not move until a person does something. `start` is how to start the service, if it is not running."""
    typed = target.typed
    if stuck.overdue:
        fact = f"{stuck.overdue:,} deliveries were due more than a minute ago, and nobody has taken them"
        yield Verdict("waiting", "bad", fact, start or f"cauce status {typed}")
    for listener, count in stuck.postponed.items():
        fact = f"{count:,} for {listener} that only a newer version of the service can read: deploy it"
        yield Verdict(
            "newer version", "bad", fact, f"cauce waiting list {typed} --listener {listener} --state postponed"
        )
    for listener, count in stuck.held.items():
        fact = f"{count:,} for {listener} that nothing makes due, though no other event of the key is before them"
        fix = f"cauce waiting retry {target.option} --listener {listener} --state held"
        yield Verdict("held", "bad", fact, fix)
    for one in stuck.left_behind:
        deliveries = f"{one.count:,} deliver{'y' if one.count == 1 else 'ies'} of {one.event or 'an event'}"
        fact = f"{deliveries} for {one.listener}, which is not in the code any more"
        if one.listener_in_code:
            fact = f"{deliveries} for {one.listener}, and the code has no event class of that name any more"
        yield Verdict("left behind", "bad", fact, f"cauce waiting list {typed} --listener {one.listener}")
    for topic, count in stuck.unsent_elsewhere.items():
        events = f"{count:,} unsent event{'' if count == 1 else 's'}"
        fact = f"{events} of the topic {topic}, which {service} does not send to"
        fix = f"start {topic} with this database until they are sent: docs/how-to/retire-a-service.md"
        yield Verdict("left behind", "bad", fact, fix)


def _is_called(one: ListenerFigures) -> bool:
    """Whether anything can come of a try: otherwise other verdicts say what is to be done first."""
    return one.in_code and one.paused_s is None


def _trouble(one: ListenerFigures, target: Target) -> Verdict:
    for_s = one.in_trouble_for_s or 0.0
    events = f"{one.in_trouble:,} event{'' if one.in_trouble == 1 else 's'}"
    fact = f"{one.listener} cannot handle {events}, for {for_s:,.0f} s: {one.trouble}"
    fix = f"cauce waiting list {target.typed} --listener {one.listener} --state trouble"
    return Verdict("in trouble", "weak" if for_s < _PASSES_S else "bad", fact, fix)


def _never_called(one: ListenerFigures) -> bool:
    return not (one.handled or one.waiting or one.dead or one.discarded)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
