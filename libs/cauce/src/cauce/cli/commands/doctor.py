"""`cauce doctor`: is everything as it must be, and would anything be lost now?"""

import argparse
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cauce.admin.doctor import Examination
    from cauce.cli.parsing import Subparsers
    from cauce.ports.transport import Verdict

__all__ = ["register"]

_DESCRIPTION = """\
Looks at the databases, the processes and the broker of the project's services as they are now: can they be
reached, are the tables complete, do lanes have owners, how old is what waits, does the broker keep what it is
given, has a listener never been called. Every verdict comes with the fact, and with one command where
something should be done. Nothing is changed by looking.

  ✓ good    ! can be better: something may be slow, or lost in rarer cases    ✗ needs a person    ? may not look

exit code: 0 nothing is ✗; 1 something is (with --strict also for !); 2 the command line is wrong.
"""
_MARKS = {"good": "✓", "weak": "!", "bad": "✗", "unknown": "?"}


def register(subparsers: "Subparsers") -> None:
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "doctor",
        help="check everything live, and say whether events could be lost",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_services(parser)
    parser.add_argument("--strict", action="store_true", help="exit code 1 for ! as well")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if nothing needs a person."""
    from cauce.cli.running import carry_out

    return carry_out(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from cauce.admin.doctor import examine, would_be_lost
    from cauce.admin.verdicts import worst
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE, NOT_DONE
    from cauce.cli.screen import say, say_json

    found = await examine(targets_of(arguments))
    if arguments.json:
        say_json(
            {
                "worst": worst(found.verdicts),
                "services": {one.target.name: one.verdicts for one in found.services},
                "brokers": found.brokers,
                "if_something_dies_now": list(would_be_lost(found.verdicts)),
            }
        )
    else:
        say("\n".join(_lines(found)))
    failing = ("bad", "weak") if arguments.strict else ("bad",)
    return NOT_DONE if any(one.state in failing for one in found.verdicts) else DONE


def _lines(found: "Examination") -> "Iterator[str]":
    from cauce.admin.doctor import would_be_lost
    from cauce.admin.verdicts import worst
    from cauce.cli.screen import bold, green, plural, red, yellow

    everything = found.verdicts
    for examined in found.services:
        yield bold(examined.target.name)
        yield from _verdict_lines(examined.verdicts)
        yield ""
    for address, verdicts in found.brokers.items():
        yield bold(f"broker {address}")
        yield from _verdict_lines(verdicts)
        yield ""
    yield bold("If something dies now")
    for sentence in would_be_lost(everything):
        yield from _sentence_lines(sentence)
    yield ""
    bad, weak = (sum(one.state == state for one in everything) for state in ("bad", "weak"))
    if worst(everything) in ("good", "unknown"):
        yield green(f"All {plural(len(everything), 'check')} passed.")
    else:
        parts = [red(f"{bad} ✗") if bad else "", yellow(f"{weak} !") if weak else ""]
        yield f"{plural(len(everything), 'check')}: {', '.join(filter(None, parts))}, the others passed."


def _verdict_lines(verdicts: "Sequence[Verdict]") -> "Iterator[str]":
    from cauce.cli.screen import dim, green, lines_of, red, yellow

    colours = {"good": green, "weak": yellow, "bad": red, "unknown": dim}
    wide = min(20, max((len(one.subject) for one in verdicts), default=0))
    for one in verdicts:
        mark = colours[one.state](_MARKS[one.state])
        indent = wide + 6
        first = f"  {mark} {one.subject.ljust(wide)}  "
        if len(one.subject) > wide:
            yield first.rstrip()
            first = " " * indent
        yield from lines_of(one.fact, indent=indent, first=first)
        if one.fix:
            yield from lines_of(f"→ {one.fix}", indent=indent + 2, first=" " * indent)


def _sentence_lines(sentence: str) -> "Iterator[str]":
    from cauce.cli.screen import lines_of

    yield from lines_of(sentence, indent=2)
