"""`cauce tail`: events as they are published."""

import argparse
from typing import TYPE_CHECKING, Any

from cauce.cli.options import add_broker, add_json, count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cauce.cli.parsing import Subparsers
    from cauce.ports.topics import Seen

__all__ = ["register"]

_DESCRIPTION = """\
Shows integration events as the broker takes them, of all topics, until Ctrl-C. It reads beside the consumer
groups: no service gets more or less because of it. Payload fields that look like secrets are not shown.

    cauce tail                                all events from now on
    cauce tail 'shop.**' user.created         by name; * is one part of a name, ** any number of parts
    cauce tail --since 10m --no-follow        what the broker still holds of the last ten minutes
    cauce tail --json | jq .payload           a JSON object on every line

exit code: 0; 3 if the broker cannot be reached at the start; 130 after Ctrl-C. An outage later is said on
standard error, and what was published meanwhile is shown afterwards.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "tail",
        help="show events as they are published",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only events of these names or patterns")
    parser.add_argument(
        "--topic", action="append", default=[], metavar="SERVICE", help="only what this service publishes"
    )
    parser.add_argument("--since", metavar="WHEN", help="begin there (10m, 2026-11-24T08:05) instead of now")
    parser.add_argument("--no-follow", action="store_true", help="end when everything that is there was shown")
    parser.add_argument("--limit", type=count, metavar="N", help="end after N events")
    parser.add_argument("--full", action="store_true", help="the whole payload on lines of its own, and all ids")
    parser.add_argument("--prefix", default="cauce", metavar="NAME", help="of the streams (cauce)")
    add_broker(parser)
    add_json(parser, "a JSON object on every line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0; 3 if there is no broker."""
    from cauce.cli.running import carry_out

    return carry_out(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from contextlib import aclosing

    from cauce.admin.broker import open_broker
    from cauce.admin.targets import broker_of_project
    from cauce.admin.watching import unknown_names, watch_events
    from cauce.cli.running import DONE
    from cauce.cli.screen import complain, say
    from cauce.cli.when import age

    since_s = None if arguments.since is None else age(arguments.since, option="--since")
    names: Sequence[str] = arguments.names
    limit: int | None = arguments.limit

    def trouble(reason: str | None) -> None:
        complain("Back." if reason is None else f"{reason} · trying again, nothing is missed")

    async with open_broker(broker_of_project(redis_url=arguments.redis_url), prefix=arguments.prefix) as broker:
        # A name that no service of the project knows is probably misspelt; listened to all the same.
        for name, nearest in (await unknown_names(names)).items():
            complain(f"No service of the project says that it knows {name!r}.{nearest}")
        events = watch_events(
            broker, names, topics=arguments.topic, since_s=since_s, follow=not arguments.no_follow, trouble=trouble
        )
        shown = 0
        async with aclosing(events):
            async for seen in events:
                for line in [_as_json(seen)] if arguments.json else _lines(seen, full=arguments.full):
                    say(line, at_once=True)
                shown += 1
                if shown == limit:
                    break
    return DONE


def _lines(seen: "Seen", *, full: bool) -> "Iterator[str]":
    import json

    from cauce.admin.masking import masked, masked_text
    from cauce.cli.screen import bold, dim, lines_of, red, width
    from cauce.cli.when import clock, iso
    from cauce.telemetry.log_text import one_line

    at = clock(seen.at.timestamp())
    envelope = seen.envelope
    if envelope is None:
        said = f"{red('not an event')} in {seen.topic}, lane {seen.lane}: {seen.problem}"
        yield from lines_of(said, indent=4, first=f"{at}  ")
        yield dim(_clipped(f"  {one_line(masked_text(seen.raw))}", width()))
        return
    yield f"{at}  {bold(envelope.name)}"
    key = f" · key {envelope.key}" if envelope.key is not None else ""
    yield from lines_of(f"{envelope.source} · {envelope.id}{key}", indent=4, first="  ")
    payload = masked(seen.payload)
    if full:
        told = {"occurred": iso(envelope.occurred_on.timestamp()), "version": envelope.version, "lane": seen.lane}
        told |= {"sequence": envelope.key_seq} if envelope.key_seq is not None else {}
        told |= {"conversation": envelope.correlation_id, "caused by": envelope.causation_id}
        yield from (dim(f"  {label} {value}") for label, value in told.items() if value is not None)
        yield from (f"  {line}" for line in json.dumps(payload, indent=2, ensure_ascii=False).split("\n"))
    else:
        text = json.dumps(payload, ensure_ascii=False, separators=(", ", ": "))
        yield dim(_clipped(f"  {one_line(text)}", width()))


def _clipped(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _as_json(seen: "Seen") -> str:
    from cauce.admin.masking import masked, masked_text
    from cauce.cli.screen import json_line
    from cauce.cli.when import iso

    envelope = seen.envelope
    told: dict[str, Any] = {"topic": seen.topic, "lane": seen.lane, "entry": seen.entry}
    if envelope is None:
        told |= {"problem": seen.problem, "message": masked_text(seen.raw)}
    else:
        told |= {
            "id": envelope.id,
            "name": envelope.name,
            "version": envelope.version,
            "source": envelope.source,
            "occurred_at": iso(envelope.occurred_on.timestamp()),
            "key": envelope.key,
            "sequence": envelope.key_seq,
            "correlation_id": envelope.correlation_id,
            "causation_id": envelope.causation_id,
            "payload": masked(seen.payload),
        }
    return json_line(told)
