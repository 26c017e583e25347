"""The options that the commands about a service share."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cauce.admin.targets import Target

__all__ = [
    "add_broker",
    "add_found",
    "add_given_up",
    "add_json",
    "add_one",
    "add_selection",
    "add_services",
    "count",
    "targets_of",
]


def add_services(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """Which services: by name, all of the project's by default, or one by the URLs of its database and broker."""
    if positional:
        parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these (names in pyproject.toml)")
    parser.add_argument(
        "--service", action="append", default=[], dest="more_services", metavar="NAME", help="the same, as an option"
    )
    parser.add_argument("--database-url", metavar="URL", help="a database that is not the project's")
    add_broker(parser)


def add_broker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--redis-url", metavar="URL", help="a broker that is not the project's")


def add_json(parser: argparse.ArgumentParser, help: str = "JSON instead of tables") -> None:  # noqa: A002  # argparse's word
    parser.add_argument("--json", action="store_true", help=help)


def add_found(parser: argparse.ArgumentParser, add_filters: "Callable[[argparse.ArgumentParser], None]") -> None:
    """The options of a list: which, and how many of them."""
    add_services(parser)
    add_filters(parser)
    parser.add_argument("--limit", type=count, default=10, metavar="N", help="at most so many of one cause (10)")
    add_json(parser)


def add_one(parser: argparse.ArgumentParser) -> None:
    """Which one is shown, and how."""
    parser.add_argument("id", metavar="ID", help="its id, or the beginning of it")
    add_services(parser, positional=False)
    parser.add_argument("--raw", action="store_true", help="only the message, byte for byte")
    add_json(parser, "JSON instead of text; with --raw, the bytes are in it as base64")


def add_selection(parser: argparse.ArgumentParser, add_filters: "Callable[[argparse.ArgumentParser], None]") -> None:
    """On which ones something is done: ids, filters or all."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids, or beginnings of them")
    add_filters(parser)
    parser.add_argument("--all", action="store_true", help="all there are")
    parser.add_argument("--dry-run", action="store_true", help="only say which")
    add_services(parser, positional=False)
    add_json(parser)


def add_given_up(parser: argparse.ArgumentParser) -> None:
    """What is given up for good needs a reason."""
    parser.add_argument("--because", metavar="WHY", required=True, help="why; for the audit row")


def count(text: str) -> int:
    """The type of an option that says how many."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def targets_of(arguments: argparse.Namespace) -> "Sequence[Target]":
    """The services that were meant. Raises ConfigurationError."""
    from cauce.admin.targets import find_targets

    names: list[str] = [*getattr(arguments, "services", []), *arguments.more_services]
    return find_targets(list(dict.fromkeys(names)), database_url=arguments.database_url, redis_url=arguments.redis_url)
