"""`cauce explain EVENT`: what may be relied on for one event, in the configuration that runs."""

import argparse
from typing import TYPE_CHECKING, Any

from cauce.cli.options import add_json, add_services

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cauce.admin.targets import Target
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
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE, NOT_DONE, WRONG
    from cauce.cli.screen import complain, say, say_json
    from cauce.errors import did_you_mean

    targets = targets_of(arguments)
    found, missing = await read_descriptions(targets)
    for why in missing.values():
        complain(why)
    if not found:
        complain("No service has said anything about its events yet: start the project once.")
        return NOT_DONE
    said: str = arguments.event
    events = {event.name: event for description in found.values() for event in description.events}
    event = next((one for one in events.values() if said in (one.name, one.cls, *one.earlier_names)), None)
    if event is None:
        words = [word for one in events.values() for word in (one.name, one.cls)]
        known = "\n".join(f"  {one.name}  ({one.cls})" for one in sorted(events.values(), key=lambda one: one.name))
        complain(f"No service knows an event {said!r}.{did_you_mean(said, words)} There are:\n{known}")
        return WRONG
    shortened_to_s = await _shortened(event, found, targets)
    if arguments.json:
        say_json(_as_json(event, found, shortened_to_s))
    else:
        say("\n".join(_lines(event, found, shortened_to_s)))
    return DONE


async def _shortened(
    event: "DescribedEvent", services: "Mapping[str, Description]", targets: "Sequence[Target]"
) -> float | None:
    """How far back the publisher's outbox can feed a broker now, where that is less than it promises."""
    from cauce.admin.database import looking
    from cauce.stores.sql.outbox_status import read_outbox

    for target in targets:
        if target.name in services and event.name in services[target.name].publishes:
            async with looking(target) as connection:
                status, _ = await read_outbox(connection)
            return status.shortened_to_s
    return None


def _lines(
    event: "DescribedEvent", services: "Mapping[str, Description]", shortened_to_s: float | None
) -> "Iterator[str]":
    from cauce.cli.screen import bold, headed

    yield bold(event.name)
    publisher = next((one for one in services.values() if event.name in one.publishes), None)
    heard = [(service, listener) for service in services.values() for listener in service.listeners]
    heard = [(service, listener) for service, listener in heard if event.name in listener.events]
    yield ""
    yield from headed(_about(event, publisher, heard, shortened_to_s))
    yield ""
    yield bold("Heard by") if heard else bold("Heard by nobody in this project")
    for service, listener in heard:
        yield ""
        yield from _listener_lines(service, listener, event)
    yield ""
    yield bold("What is lost if")
    yield from headed(_losses(event, publisher, heard, shortened_to_s))


def _about(
    event: "DescribedEvent",
    publisher: "Description | None",
    heard: "Sequence[tuple[Description, DescribedListener]]",
    shortened_to_s: float | None,
) -> "Iterator[tuple[str, str]]":
    from cauce.cli.commands.outbox import size
    from cauce.cli.screen import yellow
    from cauce.cli.when import short

    durable = publisher is not None and publisher.transport is not None and publisher.transport.durable
    whose = f"published by {event.source}" if event.source else "a domain event, inside its service"
    yield "event", f"{event.cls}, version {event.version}, {whose}"
    if event.kind == "domain":
        yield "way", "publish → listeners in the transaction → COMMIT → after-commit and durable listeners"
    elif publisher is None:
        yield "way", f"nobody in this project publishes it; {event.source} does"
    elif durable:
        assert publisher.transport is not None  # noqa: S101  # durable says so
        yield (
            "way",
            (
                f"COMMIT of {publisher.service} with a row in cauce_outbox → relay → {publisher.transport.name} stream "
                f"{publisher.transport.prefix or 'cauce'}:{{{publisher.service}}}:0…15 → inbox + listener + COMMIT → acknowledged"
            ),
        )
    else:
        yield "way", "COMMIT → broker → whoever listens in that moment; nothing is remembered"
    if event.key:
        yield "order", f"per {event.key}: what happened to one {event.key} is handled in the order of the commits"
    else:
        yield "order", "none: it has no key, so two of them may be handled in either order"
    if event.kind == "integration" and durable:
        assert publisher is not None  # noqa: S101  # durable says so
        yield (
            "kept",
            (
                f"after sending, {short(publisher.sent_s)}, {publisher.sent_rows:,} events or {size(publisher.sent_bytes)}, "
                f"whichever comes first; on the broker {short(publisher.broker_s)}, and until every service has it"
            ),
        )
        if shortened_to_s is not None:
            yield "now", yellow(f"so much is sent that only the last {short(shortened_to_s)} are kept")
    inboxes = sorted(
        service.inbox_s
        for service, listener in heard
        if listener.when in ("arrival", "durable") and not _volatile(service, listener)
    )
    if inboxes:
        later = (
            f"by the number among the events of its {event.key}" if event.key else "not at all: it may be handled again"
        )
        yield "acked", "when the effect is committed, or a retry, or a dead letter; never before"
        yield (
            "repeats",
            (
                "may arrive, after a crash between sending and noting it, or from a broker that lost something; "
                f"recognised by the event's id for {short(inboxes[0])}, after that {later}"
            ),
        )
        yield "proven by", "the tests that docs/explanation/delivery.md names"
    if event.earlier_names:
        yield "formerly", ", ".join(event.earlier_names)


def _listener_lines(service: "Description", listener: "DescribedListener", event: "DescribedEvent") -> "Iterator[str]":
    from cauce.cli.screen import dim, width, wrapped

    one_line = f"  {service.service}  {listener.name}  {listener.place}"
    if len(one_line) <= width():
        yield f"  {service.service}  {listener.name}  {dim(listener.place)}"
    else:
        yield f"  {service.service}  {dim(listener.place)}"
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
        yield from (f"    {line}" for line in wrapped(sentence, width() - 4))


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


def _losses(
    event: "DescribedEvent",
    publisher: "Description | None",
    heard: "Sequence[tuple[Description, DescribedListener]]",
    shortened_to_s: float | None,
) -> "Iterator[tuple[str, str]]":
    from cauce.cli.when import short

    hints = any(listener.when == "after_commit" for _, listener in heard)
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
    durable = publisher.transport is not None and publisher.transport.durable
    if not durable:
        yield f"{publisher.service} dies", "the event, if it dies between its commit and the broker"
        yield "the broker dies", "what was being sent, for everybody"
        yield "a listener dies", "what is sent until it is back"
        return
    kept_s = publisher.sent_s if shortened_to_s is None else shortened_to_s
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


def _as_json(
    event: "DescribedEvent", services: "Mapping[str, Description]", shortened_to_s: float | None
) -> dict[str, Any]:
    import msgspec

    publisher = next((one for one in services.values() if event.name in one.publishes), None)
    return {
        "event": msgspec.to_builtins(event),
        "published_by": publisher.service if publisher else None,
        "transport": msgspec.to_builtins(publisher.transport) if publisher else None,
        "kept": {
            "sent_s": publisher.sent_s,
            "sent_rows": publisher.sent_rows,
            "broker_s": publisher.broker_s,
            "shortened_to_s": shortened_to_s,
        }
        if publisher
        else None,
        "heard_by": [
            {"service": service.service, "inbox_s": service.inbox_s, **msgspec.to_builtins(listener)}
            for service in services.values()
            for listener in service.listeners
            if event.name in listener.events
        ],
    }
