"""`cauce rewind`: after a broker or a database has lost something."""

import argparse
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services

if TYPE_CHECKING:
    from cauce.admin.rewinding import Heard
    from cauce.admin.targets import Target
    from cauce.cli.parsing import Subparsers
    from cauce.stores.sql.rewinding import Published

__all__ = ["register"]

_DESCRIPTION = """\
Goes back to a moment and does again what has happened since. Nobody handles anything twice: the inboxes know
what they have seen.

  --published   the broker lost events: kept rows of this service's outbox are sent again, in order, before
                anything new. The relay notices such a loss by itself as a rule; this is for when it cannot.
  --heard       this service's database was restored from a backup: its group goes back in every topic it hears,
                and the broker gives it everything again that came since. Then also: cauce db restored SERVICE.

The service may run meanwhile. What the broker has trimmed does not come back by --heard: rewind those who
published it with --published.

    cauce rewind mailing --heard --since 2026-11-24T08:05

exit code: 0; 2 if it is not clear what is meant; 3 if the database or the broker cannot be reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "rewind",
        help="send or hear again what has happened since a moment",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--since", required=True, metavar="WHEN", help="2026-11-24T08:05, or how long ago: 2h")
    parser.add_argument("--published", action="store_true", help="send again what it has published")
    parser.add_argument("--heard", action="store_true", help="hear again what it has been given")
    parser.add_argument("--because", metavar="WHY", help="for the audit row")
    parser.add_argument("--dry-run", action="store_true", help="only say how much it would be")
    add_services(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if it was done."""
    from cauce.cli.running import carry_out

    return carry_out(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from cauce.admin.rewinding import rewind_heard, rewind_published
    from cauce.cli.options import targets_of
    from cauce.cli.running import DONE, WRONG
    from cauce.cli.screen import complain, say, say_json
    from cauce.cli.when import age

    if not (arguments.published or arguments.heard):
        complain("cauce rewind: what is to be done again? --published, --heard, or both. See: cauce rewind --help")
        return WRONG
    targets = targets_of(arguments)
    if len(targets) > 1:
        complain(f"cauce rewind: one service at a time, please: {', '.join(one.name for one in targets)}")
        return WRONG
    target = targets[0]
    since_s = age(arguments.since, option="--since")
    why: str | None = arguments.because
    dry_run: bool = arguments.dry_run
    published = await rewind_published(target, since_s, why=why, dry_run=dry_run) if arguments.published else None
    heard = await rewind_heard(target, since_s, why=why, dry_run=dry_run) if arguments.heard else None
    if arguments.json:
        say_json({"service": target.name, "dry_run": dry_run, "published": published, "heard": heard})
    else:
        if published is not None:
            _report_published(target, published, since_s, dry_run=dry_run)
        for topic in heard or []:
            _report_heard(target, topic, dry_run=dry_run)
        if heard == []:
            say(f"{target.name} hears no topic.")
    return DONE


def _report_published(target: "Target", published: "Published", since_s: float, *, dry_run: bool) -> None:
    from cauce.cli.screen import plural, say, yellow
    from cauce.cli.when import short

    will = "would be" if dry_run else "are"
    say(f"{target.name}: {plural(published.events, 'event')} of {plural(published.lanes, 'lane')} {will} sent again.")
    if published.kept_for_s is not None and published.kept_for_s < since_s:
        say(
            yellow(f"What was sent more than {short(published.kept_for_s)} ago is not kept any more, if there was any.")
        )


def _report_heard(target: "Target", topic: "Heard", *, dry_run: bool) -> None:
    from cauce.cli.screen import lines_of, say, yellow

    will = "would get" if dry_run else "gets"
    entries = f"{topic.entries:,} event{'' if topic.entries == 1 else 's'}"
    say(f"{target.name} {will} {entries} of {topic.topic} again; those it has handled it recognises.")
    if topic.trimmed:
        gone = f"The broker has let go of a part of that time: cauce rewind {topic.topic} --published --since …"
        say("\n".join(map(yellow, lines_of(gone, indent=2, first=""))))
