"""`cauce outbox status`: what is on its way to the broker, and how far back it could be sent again."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services
from cauce.cli.parsing import add_action, add_actions

if TYPE_CHECKING:
    from cauce.admin.figures import Figures
    from cauce.admin.outbox import OutboxStatus
    from cauce.admin.targets import Target
    from cauce.cli.parsing import Subparsers

__all__ = ["register"]

_DESCRIPTION = """\
Events that are committed and not yet confirmed by the broker, by name; and those that were sent and are kept,
so that a broker that forgets can be fed again. `cauce rewind SERVICE --published` sends those once more.

exit code: 0; 3 if a database cannot be reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("outbox", help="show what is on its way to the broker", allow_abbrev=False)
    status = add_action(add_actions(parser), "status", "what waits, what is kept", _DESCRIPTION)
    add_services(status)
    add_json(status)
    status.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0, or 3 if a database could not be asked."""
    from cauce.cli.running import carry_out

    return carry_out(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from cauce.admin.database import looking
    from cauce.admin.outbox import read_outbox
    from cauce.cli.options import targets_of
    from cauce.cli.running import each
    from cauce.cli.screen import say, say_json

    async def look(target: "Target") -> "tuple[OutboxStatus, Figures]":
        async with looking(target) as connection:
            return await read_outbox(connection)

    found, code = await each(targets_of(arguments), look)
    if arguments.json:
        say_json({name: status for name, (status, _) in found.items()})
    else:
        say("\n\n".join("\n".join(_lines(*one)) for one in found.values()))
    return code


def _lines(status: "OutboxStatus", figures: "Figures") -> Iterator[str]:
    from cauce.cli.screen import Column, bold, headed, table, yellow
    from cauce.cli.status import lanes_line
    from cauce.cli.when import ago, short

    outbox = status.figures
    yield bold(status.service)
    if status.on_their_way:
        yield ""
        columns = [Column("event"), Column("waiting", "right"), Column("oldest", "right"), Column("attempts", "right")]
        yield from table(
            columns,
            ([one.name, f"{one.waiting:,}", short(one.oldest_s), str(one.attempts)] for one in status.on_their_way),
        )
    yield ""
    rows = [("waiting", f"{outbox.waiting:,}, oldest {short(outbox.oldest_waiting_s)}" if outbox.waiting else "none")]
    rows += [("refused", yellow(one.problem)) for one in status.on_their_way if one.problem]
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


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"
