"""What a program gets from outside: its settings, and the project's table in pyproject.toml.

Read `declared` (what a settings class declares), `sources` (where values come from), `pyproject` and `project` (what the
project's table says), `messages` (what is wrong, in words), then `loading`, which puts them together.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cauce.settings.declared import resolve
    from cauce.settings.loading import Setting, inspect, load, value_of
    from cauce.settings.project import project_settings
    from cauce.settings.sources import STATE_FILE

__all__ = ["STATE_FILE", "Setting", "inspect", "load", "project_settings", "resolve", "value_of"]

_HOME = {"STATE_FILE": "sources", "project_settings": "project", "resolve": "declared"}

if not TYPE_CHECKING:  # a type checker would take any name for granted

    def __getattr__(name: str) -> object:  # on first use: the project's table is read without pydantic
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME.get(name, 'loading')}"), name)
