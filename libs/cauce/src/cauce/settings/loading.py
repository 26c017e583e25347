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

The state file holds `NAME=value` lines, `#` comments and blank lines. A value may stand in single or double
quotes; nothing inside is interpreted. A line may begin with `export `.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Final, Literal, TypeVar, cast, get_args, get_origin

from pydantic import AliasChoices, BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cauce.errors import ConfigurationError

__all__ = ["STATE_FILE", "Setting", "inspect", "load", "project_settings", "value_of"]

STATE_FILE: Final = Path(".cauce/dev.env")
ENV_FILE: Final = "CAUCE_ENV_FILE"
IGNORE_ENV: Final = "CAUCE_IGNORE_ENV"
OWN_NAMES: Final = frozenset({ENV_FILE, IGNORE_ENV})
MASK: Final = "••••"

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
    loaded, _ = _load(settings, _Sources.read(environ, folder))
    return loaded


def inspect(
    settings: type[BaseModel], *, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[Setting, ...]:
    """Every setting as `load` would give it, with its origin, in the order of the class.

    Raises what `load` raises.
    """
    loaded, given = _load(settings, _Sources.read(environ, folder))
    return tuple(
        Setting(
            name=declared.name,
            value=_shown(declared, getattr(loaded, declared.attribute)),
            origin=given[declared.name].origin if declared.name in given else "default",
            description=declared.info.description or "",
        )
        for declared in _declared(settings)
    )


def project_settings(folder: Path | None = None) -> dict[str, str]:
    """The `module:Class` of every service of the project around `folder`, by the service's name.

    From `[tool.cauce.dev.services.NAME] settings = "module:Class"` in the nearest pyproject.toml with such a
    table; empty without one. Raises ConfigurationError when that file is not TOML.
    """
    for parent in _upward(folder or Path.cwd()):
        file = parent / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            document: object = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError([f"{file}: {error}"]) from error
        for key in ("tool", "cauce", "dev", "services"):
            document = _table(document).get(key)
        services = _table(document)
        if services:
            found = {name: _table(service).get("settings") for name, service in services.items()}
            return {name: target for name, target in found.items() if isinstance(target, str)}
    return {}


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
    sources = _Sources.read(environ, folder)
    if sources.problems:
        raise ConfigurationError(sources.problems)
    if given := sources.get(name):
        return given.value, given.origin
    for declared in _declared(settings) if settings is not None else ():
        if name in declared.names and isinstance(declared.info.default, str):
            return declared.info.default, "default"
    return None


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


# --- what a class declares ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
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


def _declared(settings: type[BaseModel]) -> list[_Declared]:
    prefix = str(settings.model_config.get("env_prefix") or "")
    declared: list[_Declared] = []
    for attribute, info in settings.model_fields.items():
        alias = info.validation_alias if info.validation_alias is not None else info.alias
        if isinstance(alias, AliasChoices):
            names = [choice for choice in alias.choices if isinstance(choice, str)]
        else:
            names = [alias] if isinstance(alias, str) else []
        key = names[0] if names else attribute
        names = names or [prefix + attribute]
        declared.append(_Declared(attribute=attribute, key=key, names=tuple(name.upper() for name in names), info=info))
    return declared


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


# --- where values come from ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class _Sources:
    environment: Mapping[str, str]
    folder: Path
    file: Mapping[str, _Given] = field(default_factory=dict[str, _Given])
    problems: tuple[str, ...] = ()
    generated: bool = False  # by `cauce dev`, for all services: a name one of them lacks is nobody's mistake

    @classmethod
    def read(cls, environ: Mapping[str, str] | None, folder: Path | None) -> "_Sources":
        environment = os.environ if environ is None else environ
        folder = folder or Path.cwd()
        named = environment.get(ENV_FILE)
        if named == "":
            return cls(environment, folder)
        if named is None:
            path = next((p / STATE_FILE for p in _upward(folder) if (p / STATE_FILE).is_file()), None)
            if path is None:
                return cls(environment, folder)
        else:
            path = folder / named
        file, problems = _parse(path, _relative(path, folder))
        return cls(environment, folder, file, tuple(problems), generated=_written_by_cauce_dev(path))

    def get(self, name: str) -> _Given | None:
        if value := self.environment.get(name):
            return _Given(value, "environment")
        given = self.file.get(name)
        return given if given and given.value else None

    @property
    def ignored(self) -> frozenset[str]:
        given = self.get(IGNORE_ENV)
        return frozenset(name.strip() for name in given.value.split(",")) if given else frozenset()


def _upward(folder: Path) -> Iterator[Path]:
    yield folder.resolve()
    yield from folder.resolve().parents


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _written_by_cauce_dev(path: Path) -> bool:
    from cauce.dev.state_file import MARK

    try:
        return path.read_text(encoding="utf-8").startswith(MARK)
    except (OSError, UnicodeDecodeError):  # told by _parse
        return False


_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def _parse(path: Path, shown: str) -> tuple[dict[str, _Given], list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, [f"{ENV_FILE}={shown}: no such file. Correct it, or leave {ENV_FILE} empty for no state file."]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        return {}, [f"{shown} cannot be read: {why}"]
    given: dict[str, _Given] = {}
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
            given[match[1]] = _Given(_unquoted(match[2]), origin)
    return given, problems


def _unquoted(value: str) -> str:
    if quoted := re.fullmatch(r"""(["'])(.*)\1(?:\s+#.*)?""", value):
        return quoted[2]
    return re.sub(r"(^|\s+)#.*", "", value)


# --- loading ------------------------------------------------------------------------------------------------


def _load(settings: type[SettingsT], sources: _Sources) -> tuple[SettingsT, dict[str, _Given]]:
    declared = _declared(settings)
    given: dict[str, _Given] = {}
    for one in declared:
        found = next((value for name in one.names if (value := sources.get(name))), None)
        if found:
            given[one.name] = found
    problems = [*sources.problems, *_misspelt(declared, sources)]
    try:
        loaded = settings.__new__(settings)
        # Not settings(...): BaseSettings would read the environment once more, empty variables included.
        BaseModel.__init__(loaded, **{one.key: given[one.name].value for one in declared if one.name in given})
    except ValidationError as error:
        problems += _wrong_values(error, declared, given)
        raise ConfigurationError(problems) from None  # pydantic's own text repeats the values, secrets too
    if problems:
        raise ConfigurationError(problems)
    return loaded, given


def _misspelt(declared: Iterable[_Declared], sources: _Sources) -> Iterator[str]:
    own = {name for one in declared for name in one.names} | OWN_NAMES
    known, complete = _known_to_the_project(own, sources)
    for name in sorted(sources.environment):
        if name in known or name in sources.ignored:
            continue
        if nearest := _meant(name, own):
            yield (
                f"{name} (environment) is not a setting. Did you mean {nearest}? "
                f"(If it is another program's: {IGNORE_ENV}={name})"
            )
    for name, given in sources.file.items():
        if sources.generated or name in known or name in sources.ignored:
            continue
        nearest = _meant(name, known)
        if nearest or complete:
            hint = f"Did you mean {nearest}?" if nearest else "Delete the line, or see the names in: cauce config"
            yield f"{name} ({given.origin}) is not a setting. {hint}"


def _known_to_the_project(own: set[str], sources: _Sources) -> tuple[set[str], bool]:
    """All names of all services, and whether these are really all (a service may not be installed here)."""
    known, complete = set(own), True
    strangers = {name for name in sources.file if name not in own}
    if not strangers and not any(_meant(name, own) for name in sources.environment if name not in own):
        return known, complete
    for target in project_settings(sources.folder).values():
        try:
            known |= {name for one in _declared(resolve(target)) for name in one.names}
        except ConfigurationError:
            complete = False
    return known, complete


_SET_BY_CONTAINERS = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP)(_\w+)?$|_ENV_\w+$")


def _meant(name: str, known: Iterable[str]) -> str | None:
    """The setting that `name` is probably a misspelling of.

    Long shared prefixes make unrelated names look alike (MUSIC_DISCOVERY_NAME, MUSIC_DISCOVERY_HOST), so the
    words that differ must be alike as well. A name with more words is somebody else's (REDIS_HOST_REPLICA),
    and so is one with fewer in front (DATABASE_URL beside SHOP_DATABASE_URL).
    """
    written = name.upper()
    if _SET_BY_CONTAINERS.search(written):
        return None
    for candidate in get_close_matches(written, list(known), n=3, cutoff=0.8):
        ours, theirs = candidate.split("_"), written.split("_")
        while ours and theirs and ours[0] == theirs[0]:
            del ours[0], theirs[0]
        while ours and theirs and ours[-1] == theirs[-1]:
            del ours[-1], theirs[-1]
        if ours and theirs:
            if SequenceMatcher(None, "_".join(theirs), "_".join(ours)).ratio() >= 0.65:
                return candidate
        elif candidate.startswith(written):
            return candidate
    return None


# --- saying what is wrong -----------------------------------------------------------------------------------


def _wrong_values(error: ValidationError, declared: Iterable[_Declared], given: Mapping[str, _Given]) -> Iterator[str]:
    by_key = {key: one for one in declared for key in (one.key, one.attribute, *one.names)}
    told: set[str] = set()
    for detail in error.errors(include_url=False):
        one = by_key.get(str(detail["loc"][0])) if detail["loc"] else None
        if one is None:
            yield _own_words(detail)
        elif one.name not in told:  # a union reports each of its members
            told.add(one.name)
            yield _wrong_value(one, detail, given.get(one.name))


def _wrong_value(one: _Declared, detail: ErrorDetails, given: _Given | None) -> str:
    if detail["type"] == "missing":
        what = f" ({one.info.description})" if one.info.description else ""
        return f"{one.name} is missing{what}: it has no default. Set it in the environment."
    value = given.value if given else str(detail["input"])
    expected = _expected(one, detail, value)
    if one.secret and value:
        expected = expected.replace(value, MASK)
    return f"{one.name}={_masked(one, value)} ({given.origin if given else 'default'}): {expected}"


_EXPECTED: Final = {
    "int_parsing": "not a whole number",
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "float_parsing": "not a number",
    "bool_parsing": "neither true nor false",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
}


def _expected(one: _Declared, detail: ErrorDetails, value: str) -> str:
    if one.choices:
        nearest = get_close_matches(value, one.choices, n=1)
        return f"not one of {', '.join(one.choices)}." + (f" Did you mean {nearest[0]}?" if nearest else "")
    if detail["type"] in _EXPECTED:
        limits = {name: f"{limit:g}" for name, limit in detail.get("ctx", {}).items() if isinstance(limit, float)}
        text = _EXPECTED[detail["type"]].format(**(detail.get("ctx", {}) | limits))
    else:
        text = _own_words(detail)
    if value.startswith("tcp://") and one.name.endswith("_PORT"):
        text += ". Kubernetes sets such a variable for a Service of that name: use enableServiceLinks: false"
    return text


def _own_words(detail: ErrorDetails) -> str:
    """A validator's own sentence, or pydantic's, without its ceremony."""
    return re.sub(r"^(Value error|Assertion failed), ", "", detail["msg"]).replace("Input should", "should")


def _masked(one: _Declared, value: str) -> str:
    return MASK if one.secret else without_passwords(value)


def without_passwords(text: str) -> str:
    """`text` with the password of a URL masked, also in its query; anything else unchanged."""
    text = re.sub(r"^((?:[\w+.-]+:/+)?[^:/@]*):(.*)@", rf"\1:{MASK}@", text, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&]*", rf"\1{MASK}", text, flags=re.IGNORECASE)


def _shown(one: _Declared, value: object) -> str | None:
    if isinstance(value, (SecretStr, SecretBytes)):
        value = value.get_secret_value()
    elif isinstance(value, Secret):
        value = cast("Secret[object]", value).get_secret_value()
    elif isinstance(value, Enum):
        value = value.value
    if value is None or value == "":
        return None
    return _masked(one, str(value).lower() if isinstance(value, bool) else str(value))


def _table(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
