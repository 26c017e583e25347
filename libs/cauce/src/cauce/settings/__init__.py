"""What a program is told from outside: its settings, and the project's table in pyproject.toml."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cauce.settings.loading import STATE_FILE, Setting, inspect, load, project_settings, resolve, value_of

__all__ = ["STATE_FILE", "Setting", "inspect", "load", "project_settings", "resolve", "value_of"]

if not TYPE_CHECKING:  # a type checker would take any name for granted

    def __getattr__(name: str) -> object:  # on first use: the project's table is read without pydantic
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("cauce.settings.loading"), name)
