"""The `cauce` command.

Exit codes: 0 all went well; 1 it was not done, or a look found something that needs a person; 2 the command line or the
configuration is wrong; 3 a database or the broker cannot be reached; 130 interrupted.

Every subcommand is a module of `commands` with `register(subparsers)`, which adds a parser and sets `run` to a function
from the parsed arguments to the exit code. `register` and the module's imports must stay light: all of them run
for `cauce --help`. What a command needs is imported in its `run`; what it does is in `cauce.admin`.

Read `parsing` and `options` (the command line), `running` (errors to exit codes), `screen` and `when` (what is printed),
`actions` (what several commands ask and print of one action on many things), then a command.
"""

import argparse
import gc
import io
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

from cauce.cli.commands import (
    config,
    db,
    dead,
    dev,
    doctor,
    erase,
    explain,
    listener,
    outbox,
    rewind,
    run,
    status,
    tail,
    topic,
    waiting,
)
from cauce.cli.parsing import Parser, refuse_unknown_words

__all__ = ["main"]

_COMMANDS = (dev, run, config, status, outbox, waiting, dead, listener, tail, topic, explain, doctor, rewind, erase, db)

_EPILOG = """\
exit codes:
  0    all went well
  1    something could not be started or done, ended unasked, or needs a person
  2    the command line or the configuration is wrong
  3    a database or the broker cannot be reached
  130  interrupted
"""


class _Version(argparse.Action):
    """Prints the version; looked up only when asked for, since that takes longer than all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"cauce {version('cauce')}")
        sys.exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default the process's own, and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _print_whatever_comes()
    parser = _build()
    speaker = refuse_unknown_words(parser, words)
    parsed, unknown = parser.parse_known_args(words)
    if unknown:
        what = "unknown option" if unknown[0].startswith("-") else "one word too many:"
        speaker.error(f"{what} {unknown[0]!r}")
    run = cast("Callable[[argparse.Namespace], int] | None", getattr(parsed, "run", None))
    if run is None:
        speaker.print_help()
        return 0
    try:
        return run(parsed)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `cauce config | head`
        from cauce.dev.terminal import send_to_nowhere

        send_to_nowhere(sys.stdout)
        return 0
    finally:
        if arguments is None:
            gc.freeze()  # the process ends; looking for garbage before it does takes a fifth of the time of `cauce status`


def _print_whatever_comes() -> None:
    """In a locale without a character it is spelled out: `cauce dead list` does not end with the name of a user."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _build() -> Parser:
    parser = Parser(
        prog="cauce",
        description="Events inside a service and between services: run a project, and look after it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    parser.actions = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for module in _COMMANDS:
        module.register(parser.actions)
    return parser
