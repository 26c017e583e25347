"""Settings read once, at start, with everything that is wrong in one message.

A service describes its settings as one pydantic model; the environment name of a field is its alias, or
else the field's own name in capitals (with the model's `env_prefix`, if it has one):

    class Settings(BaseSettings):
        redis_host: str = Field("localhost", description="the broker's host")        # REDIS_HOST

    settings = load(Settings)

A value comes from the environment, else from the project's state file (`.cauce/dev.env`, which `cauce dev`
writes; found in the current folder or above it, or named by `CAUCE_ENV_FILE`), else it is the default. An
*empty* value counts as not given, so that `REDIS_PASS=` (what Compose makes of an unset `${REDIS_PASS}`)
means the default. An empty `CAUCE_ENV_FILE` means: no state file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cauce.errors import ConfigurationError
from cauce.settings.declared import declared_by
from cauce.settings.messages import misspelt, shown, wrong_values
from cauce.settings.sources import Given, Sources

__all__ = ["Setting", "inspect", "load", "value_of"]

SettingsT = TypeVar("SettingsT", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One effective setting, fit to be shown: a secret's value is already masked; `None` means not set."""

    name: str
    value: str | None
    origin: str
    description: str


def load(
    settings: type[SettingsT], *, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> SettingsT:
    """The settings, from `environ` (the process's), the state file (from `folder` upward) and the defaults.

    Raises ConfigurationError with every problem at once: wrong values, missing ones, misspelt names in the
    environment, keys of the state file that are nobody's. No value of a secret is in its text.
    """
    loaded, _ = _load(settings, Sources.read(environ, folder))
    return loaded


def inspect(
    settings: type[BaseModel], *, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[Setting, ...]:
    """Every setting as `load` would give it, with its origin, in the order of the class.

    Raises what `load` raises.
    """
    loaded, given = _load(settings, Sources.read(environ, folder))
    return tuple(
        Setting(
            name=declared.name,
            value=shown(declared, getattr(loaded, declared.attribute)),
            origin=_origin(declared.name, given.get(declared.name)),
            description=declared.info.description or "",
        )
        for declared in declared_by(settings)
    )


def value_of(
    name: str,
    *,
    settings: type[BaseModel] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[str, str] | None:
    """The value of one variable and where it came from, without loading anything else; None if it has none.

    From the environment, the state file, or the default of the field of `settings` that is read from it. A secret's
    value is not masked. Raises ConfigurationError for a state file that cannot be read.
    """
    sources = Sources.read(environ, folder)
    if sources.problems:
        raise ConfigurationError(sources.problems)
    if given := sources.get(name):
        return given.value, given.origin
    for declared in declared_by(settings) if settings is not None else ():
        if name in declared.names and isinstance(declared.info.default, str):
            return declared.info.default, "default"
    return None


def _origin(name: str, given: Given | None) -> str:
    if given is None:
        return "default"
    return given.origin if given.name == name else f"{given.name}, {given.origin}"


def _load(settings: type[SettingsT], sources: Sources) -> tuple[SettingsT, dict[str, Given]]:
    declared = declared_by(settings)
    given: dict[str, Given] = {}
    for one in declared:
        if found := sources.get(*one.names):
            given[one.name] = found
    problems = [*sources.problems, *misspelt(declared, sources)]
    try:
        loaded = settings.__new__(settings)
        # Not settings(...): BaseSettings would read the environment once more, empty variables included.
        BaseModel.__init__(loaded, **{one.key: given[one.name].value for one in declared if one.name in given})
    except ValidationError as error:
        problems += wrong_values(error, declared, given)
        raise ConfigurationError(problems) from None  # pydantic's own text repeats the values, secrets too
    if problems:
        raise ConfigurationError(problems)
    return loaded, given
