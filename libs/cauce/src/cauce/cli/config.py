"""`cauce config`: every effective setting, and where it came from."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `cauce --help` must not wait for pydantic
    from cauce.settings import Setting

__all__ = ["register"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]  # argparse has no public name for it
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "config",
        help="show every effective setting and where it came from",
        description="Every effective setting of each service: name, value (secrets masked), where it "
        "came from (environment, file:line or default) and what it means. Exit code 1 if any is wrong.",
    )
    parser.add_argument("service", nargs="?", help="only this service (a name in pyproject.toml)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings; 1 and the whole list of problems on stderr when something is wrong."""
    from dataclasses import asdict

    from cauce.errors import ConfigurationError, did_you_mean
    from cauce.settings import inspect, project_settings, resolve

    service: str | None = arguments.service
    try:
        targets = project_settings()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    if not targets:
        print(
            "No settings to show: no pyproject.toml here or above says "
            '[tool.cauce.dev.services.NAME] settings = "module:Class".',
            file=sys.stderr,
        )
        return 1
    if service is not None and service not in targets:
        known = ", ".join(targets)
        print(
            f"No service {service!r}; the project has {known}.{did_you_mean(service, targets)}",
            file=sys.stderr,
        )
        return 1

    shown: dict[str, tuple[Setting, ...]] = {}
    problems: dict[str, None] = {}  # in order, each once: services share settings
    for name, target in targets.items():
        if service in (None, name):
            try:
                shown[name] = inspect(resolve(target))
            except ConfigurationError as error:
                problems |= dict.fromkeys(error.problems)
    if problems:
        print(ConfigurationError(problems), file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({name: [asdict(one) for one in settings] for name, settings in shown.items()}, indent=2))
    else:
        print("\n\n".join(_table(name, settings) for name, settings in shown.items()))
    return 0


def _table(service: str, settings: "tuple[Setting, ...]") -> str:
    rows = [(one.name, one.value if one.value is not None else "–", one.origin, one.description) for one in settings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows
    ]
    return "\n".join([service, *(f"  {line.rstrip()}" for line in lines)])
