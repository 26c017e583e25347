"""`cauce waiting`: what waits for a listener and why, and what becomes of it."""

import argparse
import sys
from typing import TYPE_CHECKING

from cauce.cli.options import add_found, add_given_up, add_one, add_selection
from cauce.cli.parsing import add_action, add_actions

if TYPE_CHECKING:
    from cauce.cli.parsing import Subparsers

__all__ = ["register"]

_LIST = """\
What waits for the listeners of the project's services, those of the same cause together: deliveries that
failed or met trouble with the database, and will be tried again, those behind an earlier event of their key,
those of a paused listener or of one that is not in the code any more. Dead letters are in `cauce dead list`.

exit code: 0, also when some wait; 2 no such listener; 3 if a database cannot be reached.
"""
_SHOW = """\
All that is known of one waiting delivery: why it waits, the last error and its place in the code, every attempt
with its time, when the next one is, what is ahead of it and behind it, and the payload. Fields that look like
secrets are not shown; --raw writes the bytes exactly as they came.

exit code: 0; 1 if nothing waits with that id; 3 if a database cannot be reached.
"""
_RETRY = """\
Tries failing deliveries, and those in trouble with the database, now instead of at their time. The attempts they
have had count: after the last one that is allowed they are dead letters. By a filter, those that can be tried are
chosen; by id, one that cannot is refused with the reason. Leaves an audit row. Doing it twice does no harm.

    cauce waiting retry 3f2a91c04b1e               one (any beginning of an id that is not ambiguous)
    cauce waiting retry --listener welcome         all that fail of one listener
    cauce waiting retry --all --dry-run            only say which

exit code: 0 all are due now; 1 some are not; 2 it is not clear which are meant; 3 if a database cannot be
reached.
"""
_MOVE = """\
Gives what waits for one listener to another one of the same service, which must listen to that event: after a
listener was replaced by one of another name. It is due at once, the events of a key in their order, with all its
attempts. What the other one has had already is refused. Dead letters stay where they are. Leaves an audit row.

    cauce waiting move --listener old_welcome --to welcome
    cauce waiting move 3f2a91c04b1e --to welcome --because "renamed in 2.1"

exit code: 0 all were moved; 1 some were not; 2 it is not clear which are meant, or where to; 3 if a database
cannot be reached.
"""
_DISCARD = """\
Gives waiting deliveries up for good: their listener never handles them. The next event of the same key is then
due. One whose effect is under way is refused. --because is kept in the audit row with your name; the event is
not counted among the handled.

exit code: 0 all were discarded; 1 some were not; 2 it is not clear which are meant; 3 if a database cannot be
reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser(
        "waiting", help="list, show, retry, move and discard what waits for a listener", allow_abbrev=False
    )
    actions = add_actions(parser)

    listing = add_action(actions, "list", "what waits, and why", _LIST)
    add_found(listing, _add_filters)
    listing.set_defaults(run=run_list)

    show = add_action(actions, "show", "everything about one", _SHOW)
    add_one(show)
    show.set_defaults(run=run_show)

    retry = add_action(actions, "retry", "try failing ones now", _RETRY)
    add_selection(retry, _add_filters)
    retry.add_argument("--because", metavar="WHY", help="for the audit row")
    retry.set_defaults(run=run_retry)

    move = add_action(actions, "move", "give them to another listener", _MOVE)
    add_selection(move, _add_filters)
    move.add_argument("--to", metavar="LISTENER", required=True, help="the other listener of the same service")
    move.add_argument("--because", metavar="WHY", help="for the audit row")
    move.set_defaults(run=run_move)

    discard = add_action(actions, "discard", "give them up for good, with a reason", _DISCARD)
    add_selection(discard, _add_filters)
    add_given_up(discard)
    discard.set_defaults(run=run_discard)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listener", metavar="NAME", help="only of this listener (the last word of it will do)")
    parser.add_argument("--name", metavar="NAME", help="only events of this name; * is one part of it, ** any number")
    parser.add_argument("--key", metavar="KEY", help="only events of this key")
    states = "failing, trouble, due, behind, held, postponed, paused or gone"
    parser.add_argument("--state", metavar="STATE", help=f"only these: {states}")


def run_list(arguments: argparse.Namespace) -> int:
    """0, or 3 if a database could not be asked."""
    from cauce.cli.running import carry_out

    return carry_out(_list(arguments))


def run_show(arguments: argparse.Namespace) -> int:
    """0, 1 if there is no such delivery, 2 if the id begins several."""
    from cauce.cli.running import carry_out

    return carry_out(_show(arguments))


def run_retry(arguments: argparse.Namespace) -> int:
    """0 if all are due now."""
    from cauce.cli.commands.waiting_actions import retry_chosen
    from cauce.cli.running import carry_out

    return carry_out(retry_chosen(arguments))


def run_move(arguments: argparse.Namespace) -> int:
    """0 if all were moved."""
    from cauce.cli.commands.waiting_actions import move_chosen
    from cauce.cli.running import carry_out

    return carry_out(move_chosen(arguments))


def run_discard(arguments: argparse.Namespace) -> int:
    """0 if all were discarded."""
    from cauce.cli.commands.waiting_actions import discard_chosen
    from cauce.cli.running import carry_out

    return carry_out(discard_chosen(arguments))


async def _list(arguments: argparse.Namespace) -> int:
    from cauce.admin.waiting import find_waiting
    from cauce.cli.commands.waiting_actions import filters_of, narrowed
    from cauce.cli.commands.waiting_pages import as_json, list_lines
    from cauce.cli.options import targets_of
    from cauce.cli.running import WRONG, complain_of_unreachable
    from cauce.cli.screen import complain, say, say_json

    found = await find_waiting(targets_of(arguments), filters_of(arguments), each=arguments.limit)
    code = complain_of_unreachable(found.unreachable)
    if found.unknown_listener is not None:
        complain(found.unknown_listener)
        return WRONG
    if arguments.json:
        say_json({name: [as_json(one.delivery) for one in some] for name, some in found.by_service.items()})
        return code
    blocks = [list_lines(name, some) for name, some in found.by_service.items() if some]
    if blocks:
        say("\n\n".join("\n".join(lines) for lines in blocks))
    elif found.by_service:
        say("Nothing waits" + (" like that." if narrowed(arguments) else "."))
    return code


async def _show(arguments: argparse.Namespace) -> int:
    from base64 import b64encode

    from cauce.cli.commands.waiting_actions import by_ids
    from cauce.cli.commands.waiting_pages import as_json, show_lines
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE
    from cauce.cli.screen import say, say_json

    found = await by_ids(targets_of(arguments), [arguments.id])
    if isinstance(found, int):
        return found
    one = found[0]
    if arguments.raw and not arguments.json:
        sys.stdout.buffer.write(one.delivery.message)
        sys.stdout.buffer.flush()
        return DONE
    if arguments.json:
        raw = {"raw_base64": b64encode(one.delivery.message).decode()} if arguments.raw else {}
        say_json({"service": one.target.name, **as_json(one.delivery), **raw})
    else:
        say("\n".join(show_lines(one)))
    return DONE
