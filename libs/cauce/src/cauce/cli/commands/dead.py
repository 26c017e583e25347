"""`cauce dead`: what listeners gave up, and what becomes of it."""

import argparse
import sys
from typing import TYPE_CHECKING

from cauce.cli.options import add_found, add_given_up, add_one, add_selection
from cauce.cli.parsing import add_action, add_actions

if TYPE_CHECKING:
    from cauce.cli.parsing import Subparsers

__all__ = ["register"]

_LIST = """\
Dead letters of the project's services, newest first, those of the same cause together: deliveries that a
listener failed on every attempt, or rejected, or that could not be read. They stay until a person replays or discards them; if the event has a
key, the later events of that key wait behind it.

exit code: 0, also when there are some; 3 if a database cannot be reached.
"""
_SHOW = """\
All that is known of one dead letter: the error and its place in the code, every attempt with its time, the
producer, the payload, and how many others died of the same. Fields that look like secrets are not shown;
--raw writes the bytes exactly as they came.

exit code: 0; 1 if there is none with that id; 3 if a database cannot be reached.
"""
_REPLAY = """\
Hands dead letters to their listener again, and to no other: same event id, attempts counted from 1,
`context.replayed` is true. The running service takes them within a second and removes the dead letter in the
listener's own transaction. Leaves an audit row. Doing it twice does no harm.

    cauce dead replay 3f2a91c0                     one (any beginning of an id that is not ambiguous)
    cauce dead replay --listener welcome           those of one listener
    cauce dead replay --name 'shop.**' --reason exhausted --since 2h --dry-run
    cauce dead replay --all --rate 5               all of them, five a second

exit code: 0 all were replayed; 1 some were not (and with --wait: or were not handled); 2 it is not clear which
are meant; 3 if a database cannot be reached.
"""
_DISCARD = """\
Gives dead letters up for good. The next event of the same key is then due. --because is kept in the audit row
with your name; the event is not counted among the handled.

exit code: 0 all were discarded; 1 some were not; 2 it is not clear which are meant; 3 if a database cannot be
reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("dead", help="list, show, replay and discard dead letters", allow_abbrev=False)
    actions = add_actions(parser)

    listing = add_action(actions, "list", "dead letters, newest first", _LIST)
    add_found(listing, _add_filters)
    listing.set_defaults(run=run_list)

    show = add_action(actions, "show", "everything about one", _SHOW)
    add_one(show)
    show.set_defaults(run=run_show)

    replay = add_action(actions, "replay", "hand them to their listener again", _REPLAY)
    add_selection(replay, _add_filters)
    replay.add_argument("--rate", type=float, metavar="N", help="at most N a second")
    replay.add_argument("--because", metavar="WHY", help="for the audit row")
    wait = "wait so long (30) and say what became of them"
    replay.add_argument("--wait", type=float, nargs="?", const=30.0, metavar="SECONDS", help=wait)
    replay.set_defaults(run=run_replay)

    discard = add_action(actions, "discard", "give them up for good, with a reason", _DISCARD)
    add_selection(discard, _add_filters)
    add_given_up(discard)
    discard.set_defaults(run=run_discard)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listener", metavar="NAME", help="only of this listener (the last word of it will do)")
    parser.add_argument("--name", metavar="NAME", help="only events of this name; * is one part of it, ** any number")
    reasons = (
        "exhausted, rejected, 'crash loop', undecodable, 'newer version', 'wrong source', late, 'impossible number', "
        "'too old to dedupe' or uncertain"
    )
    parser.add_argument("--reason", metavar="REASON", help=f"only these: {reasons}")
    parser.add_argument("--since", metavar="WHEN", help="died since then: 2h, or 2026-11-24T08:05")


def run_list(arguments: argparse.Namespace) -> int:
    """0, or 3 if a database could not be asked."""
    from cauce.cli.running import carry_out

    return carry_out(_list(arguments))


def run_show(arguments: argparse.Namespace) -> int:
    """0, 1 if there is no such letter, 2 if the id begins several."""
    from cauce.cli.running import carry_out

    return carry_out(_show(arguments))


def run_replay(arguments: argparse.Namespace) -> int:
    """0 if all were replayed."""
    from cauce.cli.commands.dead_actions import replay_chosen
    from cauce.cli.running import carry_out

    return carry_out(replay_chosen(arguments))


def run_discard(arguments: argparse.Namespace) -> int:
    """0 if all were discarded."""
    from cauce.cli.commands.dead_actions import discard_chosen
    from cauce.cli.running import carry_out

    return carry_out(discard_chosen(arguments))


async def _list(arguments: argparse.Namespace) -> int:
    from cauce.admin.replay import find_letters
    from cauce.cli.commands.dead_actions import filters_of, narrowed
    from cauce.cli.commands.dead_pages import as_json, list_lines
    from cauce.cli.options import targets_of
    from cauce.cli.running import WRONG, complain_of_unreachable
    from cauce.cli.screen import complain, say, say_json

    filters = filters_of(arguments)
    found = await find_letters(targets_of(arguments), filters)
    code = complain_of_unreachable(found.unreachable)
    if found.unknown_listener is not None:
        complain(found.unknown_listener)
        return WRONG
    if arguments.json:
        say_json({name: [as_json(one.letter) for one in letters] for name, letters in found.by_service.items()})
        return code
    blocks = [list_lines(name, letters, arguments.limit) for name, letters in found.by_service.items() if letters]
    if blocks:
        say("\n\n".join("\n".join(lines) for lines in blocks))
    elif found.by_service:
        say("No dead letters" + (" like that." if narrowed(arguments) else "."))
    return code


async def _show(arguments: argparse.Namespace) -> int:
    from base64 import b64encode

    from cauce.admin.replay import count_alike
    from cauce.cli.commands.dead_actions import by_ids
    from cauce.cli.commands.dead_pages import as_json, show_lines
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE
    from cauce.cli.screen import say, say_json

    found = await by_ids(targets_of(arguments), [arguments.id])
    if isinstance(found, int):
        return found
    one = found[0]
    if arguments.raw and not arguments.json:
        sys.stdout.buffer.write(one.letter.message)
        sys.stdout.buffer.flush()
        return DONE
    alike = await count_alike(one)
    if arguments.json:
        raw = {"raw_base64": b64encode(one.letter.message).decode()} if arguments.raw else {}
        told = {"service": one.target.name, **as_json(one.letter), "stack": one.letter.stack, "like_this": alike}
        say_json({**told, **raw})
    else:
        say("\n".join(show_lines(one, alike)))
    return DONE
