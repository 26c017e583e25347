"""`cauce run MODULE:BUILD`: the loops of a service in a process of their own."""

import argparse
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from cauce.cli.parsing import Subparsers
    from cauce.service.service import Service

__all__ = ["register"]

_DESCRIPTION = """\
Runs a service without its HTTP door: its relay, its consumer, its retries. For a web application that only
writes to its outbox, or for more hands beside the ones that serve HTTP: processes of one service share the
work by themselves.

BUILD is a Service, or a function that makes one; it may return a tuple whose first part is the service, as in
`return service, app`. A parameter of the function that is annotated with a class of settings is given the
loaded settings. The current folder is searched first.

    cauce run accounts.main:build --health-port 9023

The tables of the service itself must be there (its own start migrates them); Cauce's are made if need be.

environment: what the service's settings say; `cauce config` shows it.
exit code: 0 stopped by a signal, everything finished; 1 crashed; 2 the configuration is wrong.
"""


def register(subparsers: "Subparsers") -> None:
    """Add the command; its function is `run` in the parsed arguments."""
    parser = subparsers.add_parser(
        "run",
        help="run the loops of a service apart from its HTTP door",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("build", metavar="MODULE:BUILD", help="where the service is put together")
    parser.add_argument("--health-port", type=int, metavar="PORT", help="serve health, counters and status there")
    parser.add_argument("--health-host", default="127.0.0.1", metavar="HOST", help="on this address (127.0.0.1)")
    parser.add_argument("--grace", default="20s", metavar="TIME", help="how long stopping may take (20s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The exit code of `cauce.hosting.run`."""
    from cauce.cli.screen import complain
    from cauce.cli.when import duration
    from cauce.errors import CauceError, ConfigurationError

    try:
        grace_s = duration(arguments.grace, option="--grace")
        service = _service(arguments.build)
    except ConfigurationError as error:
        complain(f"cauce run: {error.problems[0] if len(error.problems) == 1 else error}")
        return 2
    except CauceError as error:
        complain(f"cauce run: {error}")
        return 2
    from cauce import hosting

    return hosting.run(service, health_host=arguments.health_host, health_port=arguments.health_port, grace_s=grace_s)


def _service(target: str) -> "Service":
    from cauce.errors import ConfigurationError
    from cauce.service.service import Service

    made = _called(_found(target), target)
    first = made
    if isinstance(made, tuple) and made:
        (first, *_) = cast("tuple[object, ...]", made)
    if not isinstance(first, Service):
        raise ConfigurationError(
            [f"{target} gives a {type(first).__name__}; expected a Service, or a tuple that begins with one"]
        )
    return first


def _found(target: str) -> Any:
    """What `module:name` means. ConfigurationError with the nearest name."""
    import os
    import sys
    from importlib import import_module

    from cauce.errors import ConfigurationError, did_you_mean

    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise ConfigurationError([f"{target!r} names no service. Expected MODULE:BUILD, as in accounts.main:build"])
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigurationError([f"there is no module {error.name!r}.{_nearest_module(error.name)}"]) from None
        raise ConfigurationError([f"{module_name} needs {error.name!r}, which is not installed"]) from None
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            words = [word for word in dir(found) if not word.startswith("_")]
            raise ConfigurationError([f"{module_name} has no {part!r}.{did_you_mean(part, words)}"])
        found = getattr(found, part)
    return found


def _nearest_module(name: str) -> str:
    """The module beside it that was probably meant."""
    from importlib import import_module
    from pkgutil import iter_modules

    from cauce.errors import did_you_mean

    parent, _, last = name.rpartition(".")
    try:
        path = import_module(parent).__path__ if parent else None
    except (ImportError, AttributeError):
        return ""
    names = {f"{parent}.{one.name}" if parent else one.name: one.name for one in iter_modules(path)}
    nearest = did_you_mean(last, names.values())
    return nearest if not parent else nearest.replace("'", f"'{parent}.", 1)


def _called(made: Any, target: str) -> object:
    """The function called, with loaded settings where it asks for them; anything else as it is."""
    import inspect
    import typing

    from cauce.errors import ConfigurationError
    from cauce.service.service import Service

    if isinstance(made, Service) or not callable(made):
        return cast("object", made)
    hints = typing.get_type_hints(made)
    given: dict[str, Any] = {}
    for parameter in inspect.signature(made).parameters.values():
        kind: Any = hints.get(parameter.name)
        if _is_settings(kind):
            from cauce.settings.loading import load

            given[parameter.name] = load(kind)
        elif parameter.default is inspect.Parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise ConfigurationError(
                [
                    f"{target} wants {parameter.name!r}, and only a class of settings can be filled in. Name a function without it"
                ]
            )
    return made(**given)


def _is_settings(kind: Any) -> bool:
    from pydantic import BaseModel

    return isinstance(kind, type) and issubclass(kind, BaseModel)
