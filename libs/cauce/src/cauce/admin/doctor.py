"""Live checks of a service and its broker: each a verdict, a fact and one command. Nothing is changed by looking."""

import time
from collections.abc import Iterator, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.admin.database import DatabaseUnavailableError, looking
from cauce.admin.targets import Target
from cauce.ports.description import Description
from cauce.ports.figures import Figures, ListenerFigures, NoTablesError
from cauce.ports.topics import Group
from cauce.ports.transport import Verdict
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.figures import read_figures
from cauce.stores.sql.registry import description_of
from cauce.stores.sql.schema import SCHEMA, Found, examine
from cauce.stores.sql.waiting_room import count_overdue
from cauce.transports.redis.pipeline import RedisRefusal
from cauce.transports.redis.replies import text
from cauce.transports.redis.topics import BrokerView

__all__ = ["Examined", "examine_broker", "examine_service", "worst"]

_SLOW_S = 60.0
_STUCK_S = 600.0
_SKEW_S = 2.0
_QUIET_S = 24 * 3600.0
_ORDER = ("good", "unknown", "weak", "bad")


class Examined:
    """What was found of one service: verdicts, and for the broker's checks, what the service says of itself."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.verdicts: list[Verdict] = []
        self.description: Description | None = None
        self.running = False

    def add(self, *verdicts: Verdict) -> None:
        self.verdicts += verdicts


def worst(verdicts: Sequence[Verdict]) -> str:
    """The state that counts: bad, weak, unknown or good."""
    return max((one.state for one in verdicts), key=_ORDER.index, default="good")


async def examine_service(target: Target) -> Examined:
    """The checks that need the service's database alone. Raises nothing: what cannot be reached is a verdict."""
    found = Examined(target)
    asked = time.monotonic()
    try:
        async with looking(target) as connection:
            await _database(found, connection, asked)
            tables = await connection.run_sync(examine)
            found.add(_tables(target, tables))
            if tables.present:
                await _service(found, connection)
    except DatabaseUnavailableError as error:
        fix = "start it, or correct the URL: cauce config"
        found.add(Verdict("database", "bad", str(error).removeprefix(f"{target.name}: "), fix))
    except NoTablesError:
        pass  # the verdict on the tables says so
    return found


