"""Where values come from: the environment, then the project's state file.

The state file holds `NAME=value` lines, `#` comments and blank lines. A value may stand in single or double
quotes; nothing inside is interpreted. A line may begin with `export `.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["ENV_FILE", "IGNORE_ENV", "MARK", "OWN_NAMES", "STATE_FILE", "Given", "Sources", "upward"]

STATE_FILE: Final = Path(".cauce/dev.env")
ENV_FILE: Final = "CAUCE_ENV_FILE"
IGNORE_ENV: Final = "CAUCE_IGNORE_ENV"
OWN_NAMES: Final = frozenset({ENV_FILE, IGNORE_ENV})
MARK: Final = "# Written by cauce dev"
"""How the first line of the state file begins if `cauce dev` wrote it."""


@dataclass(frozen=True, slots=True)
class Given:
    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Sources:
    environment: Mapping[str, str]
    folder: Path
    file: Mapping[str, Given] = field(default_factory=dict[str, Given])
    problems: tuple[str, ...] = ()
    generated: bool = False  # by `cauce dev`, for all services: a name that one of them lacks is no mistake

    @classmethod
    def read(cls, environ: Mapping[str, str] | None, folder: Path | None) -> "Sources":
        environment = os.environ if environ is None else environ
        folder = folder or Path.cwd()
        named = environment.get(ENV_FILE)
        if named == "":
            return cls(environment, folder)
        if named is None:
            path = next((p / STATE_FILE for p in upward(folder) if (p / STATE_FILE).is_file()), None)
            if path is None:
                return cls(environment, folder)
        else:
            path = folder / named
        file, problems = _parse(path, _relative(path, folder))
        return cls(environment, folder, file, tuple(problems), generated=_written_by_cauce_dev(path))

    def get(self, *names: str) -> Given | None:
        """The first of these that is set: what is set in the environment wins over the file."""
        for name in names:
            if value := self.environment.get(name):
                return Given(name, value, "environment")
        return next((given for name in names if (given := self.file.get(name)) and given.value), None)

    @property
    def ignored(self) -> frozenset[str]:
        given = self.get(IGNORE_ENV)
        return frozenset(name.strip() for name in given.value.split(",")) if given else frozenset()


def upward(folder: Path) -> Iterator[Path]:
    yield folder.resolve()
    yield from folder.resolve().parents


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _written_by_cauce_dev(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8").startswith(MARK)
    except (OSError, UnicodeDecodeError):  # reported by _parse
        return False


_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")


def _parse(path: Path, shown: str) -> tuple[dict[str, Given], list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, [f"{ENV_FILE}={shown}: no such file. Correct it, or leave {ENV_FILE} empty for no state file."]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        return {}, [f"{shown} cannot be read: {why}"]
    given: dict[str, Given] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content, origin = line.strip(), f"{shown}:{number}"
        if not content or content.startswith("#"):
            continue
        match = _LINE.fullmatch(content)
        if match is None:  # the line is not repeated: it may be half of a secret
            problems.append(f"{origin}: not a NAME=value line")
        elif match[1] in given:
            problems.append(f"{match[1]} ({origin}) is there twice, first in {given[match[1]].origin}. Delete one.")
        else:
            given[match[1]] = Given(match[1], _unquoted(match[2].strip()), origin)
    return given, problems


def _unquoted(value: str) -> str:
    if quoted := re.fullmatch(r"""(["'])(.*)\1(?:\s+#.*)?""", value):
        return quoted[2]
    return re.sub(r"(?:^|(?<=\s))#.*", "", value).rstrip()
