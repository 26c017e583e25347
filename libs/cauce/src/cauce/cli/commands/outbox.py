"""`cauce outbox`: what is on its way to the broker, how far back it could be sent again, and what cannot be sent."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services
from cauce.cli.parsing import add_action, add_actions

if TYPE_CHECKING:
    from cauce.cli.parsing import Subparsers
    from cauce.ports.figures import Figures
    from cauce.stores.sql.outbox_status import OutboxStatus

__all__ = ["register", "size"]

_STATUS = """\
Events that are committed and not yet confirmed by the broker, by name; and those that were sent and are kept,
so that a broker that forgets can be fed again. `cauce rewind SERVICE --published` sends those once more.

`set aside` are those the broker will never take: larger than a message may be. Each is shown with the reason.
They stay until a person releases or discards them; if the event has a key, the later events of that key wait
`behind` it, and so keep their order.

exit code: 0, also when some are set aside (`cauce doctor` judges); 3 if a database cannot be reached.
"""
_RELEASE = """\
Lets the running service try again what it had set aside, before what waits behind it. For when the cause is
gone: another limit, another broker. What is refused again is set aside again. Leaves an audit row.

    cauce outbox release 0199a3f2                  one (any beginning of an id that is not ambiguous)
    cauce outbox release --name 'shop.**'          by name; * is one part of it, ** any number
    cauce outbox release --all --dry-run           only say which

exit code: 0 all were released; 1 some were not; 2 it is not clear which are meant; 3 if a database cannot be
reached.
"""
_DISCARD = """\
Gives up events that were set aside: nobody will ever hear them. The next event of the same key is sent then.
--because is kept in the audit row with your name.

exit code: 0 all were discarded; 1 some were not; 2 it is not clear which are meant; 3 if a database cannot be
reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser(
        "outbox", help="show what is on its way to the broker, and what it refused", allow_abbrev=False
    )
    actions = add_actions(parser)

    status = add_action(actions, "status", "what waits, what is kept, what was set aside", _STATUS)
    add_services(status)
    add_json(status)
    status.set_defaults(run=run_status)

    release = add_action(actions, "release", "try again what was set aside", _RELEASE)
    _add_which(release)
    release.add_argument("--because", metavar="WHY", help="for the audit row")
    release.set_defaults(run=run_release)

    discard = add_action(actions, "discard", "give up what was set aside, with a reason", _DISCARD)
    _add_which(discard)
    discard.add_argument("--because", metavar="WHY", required=True, help="why; for the audit row")
    discard.set_defaults(run=run_discard)


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of events, or beginnings of them")
    parser.add_argument("--name", metavar="NAME", help="only events of this name; * is one part of it, ** any number")
    parser.add_argument("--all", action="store_true", help="all there are")
    parser.add_argument("--dry-run", action="store_true", help="only say which")
    add_services(parser, positional=False)
    add_json(parser)


def run_status(arguments: argparse.Namespace) -> int:
    """0, or 3 if a database could not be asked."""
    from cauce.cli.running import carry_out

    return carry_out(_status(arguments))


def run_release(arguments: argparse.Namespace) -> int:
    """0 if all were released."""
    from cauce.cli.commands.outbox_actions import release_chosen
    from cauce.cli.running import carry_out

    return carry_out(release_chosen(arguments))


def run_discard(arguments: argparse.Namespace) -> int:
    """0 if all were discarded."""
    from cauce.cli.commands.outbox_actions import discard_chosen
    from cauce.cli.running import carry_out

    return carry_out(discard_chosen(arguments))


async def _status(arguments: argparse.Namespace) -> int:
    from cauce.admin.status import outbox_of
    from cauce.cli.options import targets_of
    from cauce.cli.running import each
    from cauce.cli.screen import say, say_json

    found, code = await each(targets_of(arguments), outbox_of)
    if arguments.json:
        say_json({name: status for name, (status, _) in found.items()})
    elif found:
        say("\n\n".join("\n".join(_lines(*one)) for one in found.values()))
    return code


def _lines(status: "OutboxStatus", figures: "Figures") -> Iterator[str]:
    from cauce.cli.commands.status import lanes_line
    from cauce.cli.screen import bold, headed
    from cauce.cli.when import ago, short

    outbox = status.figures
    yield bold(status.service)
    if status.on_their_way:
        yield ""
        yield from _by_name(status)
    if status.set_aside:
        yield ""
        yield from _set_aside_lines(status)
    yield ""
    rows = [("waiting", f"{outbox.waiting:,}, oldest {short(outbox.oldest_waiting_s)}" if outbox.waiting else "none")]
    rows.append(("last sent", "never" if status.last_sent_s is None else ago(status.last_sent_s)))
    if outbox.sent_kept:
        kept = f"{outbox.sent_kept:,} sent events, about {size(outbox.kept_bytes)}, the oldest sent {ago(outbox.oldest_sent_s or 0)}"
        rows.append(("kept", kept))
    if status.keep:
        keep = status.keep
        rows.append(
            ("at most", f"{short(keep.seconds)}, {keep.rows:,} events, {size(keep.bytes)}; whichever comes first")
        )
    rows.append(("lanes", lanes_line(figures)))
    yield from headed(rows)


def _by_name(status: "OutboxStatus") -> Iterator[str]:
    from cauce.cli.screen import Column, red, table, yellow
    from cauce.cli.when import short

    columns = [Column("event"), *(Column(title, "right") for title in ("waiting", "oldest", "set aside", "behind"))]
    yield from table(
        columns,
        (
            [
                one.name,
                f"{one.waiting:,}" if one.waiting else "–",
                short(one.oldest_s),
                red(f"{one.set_aside:,}") if one.set_aside else "–",
                yellow(f"{one.behind:,}") if one.behind else "–",
            ]
            for one in status.on_their_way
        ),
    )


_SHOWN = 10


def _set_aside_lines(status: "OutboxStatus") -> Iterator[str]:
    from cauce.admin.short_ids import shortest_beginnings
    from cauce.cli.screen import bold, commands, lines_of, plural, red

    shown = shortest_beginnings(one.event_id for one in status.set_aside)
    yield f"  {bold('set aside')}"
    for one in status.set_aside[:_SHOWN]:
        waits = "" if one.key is None else f" · key {one.key}"
        waits += f" · {plural(one.behind, 'later event')} of it waiting" if one.behind else ""
        yield from lines_of(f"{one.name}{waits}", indent=6, first=f"    {red(shown[one.event_id])}  ")
        yield from lines_of(one.problem, indent=6)
    if status.set_aside[_SHOWN:]:
        yield f"    … and {len(status.set_aside) - _SHOWN:,} more: --json"
    first_id = shown[status.set_aside[0].event_id]
    yield ""
    yield from commands(f"cauce outbox release {first_id}", f"cauce outbox discard {first_id} --because '…'", indent=4)


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"