async def _database(found: Examined, connection: AsyncConnection, asked: float) -> None:
    target = found.target
    dialect = Dialect(connection.dialect.name)
    if dialect.postgres:
        settings = {
            name: str((await connection.exec_driver_sql(f"SHOW {name}")).scalar_one())
            for name in ("server_version", "fsync", "full_page_writes", "synchronous_commit")
        }
        version = f"PostgreSQL {settings['server_version'].split()[0]}"
    else:
        version = f"SQLite {(await connection.exec_driver_sql('SELECT sqlite_version()')).scalar_one()}"
        settings = {"journal_mode": str((await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one())}
    took = (time.monotonic() - asked) * 1000
    found.add(Verdict("database", "good", f"{version}, {target.database_label}, answers in {took:.0f} ms"))
    found.add(_commits(settings, postgres=dialect.postgres))
    before = time.time()
    (row,) = await connection.execute(dialect.sql("SELECT :NOW AS now"))
    skew = float(row.now) - (before + time.time()) / 2
    found.add(_clock("the database's clock", skew))
    if dialect.postgres:
        (oldest,) = await connection.exec_driver_sql(
            "SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) AS age FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        if oldest.age is not None and float(oldest.age) > _STUCK_S:
            fact = f"one has been open for {float(oldest.age):,.0f} s: nothing that was deleted since is cleaned up"
            fix = "SELECT pid, query FROM pg_stat_activity ORDER BY xact_start LIMIT 1, then pg_terminate_backend(pid)"
            found.add(Verdict("transactions", "weak", fact, fix))


def _commits(settings: dict[str, str], *, postgres: bool) -> Verdict:
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


def _clock(what: str, skew: float) -> Verdict:
    if abs(skew) < _SKEW_S:
        return Verdict("clock", "good", f"{what} and this machine's agree within {max(abs(skew), 0.01):.2f} s")
    direction = "ahead of" if skew > 0 else "behind"
    fact = f"{what} is {abs(skew):,.1f} s {direction} this machine's; times shown here and --since are off by that"
    return Verdict("clock", "weak" if abs(skew) < _STUCK_S else "bad", fact, "timedatectl status, on both machines")


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
    overdue = await count_overdue(connection, longer_than_s=60.0)
    target, typed = found.target, found.target.typed
    if figures.durable is not False:  # otherwise nobody needs lanes, and nobody says in the database that it runs
        found.add(_lanes(figures, target))
    if found.description is not None and found.description.transport is not None:
        found.add(_transport(found.description))
    found.add(_outbox(figures, typed))
    if figures.outbox.set_aside:
        found.add(_set_aside(figures, typed))
    if overdue:
        fact = f"{overdue:,} deliveries were due more than a minute ago, and nobody has taken them"
        found.add(Verdict("waiting", "bad", fact, _start(target) if not found.running else f"cauce status {typed}"))
    found.add(*_listeners(figures, typed))


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
    state = "good" if age < _SLOW_S else "weak" if age < _STUCK_S else "bad"
    return Verdict("outbox", state, fact, "" if state == "good" else f"cauce outbox status {typed}")


def _set_aside(figures: Figures, typed: str) -> Verdict:
    outbox = figures.outbox
    behind = f", and {outbox.behind:,} later ones of their keys wait" if outbox.behind else ""
    fact = f"{outbox.set_aside:,} that the broker will never take{behind}"
    return Verdict("set aside", "bad", fact, f"cauce outbox status {typed}")


def _listeners(figures: Figures, typed: str) -> Iterator[Verdict]:
    dead = [one for one in figures.listeners if one.dead]
    if dead:
        fact = f"{figures.dead:,}, of {_named([one.listener for one in dead])}"
        yield Verdict("dead", "bad", fact, f"cauce dead list {typed}")
    else:
        yield Verdict("dead", "good", "no dead letters")
    failing = [one for one in figures.listeners if one.failing]
    if failing:
        fact = f"{sum(one.failing for one in failing):,} deliveries failed and are tried again: {_named([one.listener for one in failing])}"
        yield Verdict("failing", "weak", fact, f"cauce status {typed}")
    quiet = [
        one for one in figures.listeners if one.in_code and _never_called(one) and (one.known_for_s or 0) > _QUIET_S
    ]
    if quiet:
        days = min(one.known_for_s or 0 for one in quiet) / 86400
        fact = f"{_named([one.listener for one in quiet])}: not once in {days:,.0f} days"
        yield Verdict("never called", "weak", fact, "is the event still published? cauce explain EVENT")
    orphans = [one for one in figures.listeners if not one.in_code and (one.waiting or one.dead)]
    if orphans:
        fact = f"{_named([one.listener for one in orphans])}: not in the code any more, and deliveries wait for it"
        yield Verdict("left behind", "weak", fact, f'cauce dead discard --listener {orphans[0].listener} --because "…"')


def _never_called(one: ListenerFigures) -> bool:
    return not (one.handled or one.waiting or one.dead or one.discarded)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


# --- the broker ---------------------------------------------------------------------------------------------


async def examine_broker(view: BrokerView, services: Sequence[Examined]) -> list[Verdict]:
    """The checks of the broker that these services use. Raises RedisTroubleError, TransportUnavailableError."""
    asked = time.monotonic()
    before = time.time()
    now_ms = await view.now_ms()
    took = (time.monotonic() - asked) * 1000
    found = [Verdict("broker", "good", f"Redis at {view.address} answers in {took:.0f} ms")]
    found.append(_clock("the broker's clock", now_ms / 1000 - (before + time.time()) / 2))
    found += list(await view.health())
    found += await _memory(view)
    for examined in services:
        if examined.description is not None:
            found += _address(view, examined.description)
            found += await _groups(view, examined, examined.description)
    found += await _retired(view, services)
    return found


async def _memory(view: BrokerView) -> list[Verdict]:
    (answer,) = await view.ask(("INFO", "memory"))
    if isinstance(answer, RedisRefusal):
        return []
    info = dict(line.split(":", 1) for line in text(answer).splitlines() if ":" in line)
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return []
    share = used / limit
    state = "good" if share < 0.8 else "weak" if share < 0.95 else "bad"
    fact = f"{share:.0%} of {limit / 1024**2:,.0f} MiB used" + (
        "" if state == "good" else "; when full, nothing is sent"
    )
    return [Verdict("memory", state, fact, "" if state == "good" else "redis-cli CONFIG SET maxmemory …")]


def _address(view: BrokerView, description: Description) -> list[Verdict]:
    said = description.transport.address if description.transport else None
    if said is None or _normal(said) == _normal(view.address):
        return []
    fact = f"{description.service} was started with the broker at {said}; this look was at {view.address}"
    return [Verdict("address", "weak", fact, "cauce doctor --redis-url redis://…")]


def _normal(address: str) -> str:
    return address.replace("localhost", "127.0.0.1")


async def _groups(view: BrokerView, examined: Examined, description: Description) -> list[Verdict]:
    found: list[Verdict] = []
    for topic_name in description.topics:
        topic = await view.topic(topic_name)
        group = next((one for one in topic.groups if one.name == description.service), None)
        subject = f"{description.service} ← {topic_name}"
        if group is None:
            if examined.running and topic.streams:
                fact = "it runs, and has no group there: it hears nothing"
                found.append(Verdict(subject, "bad", fact, "look at its log; its broker user may lack rights"))
            continue
        found.append(_lag(subject, group, running=examined.running))
    return found


def _lag(subject: str, group: Group, *, running: bool) -> Verdict:
    waiting = group.lag + group.pending
    age = group.oldest_waiting_s or 0.0
    if not waiting:
        return Verdict(subject, "good", "nothing waits on the broker")
    fact = f"{group.lag:,} not given yet, {group.pending:,} given and not acknowledged, the oldest {age:,.0f} s old"
    state = "good" if age < _SLOW_S else "weak" if age < _STUCK_S else "bad"
    return Verdict(subject, state, fact, "" if state == "good" else "cauce topic list" if running else "start it")


async def _retired(view: BrokerView, services: Sequence[Examined]) -> list[Verdict]:
    """Groups that hold up trimming and belong to nobody here that runs."""
    known = {one.description.service for one in services if one.description}
    found: list[Verdict] = []
    for topic_name in sorted(known):
        for group in (await view.topic(topic_name)).groups:
            if group.name not in known and group.lag + group.pending and (group.oldest_waiting_s or 0) > _QUIET_S:
                days = (group.oldest_waiting_s or 0) / 86400
                fact = f"has not read for {days:,.0f} days; {topic_name} cannot be trimmed, and grows"
                found.append(
                    Verdict(
                        group.name, "weak", fact, f"start it; or, if it is retired: cauce topic forget {group.name}"
                    )
                )
    return found
