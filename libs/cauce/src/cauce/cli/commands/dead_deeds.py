"""`cauce dead replay` and `cauce dead discard`: which letters are meant, what is done, and what is said of it."""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.admin.database import DatabaseUnavailableError, looking
from cauce.admin.short_ids import short_ids
from cauce.admin.targets import Target
from cauce.cli.actions import Deeds, asked_in_one_way, begins_several, says_why
from cauce.cli.options import targets_of
from cauce.cli.running import DONE, NOT_DONE, UNREACHABLE, WRONG, each
from cauce.cli.screen import complain
from cauce.cli.when import age, stamp
from cauce.errors import ConfigurationError, did_you_mean
from cauce.ports.figures import NoTablesError
from cauce.ports.inbox import Reason
from cauce.stores.sql.audit import AuditEntry, history_of
from cauce.stores.sql.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    NoSuchListenerError,
    by_prefix,
    discard,
    outcomes,
    replay,
    select,
)

__all__ = ["REASONS", "Chosen", "by_ids", "discard_chosen", "narrowed", "replay_chosen", "wanted"]

_SETTLED = ("handled", "dead again")
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A letter, where it is, and its id as short as it may be."""

    target: Target
    letter: DeadLetter
    short: str

    @property
    def id(self) -> str:
        return self.letter.id

    @property
    def about(self) -> str:
        return f"{self.letter.name} → {self.letter.listener}"


async def replay_chosen(arguments: argparse.Namespace) -> int:
    """Replay those that were meant, oldest first, and return the exit code."""
    rate: float | None = arguments.rate
    if rate is not None and rate <= 0:
        complain(f"--rate {rate:g}: expected a number of letters a second, above 0.")
        return WRONG
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    deeds = Deeds[Chosen]("replayed", "dead letter", dry_run=arguments.dry_run)
    deeds.refused = [(one, why) for one in chosen if (why := _not_replayable(one.letter)) is not None]

    async def put_back(engine: AsyncEngine, one: Chosen) -> bool:
        was_there = await replay(engine, one.letter, why=arguments.because)
        if was_there and rate:
            await asyncio.sleep(1 / rate)
        return was_there

    await deeds.carry_out([one for one in chosen if _not_replayable(one.letter) is None], put_back)
    outcome = None
    if arguments.wait is not None and not arguments.dry_run:
        outcome = await _wait(deeds.done, arguments.wait)
    afterwards = None if outcome is not None else "Taken within a second, if the service runs: cauce status"
    return deeds.tell(outcome, as_json=arguments.json, afterwards=afterwards)


async def discard_chosen(arguments: argparse.Namespace) -> int:
    """Discard those that were meant, oldest first, and return the exit code."""
    because: str = arguments.because
    if not says_why(because):
        return WRONG
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    deeds = Deeds[Chosen]("discarded", "dead letter", dry_run=arguments.dry_run)
    await deeds.carry_out(chosen, lambda engine, one: discard(engine, one.letter, why=because))
    return deeds.tell(as_json=arguments.json)


def _not_replayable(letter: DeadLetter) -> str | None:
    if letter.envelope is None:
        return "its bytes are no event, so no listener can be given it; discard it"
    if not letter.reached_a_listener:
        return "it belongs to no listener of this service; discard it"
    return None


async def _wait(replayed: Sequence[Chosen], limit_s: float) -> Mapping[str, str]:
    """By id, what became of them: handled, dead again, or how it stood when the time was over."""
    deadline = asyncio.get_running_loop().time() + limit_s
    settled: dict[str, str] = {}
    while True:
        for target in dict.fromkeys(one.target for one in replayed):
            open_ones = [
                one.letter for one in replayed if one.target is target and settled.get(one.letter.id) not in _SETTLED
            ]
            if open_ones:
                async with looking(target) as connection:
                    settled |= await outcomes(connection, open_ones)
        everything = all(became in _SETTLED for became in settled.values())
        if everything or asyncio.get_running_loop().time() >= deadline:
            return settled
        await asyncio.sleep(0.1)


async def _chosen(arguments: argparse.Namespace) -> Sequence[Chosen] | int:
    """The letters that were meant, oldest first, or the exit code after a complaint."""
    ids: Sequence[str] = arguments.ids
    usage = "Ids; or --listener, --name, --reason, --since; or --all. To see them: cauce dead list"
    if not asked_in_one_way(f"cauce dead {arguments.action}", (ids, narrowed(arguments), arguments.all), usage):
        return WRONG
    filters = wanted(arguments)
    targets = targets_of(arguments)
    if ids:
        return await by_ids(targets, ids)
    found: list[Chosen] = []
    strangers: list[str] = []

    async def look(target: Target) -> None:
        async with looking(target) as connection:
            try:
                letters = await select(connection, filters)
            except NoSuchListenerError as error:
                strangers.append(f"{target.name}: {error}")
                return
            shown = await short_ids(connection)
            found.extend(Chosen(target, letter, shown[letter.id]) for letter in reversed(letters))

    reached, code = await each(targets, look)
    if not found and code != DONE:
        return code
    if strangers and len(strangers) == len(reached):
        complain("\n".join(strangers))
        return WRONG
    return found


async def by_ids(targets: Sequence[Target], ids: Sequence[str]) -> Sequence[Chosen] | int:
    """The letter that each id, or beginning of one, means; or the exit code after a complaint."""
    chosen: dict[str, Chosen] = {}
    for prefix in (one.lower() for one in ids):
        candidates: list[Chosen] = []
        past: list[str] = []
        silent: list[str] = []
        for target in targets:
            try:
                async with looking(target) as connection:
                    letters = await by_prefix(connection, prefix)
                    shown = await short_ids(connection) if letters else {}
                    candidates += [Chosen(target, letter, shown[letter.id]) for letter in letters]
                    past += [] if letters else await _history(connection, prefix)
            except (DatabaseUnavailableError, NoTablesError) as error:
                silent.append(str(error))  # of no interest if another database knows the id
        if len(candidates) == 1:
            chosen[candidates[0].letter.id] = candidates[0]
            continue
        if candidates:
            return begins_several(prefix, candidates)
        complain("\n".join([*silent, *past]) or f"No dead letter begins with {prefix!r}. To see them: cauce dead list")
        return UNREACHABLE if silent else NOT_DONE
    return list(chosen.values())


async def _history(connection: AsyncConnection, prefix: str) -> Sequence[str]:
    """What became of a letter that is not there any more."""
    deeds = await history_of(connection, prefix)
    told = [f"{prefix} was {deed.what}ed by {deed.who} at {stamp(deed.at)}" + _because(deed) for deed in deeds]
    if deeds and deeds[-1].what == "replay":
        told.append(f"{prefix} is no dead letter any more: its listener has handled it.")
    return told


def _because(deed: AuditEntry) -> str:
    return f", because {deed.why}" if deed.why else ""


def wanted(arguments: argparse.Namespace) -> DeadLetterFilter:
    """What the filters say. Raises ConfigurationError for one that means nothing."""
    reason: str | None = arguments.reason
    if reason is not None and reason not in REASONS:
        nearest = did_you_mean(reason, REASONS)
        raise ConfigurationError([f"--reason {reason}: not one of {', '.join(REASONS)}.{nearest}"])
    since = None if arguments.since is None else age(arguments.since, option="--since")
    return DeadLetterFilter(listener=arguments.listener, name=arguments.name, reason=reason, since_s=since)


def narrowed(arguments: argparse.Namespace) -> bool:
    """Whether any filter was given."""
    return any((arguments.listener, arguments.name, arguments.reason, arguments.since is not None))
