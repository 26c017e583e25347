"""`cauce waiting retry`, `move` and `discard`: what was asked for, and what is printed of it."""

import argparse
from collections.abc import Sequence

from msgspec.structs import replace

from cauce.admin import waiting
from cauce.admin.finding import UnknownDeliveryError
from cauce.admin.targets import Target
from cauce.admin.waiting import ChosenDelivery
from cauce.cli.actions import BulkAction, complain_of_settled, require_one_selector, require_reason
from cauce.cli.options import targets_of
from cauce.cli.running import DONE, WRONG, complain_of_unreachable
from cauce.cli.screen import complain
from cauce.errors import ConfigurationError, did_you_mean
from cauce.stores.sql.waiting_deliveries import STATES, WaitingFilter

__all__ = ["by_ids", "discard_chosen", "filters_of", "move_chosen", "narrowed", "retry_chosen"]

_NOUN = "waiting event"
_LISTED = tuple(one for one in STATES if one != "dead")
_AFTERWARDS = "Taken within a second, if the service runs: cauce status"


async def retry_chosen(arguments: argparse.Namespace) -> int:
    """Make due what was meant, and return the exit code."""
    filters = filters_of(arguments)
    if not arguments.ids and filters.state is None:
        filters = replace(filters, state="failing")
    chosen = await _chosen(arguments, filters)
    if isinstance(chosen, int):
        return chosen
    result = await waiting.retry(chosen, why=arguments.because, dry_run=arguments.dry_run)
    return BulkAction("made due", _NOUN, result).report(as_json=arguments.json, afterwards=_AFTERWARDS)


async def move_chosen(arguments: argparse.Namespace) -> int:
    """Move what was meant, the events of a key in their order, and return the exit code."""
    chosen = await _chosen(arguments, filters_of(arguments))
    if isinstance(chosen, int):
        return chosen
    result = await waiting.move(chosen, to=arguments.to, why=arguments.because, dry_run=arguments.dry_run)
    return BulkAction("moved", _NOUN, result).report(as_json=arguments.json, afterwards=_AFTERWARDS)


async def discard_chosen(arguments: argparse.Namespace) -> int:
    """Discard what was meant, the events of a key in their order, and return the exit code."""
    because: str = arguments.because
    if not require_reason(because):
        return WRONG
    chosen = await _chosen(arguments, filters_of(arguments))
    if isinstance(chosen, int):
        return chosen
    result = await waiting.discard(chosen, why=because, dry_run=arguments.dry_run)
    return BulkAction("discarded", _NOUN, result).report(as_json=arguments.json)


async def _chosen(arguments: argparse.Namespace, filters: WaitingFilter) -> Sequence[ChosenDelivery] | int:
    """The deliveries that were meant, or the exit code after a complaint."""
    ids: Sequence[str] = arguments.ids
    usage = "Ids; or --listener, --name, --key, --state; or --all. To see them: cauce waiting list"
    if not require_one_selector(f"cauce waiting {arguments.action}", (ids, narrowed(arguments), arguments.all), usage):
        return WRONG
    targets = targets_of(arguments)
    if ids:
        return await by_ids(targets, ids)
    found = await waiting.choose_deliveries(targets, filters)
    code = complain_of_unreachable(found.unreachable)
    if not found.everything and code != DONE:
        return code
    if found.unknown_listener is not None:
        complain(found.unknown_listener)
        return WRONG
    return found.everything


async def by_ids(targets: Sequence[Target], ids: Sequence[str]) -> Sequence[ChosenDelivery] | int:
    """The delivery that each id, or beginning of one, means; or the exit code after a complaint."""
    try:
        return await waiting.deliveries_of_ids(targets, ids)
    except UnknownDeliveryError as error:
        return complain_of_settled(error, "does not wait any more")


def filters_of(arguments: argparse.Namespace) -> WaitingFilter:
    """What the filters say. Raises ConfigurationError for one that means nothing."""
    state: str | None = arguments.state
    if state is not None and state not in _LISTED:
        nearest = did_you_mean(state, _LISTED)
        raise ConfigurationError([f"--state {state}: not one of {', '.join(_LISTED)}.{nearest}"])
    return WaitingFilter(listener=arguments.listener, name=arguments.name, key=arguments.key, state=state)


def narrowed(arguments: argparse.Namespace) -> bool:
    """Whether any filter was given."""
    return any((arguments.listener, arguments.name, arguments.key is not None, arguments.state))
