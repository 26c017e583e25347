"""The pyproject.toml files around a folder: their tables, and the line on which a key is written."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from cauce.errors import ConfigurationError
from cauce.settings.sources import upward

__all__ = ["DEV_TABLE", "as_table", "dev_table", "documents", "parse", "places", "project_name"]

DEV_TABLE = ("tool", "cauce", "dev")


def documents(folder: Path, *, where: str | None = None) -> Iterator[tuple[Path, dict[str, object]]]:
    """Every pyproject.toml in `folder` and above it, nearest first, each read when it is asked for. Raises as `parse`."""
    for parent in upward(folder):
        file = parent / "pyproject.toml"
        if file.is_file():
            yield file, parse(file, where=where)


def parse(file: Path, *, where: str | None = None) -> dict[str, object]:
    """Raises ConfigurationError for what is not TOML, with `where` in its heading, by default the file's name."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{file}: {error}"], where=where or file.name) from None


def dev_table(document: Mapping[str, object]) -> dict[str, object] | None:
    """The table `[tool.cauce.dev]`; None without one."""
    value: object = document
    for key in DEV_TABLE:
        inner = as_table(value)
        if inner is None or key not in inner:
            return None
        value = inner[key]
    return as_table(value)


def project_name(document: Mapping[str, object]) -> str | None:
    """The `name` in `[project]`."""
    name = (as_table(document.get("project")) or {}).get("name")
    return name if isinstance(name, str) else None


def as_table(value: object) -> dict[str, object] | None:
    """The value if it is a table."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def places(lines: Iterable[str]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key and table header with its line number (tomllib does not tell them). Inner keys of inline
    tables are not found; their outer key is."""
    header: tuple[str, ...] = ()
    for number, line in enumerate(lines, start=1):
        found = re.fullmatch(r"\s*\[([^\[\]]+)\]\s*(#.*)?", line)
        if found:
            header = _key_path(found[1])
            yield header, number
        elif key := re.match(r"([A-Za-z0-9_.\"'\s-]+)=", line):
            yield (*header, *_key_path(key[1].strip())), number


def _key_path(text: str) -> tuple[str, ...]:
    try:
        value: object = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return (text,)
    path: list[str] = []
    while (inner := as_table(value)) is not None:
        key, value = next(iter(inner.items()))
        path.append(key)
    return tuple(path)
