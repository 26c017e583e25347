"""`cauce config`: every effective setting, and where it came from."""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `cauce --help` must not wait for pydantic
    from cauce.settings.loading import Setting

__all__ = ["register"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]  # argparse has no public name for it
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "config",
        help="show every effective setting and where it came from",
        description="Every effective setting of each service: name, value (secrets masked), where it "
        "came from (environment, file:line or default) and what it means. exit code: 0; 2 if any is wrong, with all "
        "that is wrong on standard error, or if there is no such service.",
        allow_abbrev=False,
    )
    parser.add_argument("service", nargs="?", help="only this service (a name in pyproject.toml)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings; 2 and the whole list of problems on stderr when something is wrong."""
    from dataclasses import asdict

    from cauce.cli.screen import complain, say, say_json
    from cauce.errors import ConfigurationError, did_you_mean
    from cauce.settings.declared import resolve
    from cauce.settings.loading import inspect
    from cauce.settings.project import project_settings

    service: str | None = arguments.service
    try:
        targets = project_settings()
    except ConfigurationError as error:
        complain(str(error))
        return 2
    if not targets:
        complain(
            "No settings to show: no pyproject.toml here or above says "
            '[tool.cauce.dev.services.NAME] settings = "module:Class".'
        )
        return 2
    if service is not None and service not in targets:
        complain(f"No service {service!r}; the project has {', '.join(targets)}.{did_you_mean(service, targets)}")
        return 2

    shown: dict[str, Sequence[Setting]] = {}
    problems: dict[str, None] = {}  # in order, each once: services share settings
    for name, target in targets.items():
        if service in (None, name):
            try:
                shown[name] = inspect(resolve(target))
            except ConfigurationError as error:
                problems |= dict.fromkeys(error.problems)
    if problems:
        complain(str(ConfigurationError(problems)))
        return 2
    if arguments.json:
        say_json({name: [asdict(one) for one in settings] for name, settings in shown.items()})
    else:
        say("\n\n".join("\n".join(_lines(name, settings)) for name, settings in shown.items()))
    return 0


_LONG = 40
"""A longer name leaves no room for its value beside it."""


def _lines(service: str, settings: "Sequence[Setting]") -> Iterator[str]:
    """A row for each; where the terminal is too narrow for all of it, what it means and whence it came stand beneath."""
    from cauce.cli.screen import bold, dim, lines_of, width

    yield bold(service)
    rows = [(one.name, one.value if one.value is not None else "–", one.origin, one.description) for one in settings]
    name, value, origin = (max((len(row[column]) for row in rows), default=0) for column in range(3))
    if all(2 + name + 2 + value + 2 + origin + 2 + len(row[3]) <= width() for row in rows):
        for row in rows:
            yield f"  {row[0].ljust(name)}  {row[1].ljust(value)}  {dim(row[2].ljust(origin))}  {row[3]}".rstrip()
        return
    for row in rows:
        if name > _LONG:
            yield f"  {row[0]}"
            yield from lines_of(row[1], indent=4)
        else:
            yield from lines_of(row[1], indent=name + 4, first=f"  {row[0].ljust(name)}  ")
        beneath = f"{row[2]} · {row[3]}" if row[3] else row[2]
        yield from (dim(line) for line in lines_of(beneath, indent=4 if name > _LONG else name + 4))
