"""`cauce explain EVENT`: what may be relied on for one event, in the configuration that runs."""

import argparse
from typing import TYPE_CHECKING, Any

from cauce.cli.options import add_json, add_services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cauce.admin.explaining import Explanation
    from cauce.cli.parsing import Subparsers
    from cauce.ports.description import DescribedEvent, DescribedListener, Description

__all__ = ["register"]

_DESCRIPTION = """\
One screen about one event: which way it goes, who hears it, in which order, how often, and what is lost if
something dies. It is told from what the project's services said when they were started last, so it is true of
the configuration that runs. EVENT is a name, a former name, or the class (UserCreated).

exit code: 0; 1 if no service has said anything yet; 2 if there is no such event (the nearest is named).
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "explain",
        help="say what may be relied on for one event",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("event", metavar="EVENT", help="a name, or the name of the class")
    add_services(parser, positional=False)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if the event is known."""
    from cauce.cli.running import carry_out

    return carry_out(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from cauce.admin.descriptions import read_descriptions
    from cauce.admin.explaining import explain
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE, NOT_DONE
    from cauce.cli.screen import complain, say, say_json

    targets = targets_of(arguments)
    found, missing = await read_descriptions(targets)
    for why in missing.values():
        complain(why)
    if not found:
        complain("No service has said anything about its events yet: start the project once.")
        return NOT_DONE
    explanation = await explain(arguments.event, found, targets)
    if arguments.json:
        say_json(_as_json(explanation))
    else:
        say("\n".join(_lines(explanation)))
    return DONE


def _lines(facts: "Explanation") -> "Iterator[str]":
    from cauce.cli.screen import bold, headed

    yield bold(facts.event.name)
    yield ""
    yield from headed(_about(facts))
    yield ""
    yield bold("Heard by") if facts.heard_by else bold("Heard by nobody in this project")
    for service, listener in facts.heard_by:
        yield ""
        yield from _listener_lines(service, listener, facts.event)
    yield ""
    yield bold("What is lost if")
    yield from headed(_losses(facts))


def _about(facts: "Explanation") -> "Iterator[tuple[str, str]]":
    event = facts.event
    whose = f"published by {event.source}" if event.source else "a domain event, inside its service"
    yield "event", f"{event.cls}, version {event.version}, {whose}"
    yield "way", _way(facts)
    if event.key:
        yield "order", f"per {event.key}: what happened to one {event.key} is handled in the order of the commits"
    else:
        yield "order", "none: it has no key, so two of them may be handled in either order"
    yield from _kept(facts)
    yield from _repeats(facts)
    if event.earlier_names:
        yield "formerly", ", ".join(event.earlier_names)


def _is_durable(publisher: "Description | None") -> bool:
    return publisher is not None and publisher.transport is not None and publisher.transport.durable


def _way(facts: "Explanation") -> str:
    event, publisher = facts.event, facts.publisher
    if event.kind == "domain":
        return "publish → listeners in the transaction → COMMIT → after-commit and durable listeners"
    if publisher is None:
        return f"nobody in this project publishes it; {event.source} does"
    if publisher.transport is None or not publisher.transport.durable:
        return "COMMIT → broker → whoever listens in that moment; nothing is remembered"
    return (
        f"COMMIT of {publisher.service} with a row in cauce_outbox → relay → {publisher.transport.name} stream "
        f"{publisher.transport.prefix or 'cauce'}:{{{publisher.service}}}:0…15 → inbox + listener + COMMIT → acknowledged"
    )


def _kept(facts: "Explanation") -> "Iterator[tuple[str, str]]":
    from cauce.cli.commands.outbox import size
    from cauce.cli.screen import yellow
    from cauce.cli.when import short

    publisher = facts.publisher
    if facts.event.kind != "integration" or publisher is None or not _is_durable(publisher):
        return
    yield (
        "kept",
        (
            f"after sending, {short(publisher.sent_s)}, {publisher.sent_rows:,} events or {size(publisher.sent_bytes)}, "
            f"whichever comes first; on the broker {short(publisher.broker_s)}, and until every service has it"
        ),
    )
    if facts.shortened_to_s is not None:
        yield "now", yellow(f"so much is sent that only the last {short(facts.shortened_to_s)} are kept")


def _repeats(facts: "Explanation") -> "Iterator[tuple[str, str]]":
    from cauce.cli.when import short

    inboxes = sorted(
        service.inbox_s
        for service, listener in facts.heard_by
        if listener.when in ("arrival", "durable") and not _volatile(service, listener)
    )
    if not inboxes:
        return
    key = facts.event.key
    later = f"by the number among the events of its {key}" if key else "not at all: it may be handled again"
    yield "acked", "when the effect is committed, or a retry, or a dead letter; never before"
    yield (
        "repeats",
        (
            "may arrive, after a crash between sending and noting it, or from a broker that lost something; "
            f"recognised by the event's id for {short(inboxes[0])}, after that {later}"
        ),
    )
    yield "proven by", "the tests that docs/explanation/delivery.md names"


def _listener_lines(service: "Description", listener: "DescribedListener", event: "DescribedEvent") -> "Iterator[str]":
    from cauce.cli.screen import dim, lines_of, width

    one_line = f"  {service.service}  {listener.name}  {listener.place}"
    if len(one_line) <= width():
        yield f"  {service.service}  {listener.name}  {dim(listener.place)}"
    else:
        yield from lines_of(f"{service.service}  {dim(listener.place)}", indent=4, first="  ")
        yield f"    {listener.name}"
    sentences = [_promise(service, listener)]
    if listener.when in ("arrival", "durable") and not _volatile(service, listener):
        waits = f"only its {event.key} waits" if event.key else "nothing else waits"
        pause = f"up to {_seconds(listener.base_s)} apart, then longer, {_seconds(listener.cap_s)} at most"
        sentences.append(
            f"Fails: tried {listener.attempts} times, {pause}; {waits}. Then a dead letter"
            + (f", and its {event.key} waits for a person." if event.key else ".")
        )
    for sentence in sentences:
        yield from lines_of(sentence, indent=4)


def _volatile(service: "Description", listener: "DescribedListener") -> bool:
    return listener.when == "arrival" and (service.transport is None or not service.transport.durable)


def _promise(service: "Description", listener: "DescribedListener") -> str:
    if _volatile(service, listener):
        return "At most once: lost if it is not listening in that moment, or dies while it handles it."
    match listener.when:
        case "in_transaction":
            return "In the publisher's transaction, once: it commits with the change, or the change does not."
        case "after_commit":
            return "After the commit, at most once: a hint, lost if the process dies in between."
        case _:
            pass
    match listener.effect:
        case "at_least_once":
            return "An effect outside the database, at least once: after a crash in the middle it happens again, with the same idempotency key."
        case "at_most_once":
            return "An effect outside the database, at most once: after a crash in the middle a person decides."
        case _:
            return "Delivered at least once; what it writes through its session is applied exactly once."


def _seconds(seconds: float) -> str:
    from cauce.cli.when import short

    return short(seconds) if seconds >= 1 else f"{seconds:g} s"


def _losses(facts: "Explanation") -> "Iterator[tuple[str, str]]":
    from cauce.cli.when import short

    event, publisher = facts.event, facts.publisher
    hints = any(listener.when == "after_commit" for _, listener in facts.heard_by)
    if event.kind == "domain":
        yield (
            "the process dies",
            "nothing but the after-commit hints"
            if hints
            else "nothing: the change and the event are gone together, or neither is",
        )
        return
    if publisher is None:
        yield "", "its publisher is not in this project, so only its own can say"
        return
    if not _is_durable(publisher):
        yield f"{publisher.service} dies", "the event, if it dies between its commit and the broker"
        yield "the broker dies", "what was being sent, for everybody"
        yield "a listener dies", "what is sent until it is back"
        return
    kept_s = publisher.sent_s if facts.shortened_to_s is None else facts.shortened_to_s
    yield f"{publisher.service} dies", "nothing: what is committed stands in its outbox, and its next process sends it"
    yield (
        "the broker dies",
        (f"nothing that was sent in the last {short(kept_s)}: it is sent again from the outbox"),
    )
    yield "a listener dies", "nothing: its transaction is undone, and the broker gives it the event again"
    yield (
        "it was away",
        (
            f"nothing on the broker before every service has it; if the broker forgot as well, what is older than {short(kept_s)}"
        ),
    )


def _as_json(facts: "Explanation") -> dict[str, Any]:
    import msgspec

    publisher = facts.publisher
    return {
        "event": msgspec.to_builtins(facts.event),
        "published_by": publisher.service if publisher else None,
        "transport": msgspec.to_builtins(publisher.transport) if publisher else None,
        "kept": {
            "sent_s": publisher.sent_s,
            "sent_rows": publisher.sent_rows,
            "broker_s": publisher.broker_s,
            "shortened_to_s": facts.shortened_to_s,
        }
        if publisher
        else None,
        "heard_by": [
            {"service": service.service, "inbox_s": service.inbox_s, **msgspec.to_builtins(listener)}
            for service, listener in facts.heard_by
        ],
    }
