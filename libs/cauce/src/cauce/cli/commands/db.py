"""`cauce db`: Cauce's own tables in a service's database."""

import argparse
from typing import TYPE_CHECKING

from cauce.cli.options import add_json, add_services
from cauce.cli.parsing import add_action, add_actions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cauce.admin.targets import Target
    from cauce.cli.parsing import Subparsers

__all__ = ["register"]

_UPGRADE = """\
Makes what is missing of Cauce's tables: tables, columns, indexes and their first rows. A service does the same
at its start; this is for those who would rather do it before. It only adds, so services may run meanwhile; but
tables of an earlier version are upgraded only while no process works with them. Safe to repeat, and when several
do it at once. A SQLite file is made if it is not there.

exit code: 0; 2 if the tables are of a later version than this Cauce, or of an earlier one that a process
works with; 3 if a database cannot be reached.
"""
_SQL = """\
Prints the statements that make Cauce's tables in an empty database, for a migration of your own. With Alembic,
add `cauce.stores.sql.tables.metadata` to the target metadata instead, and call `fill_tables` of
`cauce.stores.sql.schema` once.

exit code: 0; 2 for an unknown dialect.
"""
_RESTORED = """\
Says that a service's database was restored from a backup, or wiped. It gets a new incarnation, so that the
events it publishes from now on are not taken for repeats of those it has forgotten, and its lanes are free.
The broker notes it as the database of this service: a process with another database is refused from then on.
For a copy that is to be another environment, name the broker or the prefix that it will use.
Then let it hear again what came after the backup: cauce rewind SERVICE --heard --since THEN.

Stop the service before the restore, and start it after this.

exit code: 0; 1 if processes of the service are running (--force does it all the same); 3 if the database cannot
be reached, or the broker, which is told when this is repeated.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("db", help="make Cauce's tables, print them, tell of a restore", allow_abbrev=False)
    actions = add_actions(parser)

    upgrade = add_action(actions, "upgrade", "make what is missing of the tables", _UPGRADE)
    add_services(upgrade)
    upgrade.add_argument("--dry-run", action="store_true", help="only say what is missing")
    add_json(upgrade)
    upgrade.set_defaults(run=run_upgrade)

    sql = add_action(actions, "sql", "print the statements that make the tables", _SQL)
    sql.add_argument("--dialect", metavar="NAME", default="postgresql", help="postgresql (default) or sqlite")
    sql.set_defaults(run=run_sql)

    restored = add_action(actions, "restored", "tell of a database that was restored from a backup", _RESTORED)
    add_services(restored)
    restored.add_argument("--because", metavar="WHY", help="for the audit row")
    restored.add_argument("--force", action="store_true", help="also while processes of the service seem to run")
    restored.add_argument("--prefix", metavar="NAME", help="of the streams (as it was started last)")
    add_json(restored)
    restored.set_defaults(run=run_restored)


def run_upgrade(arguments: argparse.Namespace) -> int:
    """0 if the tables are as they should be."""
    from cauce.cli.running import carry_out

    return carry_out(_upgrade(arguments))


def run_sql(arguments: argparse.Namespace) -> int:
    """0, or 2 for a dialect there is none of."""
    from cauce.cli.screen import complain, say
    from cauce.errors import did_you_mean
    from cauce.stores.sql.schema import DIALECTS, ddl

    dialect: str = arguments.dialect
    if dialect not in DIALECTS:
        complain(
            f"cauce db sql: --dialect {dialect}: not one of {', '.join(DIALECTS)}.{did_you_mean(dialect, DIALECTS)}"
        )
        return 2
    for statement in ddl(dialect):
        say(f"{statement};")
    return 0


def run_restored(arguments: argparse.Namespace) -> int:
    """0 if it has a new incarnation."""
    from cauce.cli.running import carry_out

    return carry_out(_restored(arguments))


async def _upgrade(arguments: argparse.Namespace) -> int:
    from cauce.admin.tables import steps_of_upgrade, upgrade_tables
    from cauce.cli.options import targets_of
    from cauce.cli.running import WRONG, each
    from cauce.cli.screen import complain, say, say_json
    from cauce.errors import ConfigurationError
    from cauce.stores.sql.schema import SCHEMA

    async def look(target: "Target") -> "Sequence[str] | None":
        if arguments.dry_run:
            return await steps_of_upgrade(target)
        try:
            return await upgrade_tables(target)
        except ConfigurationError as error:  # the others are upgraded all the same
            complain(f"{target.name}: {' '.join(error.problems)}")
            return None

    asked, code = await each(targets_of(arguments), look)
    found = {name: done for name, done in asked.items() if done is not None}
    code = code if len(found) == len(asked) else WRONG
    if arguments.json:
        say_json({"version": SCHEMA, "dry_run": arguments.dry_run, "services": found})
        return code
    for name, done in found.items():
        say(f"{name}: version {SCHEMA}, {'nothing to do' if not done else f'{len(done)} steps:'}")
        for step in done:
            say(f"  {step}")
    return code


async def _restored(arguments: argparse.Namespace) -> int:
    from cauce.admin.rewinding import StillRunningError, find_restored, renew
    from cauce.cli.running import DONE, NOT_DONE, UNREACHABLE, WRONG
    from cauce.cli.screen import commands, complain, say, say_json
    from cauce.cli.when import short

    names: list[str] = [*arguments.services, *arguments.more_services]
    targets = await find_restored(names, database_url=arguments.database_url, redis_url=arguments.redis_url)
    if len(targets) > 1:
        complain(f"cauce db restored: which one? {', '.join(one.name for one in targets)}")
        return WRONG
    target = targets[0]
    try:
        renewed = await renew(target, why=arguments.because, force=arguments.force, prefix=arguments.prefix)
    except StillRunningError as error:
        complain(f"{error} Stop it first; or, if that is the past speaking: --force")
        return NOT_DONE
    restored = renewed.restored
    code = DONE if renewed.untold is None else UNREACHABLE
    if renewed.untold is not None:
        complain(
            f"{renewed.untold}\nThe broker does not know the new incarnation. If it kept its data, the service will not "
            "start: repeat this then."
        )
    if arguments.json:
        say_json({"service": target.name, **_plain(restored), "registered": renewed.registered})
        return code
    say(f"{target.name}: new incarnation {restored.after} (it was {restored.before}).")
    if renewed.registered:
        say(f"It is registered with the broker in {', '.join(renewed.registered)}.")
    since = short(restored.newest_s).replace(" ", "").replace("min", "m") if restored.newest_s is not None else "THEN"
    if restored.newest_s is not None:
        say(f"The newest trace of work in this database is {short(restored.newest_s)} old. So now:")
    say("\n".join(commands(f"cauce rewind {target.typed} --heard --since {since}")))
    return code


def _plain(value: object) -> dict[str, object]:
    import msgspec

    return msgspec.to_builtins(value)
