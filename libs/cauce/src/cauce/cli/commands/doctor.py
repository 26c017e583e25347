"""`cauce doctor`: is everything as it must be, and would anything be lost now?"""

import argparse
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cauce.admin.doctor import Examined
    from cauce.admin.targets import Broker
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
    from cauce.admin.doctor import examine_service, worst
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE, NOT_DONE
    from cauce.cli.screen import say, say_json

    services = [await examine_service(target) for target in targets_of(arguments)]
    brokers = await _brokers(services)
    everything = [one for examined in services for one in examined.verdicts]
    everything += [one for verdicts in brokers.values() for one in verdicts]
    if arguments.json:
        say_json(
            {
                "worst": worst(everything),
                "services": {one.target.name: one.verdicts for one in services},
                "brokers": brokers,
                "if_something_dies_now": list(_in_plain_words(everything)),
            }
        )
    else:
        say("\n".join(_lines(services, brokers, everything)))
    failing = ("bad", "weak") if arguments.strict else ("bad",)
    return NOT_DONE if any(one.state in failing for one in everything) else DONE


async def _brokers(services: "Sequence[Examined]") -> "dict[str, list[Verdict]]":
    """The verdicts on every broker the services use, by its address and prefix."""
    from cauce.admin.doctor import examine_broker
    from cauce.errors import ConfigurationError, TransportUnavailableError
    from cauce.ports.transport import Verdict
    from cauce.transports.redis.connection import RedisTroubleError
    from cauce.transports.redis.topics import open_broker

    groups: dict[tuple[Broker, str | None], list[Examined]] = {}
    for examined in services:
        transport = examined.description.transport if examined.description else None
        if examined.description is not None and (transport is None or transport.name != "redis"):
            continue  # it uses none, or one of another kind
        groups.setdefault((examined.target.broker, transport.prefix if transport else None), []).append(examined)
    # A service that has never been started says nothing of its prefix; it goes with the others.
    brokers: dict[str, list[Verdict]] = {}
    for (broker, prefix), members in groups.items():
        if prefix is None and any(other == broker and known for other, known in groups):
            continue
        try:
            async with open_broker(broker, prefix=prefix) as view:
                name = view.address if prefix in (None, "cauce") else f"{view.address} ({prefix})"
                try:
                    brokers[name] = await examine_broker(view, members)
                except (RedisTroubleError, TransportUnavailableError) as error:
                    fact, _, fix = str(error).partition(" → ")
                    brokers[name] = [Verdict("broker", "bad", fact, fix)]
        except ConfigurationError as error:
            brokers[broker.origin] = [Verdict("broker", "bad", error.problems[0], f"correct {broker.origin}")]
    return brokers


def _lines(
    services: "Sequence[Examined]", brokers: "dict[str, list[Verdict]]", everything: "Sequence[Verdict]"
) -> "Iterator[str]":
    from cauce.admin.doctor import worst
    from cauce.cli.screen import bold, green, plural, red, yellow

    for examined in services:
        yield bold(examined.target.name)
        yield from _verdict_lines(examined.verdicts)
        yield ""
    for address, verdicts in brokers.items():
        yield bold(f"broker {address}")
        yield from _verdict_lines(verdicts)
        yield ""
    yield bold("If something dies now")
    for sentence in _in_plain_words(everything):
        yield from _sentence_lines(sentence)
    yield ""
    bad, weak = (sum(one.state == state for one in everything) for state in ("bad", "weak"))
    if worst(everything) in ("good", "unknown"):
        yield green(f"All {plural(len(everything), 'check')} passed.")
    else:
        parts = [red(f"{bad} ✗") if bad else "", yellow(f"{weak} !") if weak else ""]
        yield f"{plural(len(everything), 'check')}: {', '.join(filter(None, parts))}, the others passed."


def _verdict_lines(verdicts: "Sequence[Verdict]") -> "Iterator[str]":
    from cauce.cli.screen import dim, green, red, width, wrapped, yellow

    colours = {"good": green, "weak": yellow, "bad": red, "unknown": dim}
    wide = min(20, max((len(one.subject) for one in verdicts), default=0))
    for one in verdicts:
        mark = colours[one.state](_MARKS[one.state])
        indent = " " * (wide + 6)
        lines = wrapped(one.fact, width() - len(indent))
        if len(one.subject) > wide:
            yield f"  {mark} {one.subject}"
        else:
            yield f"  {mark} {one.subject.ljust(wide)}  {lines.pop(0)}"
        yield from (f"{indent}{line}" for line in lines)
        if one.fix:
            for number, line in enumerate(wrapped(one.fix, width() - len(indent) - 2)):
                yield f"{indent}{'→ ' if not number else '  '}{line}"


def _sentence_lines(sentence: str) -> "Iterator[str]":
    from cauce.cli.screen import width, wrapped

    first, *rest = wrapped(sentence, width() - 4)
    yield f"  {first}"
    yield from (f"  {line}" for line in rest)


def _in_plain_words(verdicts: "Sequence[Verdict]") -> "Iterator[str]":
    """What these verdicts mean together for an event that is committed and not yet handled."""
    losing: list[str] = []
    for one in verdicts:
        match one.subject, one.state:
            case "tables", "bad" if "none of" in one.fact:
                losing.append(
                    "An event of a service without tables is LOST if the process or the broker dies at that moment."
                )
            case "transport", "bad":
                losing.append("An event is LOST for every service that is not listening when it is sent.")
            case "commits", "bad":
                losing.append("If the database's machine dies, its last commits and their events are LOST.")
            case "persistence", "weak" | "bad":
                losing.append(
                    "If the broker dies it forgets events. They are sent again from the outboxes, as far back as sent "
                    "events are kept; LOST is what is older than that and still unheard."
                )
            case "eviction", "bad":
                losing.append("If the broker is full it throws events away. Those the outboxes keep are sent again.")
            case _:
                pass
    if any(one.subject in ("database", "broker") and one.state == "bad" for one in verdicts):
        yield "Not everything could be looked at, so this is said of the rest only."
    yield from dict.fromkeys(losing)
    if not losing:
        yield "Nothing that is committed is lost: it waits in a database or on the broker until it is handled."
