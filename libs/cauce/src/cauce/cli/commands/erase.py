"""`cauce erase`: what Cauce keeps of one key, on demand."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from cauce.cli.options import add_json, add_services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cauce.admin.erasing import Erasure
    from cauce.cli.parsing import Subparsers

__all__ = ["register"]

_DESCRIPTION = """\
Erases what Cauce keeps of one key of one service: sent events, deliveries and dead letters in its database, and
in the topics it sends to the entries that every group has acknowledged. Numbers stay, under a hash of the key, so
that later events of it are in order. Repeat it for every service that publishes or hears the key; what your own
tables, logs and mails hold is yours to erase. See docs/explanation/personal-data.md.

    cauce erase accounts --key 12345678-1234-1234-1234-123456789abc --dry-run
    cauce erase accounts --key - --because 'request 17' < key.txt       not in the list of processes

Events that are still to be sent or handled stop it: let them go, or give them up with --force.

exit code: 0 everything of it is gone; 1 something is left, and is said; 2 it is not clear what is meant; 3 if the
database cannot be reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "erase",
        help="erase what is kept of one key",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--key", required=True, metavar="K", help="the key; - reads it from standard input")
    parser.add_argument("--force", action="store_true", help="also what is still to be sent or handled")
    parser.add_argument("--because", metavar="WHY", help="for the audit row, which holds a hash of the key")
    parser.add_argument("--dry-run", action="store_true", help="only say what there is")
    add_services(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if everything of the key is gone."""
    from cauce.cli.running import carry_out

    return carry_out(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from cauce.admin.erasing import StillToBeDoneError, erase
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE, NOT_DONE, WRONG
    from cauce.cli.screen import complain, say, say_json
    from cauce.formats.cloudevents import key_problem

    targets = targets_of(arguments)
    if len(targets) > 1:
        complain(f"cauce erase: one service at a time, please: {', '.join(one.name for one in targets)}")
        return WRONG
    key = _key(arguments.key)
    if not key or key_problem(key) is not None:
        complain(f"cauce erase: {'that is no key' if key else 'the key is empty'}.")
        return WRONG
    target = targets[0]
    try:
        done = await erase(target, key, why=arguments.because, force=arguments.force, dry_run=arguments.dry_run)
    except StillToBeDoneError as error:
        complain(f"{target.name}: {error}. Nothing was erased. To give them up: --force")
        return NOT_DONE
    if arguments.json:
        say_json(_as_json(done))
    else:
        say("\n".join(_lines(done)))
    return DONE if done.complete else NOT_DONE


def _key(given: str) -> str:
    """Bytes that are no text become halves of surrogates, as in an argument: they are in no key."""
    if given != "-":
        return given
    return sys.stdin.buffer.readline().decode(errors="surrogateescape").rstrip("\r\n")


def _as_json(done: "Erasure") -> "dict[str, Any]":
    return {name: getattr(done, name) for name in done.__struct_fields__} | {"complete": done.complete}


def _lines(done: "Erasure") -> "Iterator[str]":
    from cauce.cli.screen import headed, lines_of, yellow

    rows = done.rows
    yield f"{done.service}: {'what would be' if done.dry_run else 'what was'} erased of the key with this hash"
    yield f"  {done.key_hash}"
    yield ""
    yield from headed(
        [
            ("sent events", f"{rows.sent:,}"),
            ("unsent events", f"{rows.unsent:,}"),
            ("deliveries that wait", f"{rows.waiting:,}"),
            ("dead letters", f"{rows.dead_letters:,}"),
            ("audit entries that named it", f"{rows.audit_entries:,}"),
            *((f"entries in {one.topic}", f"{one.erased:,}") for one in done.streams),
            ("numbers kept under the hash", f"{rows.counters:,}"),
        ]
    )
    for one in done.streams:
        if one.unacknowledged:
            left = (
                f"{one.topic}: {one.unacknowledged:,} left on the broker, which a group has not acknowledged yet. Once "
                "more when it has: cauce topic list"
            )
            yield from map(yellow, lines_of(left, indent=4, first="  "))
    if done.untold is not None:
        yield from map(yellow, lines_of(f"The broker was not asked: {done.untold}", indent=4, first="  "))
