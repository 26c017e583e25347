"""The `cauce` command.

Exit codes: 0 all went well; 1 something could not be started or ended unasked; 2 the command line or the
configuration is wrong; 130 interrupted before anything was started.

Every subcommand is a module here with `register(subparsers)`, which adds a parser and sets `run` to a function
from the parsed arguments to the exit code. `register` and the module's imports must stay light: all of them run
for `cauce --help`. What a command needs is imported in its `run`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

from cauce.cli import config, dev
from cauce.errors import did_you_mean

__all__ = ["main"]

_COMMANDS = (dev, config)

_EPILOG = """\
exit codes:
  0    all went well
  1    something could not be started, or ended unasked
  2    the command line or the configuration is wrong
  130  interrupted before anything was started
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line that names what was probably meant."""

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith(("?", ".")) else "."
        print(f"{self.prog}: {message}{end} See: {self.prog} --help", file=sys.stderr)
        sys.exit(2)

    def options(self) -> list[str]:
        """Every option this parser knows, as typed."""
        return [word for action in self._actions for word in action.option_strings]


class _Version(argparse.Action):
    """Prints the version; looked up only when asked for, since that takes longer than all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"cauce {version('cauce')}")
        sys.exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default the process's own, and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _build()
    _refuse_unknown_command(parser, commands, words)
    parsed, unknown = parser.parse_known_args(words)
    command = cast("str | None", parsed.command)
    if unknown:
        speaker = commands[command] if command else parser
        speaker.error(f"unknown option {unknown[0]!r}.{_meant(unknown[0], speaker)}")
    if command is None:
        parser.print_help()
        return 0
    run = cast("Callable[[argparse.Namespace], int]", parsed.run)
    try:
        return run(parsed)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `cauce config | head`
        from cauce.dev.terminal import send_to_nowhere

        send_to_nowhere(sys.stdout)
        return 0


def _build() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="cauce",
        description="Events inside a service and between services: run a project, look at its settings.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    for module in _COMMANDS:
        module.register(subparsers)
    return parser, subparsers.choices


def _refuse_unknown_command(parser: _Parser, commands: dict[str, _Parser], words: list[str]) -> None:
    for word in words:
        if word in commands or word in ("-h", "--help", "--version"):
            return
        if word.startswith("-"):
            parser.error(f"unknown option {word!r}.{_meant(word, parser, *commands.values())}")
        parser.error(f"unknown command {word!r}.{did_you_mean(word, commands)} Commands: {', '.join(commands)}.")


def _meant(word: str, *parsers: _Parser) -> str:
    options = [option for parser in parsers for option in parser.options()]
    return did_you_mean(word.split("=")[0], options)
