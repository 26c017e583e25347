"""The command line: parsers whose complaints are one line that names what was probably meant."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn, TypeAlias

from cauce.errors import did_you_mean

__all__ = ["Parser", "Subparsers", "add_action", "add_actions", "refuse_unknown_words"]

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]  # argparse has no public name for it


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake in one line."""

    actions: "Subparsers | None" = None
    """The words that may follow, for a command that has several."""

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith(("?", ".")) else "."
        print(f"{self.prog}: {message}{end} See: {self.prog} --help", file=sys.stderr)
        sys.exit(2)

    def options(self) -> list[str]:
        """Every option this parser knows, as typed."""
        return [word for action in self._actions for word in action.option_strings]


def add_actions(parser: argparse.ArgumentParser) -> Subparsers:
    """Room for the words of a command that does several things."""
    assert isinstance(parser, Parser)  # noqa: S101  # for the type checker: all of ours are
    parser.actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", parser_class=Parser)
    return parser.actions


def add_action(actions: Subparsers, name: str, help: str, description: str) -> argparse.ArgumentParser:  # noqa: A002  # argparse's word
    """One of them. `description` is printed as it is."""
    return actions.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def refuse_unknown_words(parser: Parser, words: Sequence[str]) -> Parser:
    """The parser of the command that `words` name; ends with 2 for a word or an option that does not exist.

    Before argparse looks: it would first complain that something is missing.
    """
    if parser.actions is not None:
        commands: dict[str, argparse.ArgumentParser] = parser.actions.choices
        for number, word in enumerate(words):
            if word in ("-h", "--help", "--version"):
                return parser
            if word in commands:
                chosen = commands[word]
                assert isinstance(chosen, Parser)  # noqa: S101  # see add_actions
                return refuse_unknown_words(chosen, words[number + 1 :])
            kind = "command" if " " not in parser.prog else "action"
            if word.startswith("-"):
                everybody = [one for one in commands.values() if isinstance(one, Parser)]
                parser.error(f"unknown option {word!r}.{_meant(word, parser, *everybody)}")
            nearest = did_you_mean(word, commands)
            everything = f" {kind.capitalize()}s: {', '.join(commands)}."
            parser.error(f"unknown {kind} {word!r}.{nearest or everything}")
        return parser
    for word in words:
        if word == "--":
            break
        name = word.split("=")[0]
        if name.startswith("--") and name not in parser.options():
            parser.error(f"unknown option {word!r}.{_meant(word, parser)}")
    return parser


def _meant(word: str, *parsers: Parser) -> str:
    options = [option for parser in parsers for option in parser.options()]
    return did_you_mean(word.split("=")[0], options)
