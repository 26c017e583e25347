"""`cauce dev`: the servers and services of the project in this folder, in one terminal."""

import argparse

__all__ = ["register"]

_DESCRIPTION = """\
Starts what [tool.cauce.dev] of the nearest pyproject.toml names: real servers (Valkey, PostgreSQL, a mail
sink) on free ports with passwords, then the services; waits until all are ready, and stays. Ctrl-C lets the
services finish what they do, then stops the servers; a second Ctrl-C kills. Nothing is restarted silently:
if one ends unasked, everything stops.

Data, logs and ports are kept in .cauce beside pyproject.toml, which is private: nobody else can read it, and
git ignores it. While the servers run, .cauce/dev.env holds their addresses and passwords, and services
started by hand read it.

environment:
  STORE=sqlite                a SQLite file for each service instead of PostgreSQL
  REDIS_URL, REDIS_HOST, …    a Redis or Valkey of yours; none is started then
  …_REDIS_URL                 the same for one service, with a user of its own
  …_DATABASE_URL              a database of yours for that service
  SMTP_HOST, SMTP_PORT        a mail server of yours; no sink is started then
  NO_COLOR                    no colours (there are none outside a terminal anyway)
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]  # argparse has no public name for it
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "dev",
        help="start the project's servers and services, and stay",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--only-servers", action="store_true", help="start no service, only what they need")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 after a stop that was asked for, 1 when something failed or ended unasked, 2 for a wrong project."""
    import asyncio
    from pathlib import Path

    from cauce.cli.commands.dev_foreground import run_in_foreground

    only_servers: bool = arguments.only_servers
    return asyncio.run(run_in_foreground(Path.cwd(), only_servers=only_servers))
