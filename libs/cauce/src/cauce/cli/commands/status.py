"""`cauce status`: what every listener has done, what waits, and who does the work."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services

if TYPE_CHECKING:  # `cauce --help` must not wait for a database driver
    from cauce.admin.status import Status
    from cauce.admin.targets import Target
    from cauce.cli.parsing import Subparsers
    from cauce.ports.figures import Figures, ListenerFigures

__all__ = ["register"]

_DESCRIPTION = """\
For every listener of a service: how many deliveries it has handled, how many wait and since when, how many
failed and will be tried again, how many are dead and need a person. Then those that are tried next, with error,
place in the code and the command that tries them now; the outbox, and the processes that
share the lanes. The same numbers as /status on the service's health port.

Everything is read from the service's database, so it survives restarts. "handled" is what the inbox
remembers (7 days, unless the service keeps less or more); the last line says how far back that is.

exit code: 0, also when something is dead (`cauce doctor` judges); 3 if a database cannot be reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "status",
        help="show what listeners have handled, what waits, fails or is dead",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_services(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0, or 3 if a database could not be asked; the others are shown all the same."""
    from cauce.cli.running import carry_out

    return carry_out(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from cauce.admin.status import status_of
    from cauce.cli.options import targets_of
    from cauce.cli.running import each
    from cauce.cli.screen import say, say_json

    targets = targets_of(arguments)
    found, code = await each(targets, status_of)
    if arguments.json:
        say_json({name: status.as_json() for name, status in found.items()})
    elif found:
        blocks = [_lines(target, found[target.name]) for target in targets if target.name in found]
        say("\n\n".join("\n".join(lines) for lines in blocks))
    return code


def _lines(target: "Target", status: "Status") -> Iterator[str]:
    from cauce.cli.commands.waiting_pages import failing_lines
    from cauce.cli.screen import Column, bold, dim, headed, lines_of, table

    figures = status.figures

    title = f"{bold(figures.service)}  {dim(f'{figures.database} {target.database_label}')}"
    yield from lines_of(title, indent=2, first="")
    if figures.listeners:
        yield ""
        columns = [Column("listener"), *(Column(title, "right") for title in _TITLES)]
        yield from table(columns, (_row(one) for one in figures.listeners))
    if status.failing:
        yield ""
        yield from failing_lines(status.failing, status.failing_in_all)
    yield ""
    yield from headed(
        [("outbox", outbox_line(figures)), ("lanes", lanes_line(figures)), *_notes(figures, target.typed)]
    )


_TITLES = ("handled", "waiting", "oldest", "failing", "next try", "dead")


def _row(one: "ListenerFigures") -> list[str]:
    from cauce.cli.screen import red, yellow
    from cauce.cli.when import short

    next_try = (
        "–" if one.next_try_in_s is None else "now" if one.next_try_in_s < 0.1 else f"in {short(one.next_try_in_s)}"
    )
    return [
        one.listener,
        f"{one.handled:,}",
        _count(one.waiting),
        short(one.oldest_waiting_s),
        yellow(_count(one.failing)) if one.failing else "–",
        next_try,
        red(_count(one.dead)) if one.dead else "–",
    ]


def _count(number: int) -> str:
    return f"{number:,}" if number else "–"


_THEM = ("them", "it")


def outbox_line(figures: "Figures") -> str:
    from cauce.cli.screen import red, yellow
    from cauce.cli.when import short

    outbox = figures.outbox
    waiting = f"{outbox.waiting:,} waiting, oldest {short(outbox.oldest_waiting_s)}" if outbox.waiting else "empty"
    if outbox.set_aside:
        waiting += f" · {red(f'{outbox.set_aside:,} set aside')}"
    if outbox.behind:
        waiting += f" · {yellow(f'{outbox.behind:,} behind {_THEM[outbox.set_aside == 1]}')}"
    if not outbox.sent_kept:
        return waiting
    return f"{waiting} · {outbox.sent_kept:,} sent and kept, the oldest for {short(outbox.oldest_sent_s)}"


def lanes_line(figures: "Figures") -> str:
    from cauce.cli.screen import red, yellow

    if figures.durable is False:
        return red(
            "none: it was started last over a transport that forgets. At most once; what is lost leaves no trace here"
        )
    if not figures.members:
        return red("no process of this service is running")
    owned = f"{figures.lanes_owned} of {figures.lanes} owned"
    if figures.lanes_owned < figures.lanes:
        owned = yellow(owned)
    processes = ", ".join(f"{one.member.rpartition(':')[0] or one.member} has {one.lanes}" for one in figures.members)
    return f"{owned} · {processes}"


def _notes(figures: "Figures", typed: str) -> Iterator[tuple[str, str]]:
    from cauce.cli.screen import red
    from cauce.cli.when import short

    if figures.outbox.set_aside:
        them = _THEM[figures.outbox.set_aside == 1]
        yield "set aside", f"the broker will never take {them}: cauce outbox status {typed}"
    parked = [one for one in figures.listeners if one.parked_keys]
    if parked:
        told = ", ".join(f"{one.parked_keys:,} for {one.listener}" for one in parked)
        yield "parked", f"keys whose later events wait for one that failed: {told}"
    for one in figures.listeners:
        if one.in_trouble:
            yield (
                "in trouble",
                red(f"{one.listener}, {one.in_trouble:,} for {short(one.in_trouble_for_s)}: {one.trouble}"),
            )
            yield "", f"cauce waiting list {typed} --listener {one.listener} --state trouble"
        if one.paused_s is not None:
            yield "paused", f"{one.listener} for {short(one.paused_s)}: {one.paused_because}"
    gone = [one.listener for one in figures.listeners if not one.in_code]
    if gone:
        yield "not in the code any more", ", ".join(gone)
    discarded = sum(one.discarded for one in figures.listeners)
    if discarded:
        yield "discarded", f"{discarded:,} by hand (not among the handled)"
    if figures.listeners:
        since = figures.counted_since_s
        back = "nothing yet" if since is None else f"the last {short(since)}"
        yield "handled", f"counts what the inbox remembers: {back}"
