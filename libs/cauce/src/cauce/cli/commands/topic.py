"""`cauce topic`: what the broker holds, who hears it, and how to let go of a service that will never come back."""

import argparse
from typing import TYPE_CHECKING

from cauce.cli.options import add_broker, add_json
from cauce.cli.parsing import add_action, add_actions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cauce.cli.parsing import Subparsers
    from cauce.ports.topics import Group, Topic

__all__ = ["register"]

_LIST = """\
Every topic on the broker (one for each publishing service), how much of it is held, and the services that hear
it: `lag` counts entries a service was never given, `pending` those it was given and has not acknowledged.

exit code: 0; 3 if the broker cannot be reached.
"""
_FORGET = """\
Takes a retired service off the topics it heard, so that they can be trimmed again: as long as a registered
group has not acknowledged an entry, the entry stays. Its name is free for another database then. Refused
while the service still has something to hear, unless --force says that it never will. A service of that name
that still runs registers again.

exit code: 0; 1 if it was refused; 2 if no topic knows that group; 3 if the broker cannot be reached.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("topic", help="list topics and who hears them; forget a service", allow_abbrev=False)
    actions = add_actions(parser)

    listing = add_action(actions, "list", "topics, groups, lag", _LIST)
    _add_common(listing)
    listing.set_defaults(run=run_list)

    forget = add_action(actions, "forget", "a service that will never come back", _FORGET)
    forget.add_argument("group", metavar="GROUP", help="the service's own name, as in: cauce topic list")
    forget.add_argument("--topic", metavar="SERVICE", help="only from this topic")
    forget.add_argument("--force", action="store_true", help="also if entries wait for it; they are lost for it")
    forget.add_argument("--dry-run", action="store_true", help="only say what would be forgotten")
    _add_common(forget)
    forget.set_defaults(run=run_forget)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", default="cauce", metavar="NAME", help="of the streams (cauce)")
    add_broker(parser)
    add_json(parser)


def run_list(arguments: argparse.Namespace) -> int:
    """0, or 3 without a broker."""
    from cauce.cli.running import carry_out

    return carry_out(_list(arguments))


def run_forget(arguments: argparse.Namespace) -> int:
    """0 if it is forgotten."""
    from cauce.cli.running import carry_out

    return carry_out(_forget(arguments))


async def _list(arguments: argparse.Namespace) -> int:
    from cauce.admin.broker import open_broker
    from cauce.admin.targets import broker_of_project
    from cauce.cli.running import DONE
    from cauce.cli.screen import say, say_json

    async with open_broker(broker_of_project(redis_url=arguments.redis_url), prefix=arguments.prefix) as broker:
        topics = await broker.topics()
        if arguments.json:
            say_json({topic.name: topic for topic in topics})
        elif topics:
            say("\n\n".join("\n".join(_lines(topic)) for topic in topics))
        else:
            say(
                f"No topics on {broker.address} under the prefix {arguments.prefix!r}: nobody has published or heard yet."
            )
    return DONE


def _lines(topic: "Topic") -> "Iterator[str]":
    from cauce.cli.screen import Column, bold, dim, lines_of, plural, table, yellow
    from cauce.cli.when import short

    held = plural(topic.entries, "entry").replace("entrys", "entries")
    if topic.entries:
        held += f", the oldest {short(topic.oldest_s)} old, the newest {short(topic.newest_s)}"
    yield from lines_of(f"{bold(topic.name)}  {held}", indent=2, first="")
    yield ""
    if not topic.groups:
        yield dim("  heard by nobody")
        return
    columns = [Column("heard by"), Column("lag", "right"), Column("pending", "right"), Column("oldest", "right")]
    rows = ([one.name, f"{one.lag:,}", f"{one.pending:,}", short(one.oldest_waiting_s)] for one in topic.groups)
    yield from table(columns, rows)
    for group in topic.groups:
        if remark := _remark(topic, group):
            yield from lines_of(yellow(remark), indent=2)


def _remark(topic: "Topic", group: "Group") -> str | None:
    if group.registered and group.lanes < topic.streams:
        return (
            f"{group.name} is registered and has not come for {topic.streams - group.lanes} lanes: they are not trimmed"
        )
    if group.foreign:
        return f"{', '.join(map(repr, group.foreign))} reads in the group of {group.name}, and is no process of it"
    if not group.registered:
        return f"{group.name} is not registered: it is no service of ours"
    return None


async def _forget(arguments: argparse.Namespace) -> int:
    from cauce.admin.broker import open_broker
    from cauce.admin.targets import broker_of_project
    from cauce.admin.topics import StillWaitingError, forget_group
    from cauce.cli.running import DONE, NOT_DONE
    from cauce.cli.screen import complain, plural, say, say_json

    name: str = arguments.group
    dry_run: bool = arguments.dry_run
    async with open_broker(broker_of_project(redis_url=arguments.redis_url), prefix=arguments.prefix) as broker:
        try:
            forgotten = await forget_group(broker, name, topic=arguments.topic, force=arguments.force, dry_run=dry_run)
        except StillWaitingError as error:
            complain(f"{error} If it will never come back: --force")
            return NOT_DONE
    topics, waiting = forgotten.topics, forgotten.unheard
    if arguments.json:
        say_json({"forgotten": name, "topics": topics, "unheard": waiting, "dry_run": dry_run})
    else:
        done = "would be forgotten" if dry_run else "is forgotten"
        unheard = f", with {plural(waiting, 'event')} it never handled" if waiting else ""
        say(f"{name} {done} in {', '.join(topics)}{unheard}.")
    return DONE
