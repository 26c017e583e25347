"""`cauce dead replay` and `cauce dead discard`: what was asked for, and what is printed of it."""

import argparse
from collections.abc import Sequence
from typing import get_args

from cauce.admin import replay
from cauce.admin.finding import UnknownDeliveryError
from cauce.admin.replay import ChosenLetter
from cauce.admin.targets import Target
from cauce.cli.actions import BulkAction, complain_of_settled, require_one_selector, require_reason
from cauce.cli.options import targets_of
from cauce.cli.running import DONE, WRONG, complain_of_unreachable
from cauce.cli.screen import complain
from cauce.cli.when import age
from cauce.errors import ConfigurationError, did_you_mean
from cauce.ports.inbox import Reason
from cauce.stores.sql.dead_letters import DeadLetterFilter

__all__ = ["REASONS", "by_ids", "discard_chosen", "filters_of", "narrowed", "replay_chosen"]

REASONS: tuple[str, ...] = get_args(Reason)


async def replay_chosen(arguments: argparse.Namespace) -> int:
    """Replay those that were meant, oldest first, and return the exit code."""
    rate: float | None = arguments.rate
    if rate is not None and rate <= 0:
        complain(f"--rate {rate:g}: expected a number of letters a second, above 0.")
        return WRONG
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    result = await replay.replay(chosen, why=arguments.because, rate=rate, dry_run=arguments.dry_run)
    outcome = None
    if arguments.wait is not None and not arguments.dry_run:
        outcome = await replay.wait_for_outcomes(result.done, arguments.wait)
    afterwards = None if outcome is not None else "Taken within a second, if the service runs: cauce status"
    action = BulkAction("replayed", "dead letter", result)
    return action.report(outcome, as_json=arguments.json, afterwards=afterwards)


async def discard_chosen(arguments: argparse.Namespace) -> int:
    """Discard those that were meant, oldest first, and return the exit code."""
    because: str = arguments.because
    if not require_reason(because):
        return WRONG
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    result = await replay.discard(chosen, why=because, dry_run=arguments.dry_run)
    return BulkAction("discarded", "dead letter", result).report(as_json=arguments.json)


async def _chosen(arguments: argparse.Namespace) -> Sequence[ChosenLetter] | int:
    """The letters that were meant, oldest first, or the exit code after a complaint."""
    ids: Sequence[str] = arguments.ids
    usage = "Ids; or --listener, --name, --reason, --since; or --all. To see them: cauce dead list"
    if not require_one_selector(f"cauce dead {arguments.action}", (ids, narrowed(arguments), arguments.all), usage):
        return WRONG
    filters = filters_of(arguments)
    targets = targets_of(arguments)
    if ids:
        return await by_ids(targets, ids)
    found = await replay.find_letters(targets, filters)
    oldest_first = [one for letters in found.by_service.values() for one in reversed(letters)]
    code = complain_of_unreachable(found.unreachable)
    if not oldest_first and code != DONE:
        return code
    if found.unknown_listener is not None:
        complain(found.unknown_listener)
        return WRONG
    return oldest_first


async def by_ids(targets: Sequence[Target], ids: Sequence[str]) -> Sequence[ChosenLetter] | int:
    """The letter that each id, or beginning of one, means; or the exit code after a complaint."""
    try:
        return await replay.letters_of_ids(targets, ids)
    except UnknownDeliveryError as error:
        return complain_of_settled(error, "is no dead letter any more")


def filters_of(arguments: argparse.Namespace) -> DeadLetterFilter:
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
