"""`cauce outbox release` and `cauce outbox discard`: what was asked for, and what is printed of it."""

import argparse
from collections.abc import Sequence

from cauce.admin import release
from cauce.admin.release import ChosenEvent
from cauce.admin.selection import UnknownIdError
from cauce.cli.actions import BulkAction, complain_of_unknown_id, require_one_selector, require_reason
from cauce.cli.options import targets_of
from cauce.cli.running import DONE, WRONG, complain_of_unreachable

__all__ = ["discard_chosen", "release_chosen"]


async def release_chosen(arguments: argparse.Namespace) -> int:
    """Release those that were meant, in the order of publishing, and return the exit code."""
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    result = await release.release(chosen, why=arguments.because, dry_run=arguments.dry_run)
    action = BulkAction("released", "outgoing event", result)
    return action.report(
        as_json=arguments.json, afterwards="Sent within a second, if the service runs: cauce outbox status"
    )


async def discard_chosen(arguments: argparse.Namespace) -> int:
    """Discard those that were meant, and return the exit code."""
    because: str = arguments.because
    if not require_reason(because):
        return WRONG
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    result = await release.discard(chosen, why=because, dry_run=arguments.dry_run)
    return BulkAction("discarded", "outgoing event", result).report(as_json=arguments.json)


async def _chosen(arguments: argparse.Namespace) -> Sequence[ChosenEvent] | int:
    """The events that were meant, in the order of publishing, or the exit code after a complaint."""
    ids: Sequence[str] = arguments.ids
    usage = "Ids; or --name; or --all. To see them: cauce outbox status"
    if not require_one_selector(f"cauce outbox {arguments.action}", (ids, arguments.name, arguments.all), usage):
        return WRONG
    targets = targets_of(arguments)
    if ids:
        try:
            return await release.events_of_ids(targets, ids)
        except UnknownIdError as error:
            return complain_of_unknown_id(error)
    found = await release.find_set_aside(targets, name=arguments.name)
    code = complain_of_unreachable(found.unreachable)
    return found.everything if found.everything or code == DONE else code
