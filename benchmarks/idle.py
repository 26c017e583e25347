"""What each service of CloneSpotify costs while it has nothing to do: of a core, in its database, at its broker.

    .venv/bin/python benchmarks/idle.py                       # a minute, on PostgreSQL and Valkey
    .venv/bin/python benchmarks/idle.py --store sqlite        # a file for each service
    .venv/bin/python benchmarks/idle.py --seconds 600         # with all that happens seldom: pruning, verification

Starts what `cauce dev` starts, in a folder of its own. Prints processor time as a share of one core, commits and roll-backs
per second in the service's database, and commands per second of the service's user at the broker.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cauce.dev.system import DevSystem
from cauce.settings.project import Project
from goals import verdict
from testsupport.meters import Meters, Spent

MOST_PERCENT, MOST_COMMITS, MOST_COMMANDS = 0.5, 2.0, 2.0
SETTLED_S = 35.0
"""After a start everything is looked at once, pruning included."""


async def measured(project: Project, store: str, seconds: float) -> Mapping[str, Spent]:
    """What each service spends in `seconds`."""
    given = {"PATH": os.environ["PATH"], "EVENTS_TRANSPORT": "redis-streams", "STORE": store, "CAUCE_ENV_FILE": ""}
    async with DevSystem(project, environment=given) as system:
        await asyncio.sleep(SETTLED_S)
        meters = Meters(system)
        before = meters.read()
        await asyncio.sleep(seconds)
        after = meters.read()
    return {name: now.since(before[name]) for name, now in after.items()}


def show(spent: Mapping[str, Spent], seconds: float) -> None:
    print("| service | what | wanted | seen | reached |\n|---|---|---:|---:|---|")
    for name, one in spent.items():
        percent = one.processor_s / seconds * 100
        _row(name, "of a core", MOST_PERCENT, percent, " %")
        if one.commits is not None:
            _row("", "commits and roll-backs", MOST_COMMITS, one.commits / seconds, "/s")
        _row("", "broker commands", MOST_COMMANDS, one.commands / seconds, "/s")


def _row(service: str, what: str, most: float, seen: float, unit: str) -> None:
    print(f"| {service} | {what} | ≤ {most:g}{unit} | {seen:.2f}{unit} | {verdict(most / seen if seen else 1)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    project = Project.read(Path(__file__).resolve().parent.parent / "pyproject.toml")
    with tempfile.TemporaryDirectory(prefix="cauce-idle-") as folder:
        Path(folder).chmod(0o711)
        spent = asyncio.run(measured(replace(project, root=Path(folder)), given.store, given.seconds))
    show(spent, given.seconds)


if __name__ == "__main__":
    main()
