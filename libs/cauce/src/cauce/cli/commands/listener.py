"""`cauce listener`: pause one listener on a bad day, and resume it."""

import argparse
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services
from cauce.cli.parsing import add_action, add_actions

if TYPE_CHECKING:
    from cauce.admin.pausing import ChosenListener
    from cauce.cli.parsing import Subparsers
    from cauce.stores.sql.pauses import PauseResult

__all__ = ["register"]

_PAUSE = """\
Gives one listener no further event, in no process of its service, from now on and across restarts. What it is
handling is finished. Its events wait in the service's database, those of a key in order; other listeners of
the same events are not affected. `cauce status` and `cauce doctor` show it until it is resumed. --because is
kept in the audit row with your name, and shown.

    cauce listener pause mail.welcome --because "the mail server answers nonsense"
    cauce listener pause welcome --because …       the last word of its name will do

exit code: 0, also if it was paused already; 1 it cannot be paused; 2 no such listener, or not clear which; 3 if
a database cannot be reached.
"""
_RESUME = """\
Lets a paused listener have its events again. What waits is due at once, those of a key in order. Leaves an
audit row.

exit code: 0, also if it was not paused; 2 no such listener, or not clear which; 3 if a database cannot be
reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("listener", help="pause one listener, resume it", allow_abbrev=False)
    actions = add_actions(parser)

    pause = add_action(actions, "pause", "give it no further event; they wait", _PAUSE)
    _add_name(pause)
    pause.add_argument("--because", metavar="WHY", required=True, help="why; shown, and for the audit row")
    add_json(pause, "JSON instead of text")
    pause.set_defaults(run=run_pause)

    resume = add_action(actions, "resume", "let it have its events again", _RESUME)
    _add_name(resume)
    resume.add_argument("--because", metavar="WHY", help="for the audit row")
    add_json(resume, "JSON instead of text")
    resume.set_defaults(run=run_resume)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("listener", metavar="LISTENER", help="its name, or the last word of it")
    add_services(parser, positional=False)


def run_pause(arguments: argparse.Namespace) -> int:
    """0 if it is paused now."""
    from cauce.cli.running import carry_out

    return carry_out(_pause(arguments))


def run_resume(arguments: argparse.Namespace) -> int:
    """0 if it is not paused now."""
    from cauce.cli.running import carry_out

    return carry_out(_resume(arguments))


async def _pause(arguments: argparse.Namespace) -> int:
    from cauce.admin.pausing import pause
    from cauce.cli.actions import require_reason
    from cauce.cli.running import WRONG

    because: str = arguments.because
    if not require_reason(because):
        return WRONG
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    result = await pause(chosen, why=because)
    became = "is paused" if result.changed else "was paused already"
    _report(arguments, chosen, result, became, f"cauce listener resume {chosen.listener}")
    return 0


async def _resume(arguments: argparse.Namespace) -> int:
    from cauce.admin.pausing import resume

    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    result = await resume(chosen, why=arguments.because)
    became = "has its events again" if result.changed else "was not paused"
    _report(arguments, chosen, result, became, None)
    return 0


async def _chosen(arguments: argparse.Namespace) -> "ChosenListener | int":
    """The listener that was meant, or the exit code after a complaint."""
    from cauce.admin.pausing import UnknownListenerError, find_listener
    from cauce.cli.options import targets_of
    from cauce.cli.running import UNREACHABLE, WRONG
    from cauce.cli.screen import complain

    try:
        return await find_listener(targets_of(arguments), arguments.listener)
    except UnknownListenerError as error:
        complain("\n".join(error.unreachable) or str(error))
        return UNREACHABLE if error.unreachable else WRONG


def _report(
    arguments: argparse.Namespace, chosen: "ChosenListener", result: "PauseResult", became: str, undo: str | None
) -> None:
    from cauce.cli.screen import commands, dim, lines_of, plural, say, say_json

    if arguments.json:
        say_json(
            {
                "service": chosen.target.name,
                "listener": chosen.listener,
                "paused": undo is not None,
                "changed": result.changed,
                "waiting": result.waiting,
            }
        )
        return
    waits = f" · {plural(result.waiting, 'event')} waiting for it" if result.waiting else ""
    for line in lines_of(f"{chosen.listener} {became}{waits}"):
        say(line)
    if undo is not None:
        for line in commands(undo, indent=0):
            say(dim(line))
