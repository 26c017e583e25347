"""What a settings class declares: the names it is read from, which of them are secret, and what they may hold."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Literal, get_args, get_origin

from pydantic import AliasChoices, BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from cauce.errors import ConfigurationError

__all__ = ["Declared", "declared_by", "resolve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    attribute: str
    key: str  # under which the model takes the value
    names: tuple[str, ...]  # in the environment, the first is the one we speak of
    info: FieldInfo

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def secret(self) -> bool:
        return bool(re.search("PASS|SECRET|TOKEN", self.name)) or any(
            isinstance(kind, type) and issubclass(kind, (SecretStr, SecretBytes, Secret))
            for kind in _leaves(self.info.annotation)
        )

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(_choices(self.info.annotation))


def declared_by(settings: type[BaseModel]) -> list[Declared]:
    prefix = str(settings.model_config.get("env_prefix") or "")
    declared: list[Declared] = []
    for attribute, info in settings.model_fields.items():
        alias = info.validation_alias if info.validation_alias is not None else info.alias
        if isinstance(alias, AliasChoices):
            names = [choice for choice in alias.choices if isinstance(choice, str)]
        else:
            names = [alias] if isinstance(alias, str) else []
        key = names[0] if names else attribute
        names = names or [prefix + attribute]
        declared.append(Declared(attribute=attribute, key=key, names=tuple(name.upper() for name in names), info=info))
    return declared


def resolve(target: str) -> type[BaseModel]:
    """The settings class that `module:Class` names. Raises ConfigurationError when there is none."""
    module, _, name = target.partition(":")
    try:
        found: object = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError([f"settings = {target!r}: {error}. Expected module:Class."]) from error
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ConfigurationError([f"settings = {target!r} is not a class of settings (a pydantic model)."])
    return found


def _leaves(annotation: object) -> Iterator[object]:
    arguments: tuple[object, ...] = () if get_origin(annotation) is Literal else get_args(annotation)
    if not arguments:
        yield get_origin(annotation) if get_origin(annotation) not in (None, Literal) else annotation
    if isinstance(origin := get_origin(annotation), type):
        yield origin
    for argument in arguments:
        yield from _leaves(argument)


def _choices(annotation: object) -> Iterator[str]:
    for leaf in _leaves(annotation):
        if get_origin(leaf) is Literal:
            yield from (str(value) for value in get_args(leaf))
        elif isinstance(leaf, type) and issubclass(leaf, Enum):
            yield from (str(member.value) for member in leaf)
