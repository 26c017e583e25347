"""What is wrong with settings, in words; and a setting as it may be shown. No value of a secret is in any of them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from enum import Enum
from typing import Final, cast

from pydantic import Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from cauce.errors import ConfigurationError
from cauce.settings.declared import Declared, declared_by, resolve
from cauce.settings.project import project_settings
from cauce.settings.sources import IGNORE_ENV, OWN_NAMES, Given, Sources

__all__ = ["MASK", "misspelt", "shown", "without_passwords", "wrong_values"]

MASK: Final = "••••"


def misspelt(declared: Iterable[Declared], sources: Sources) -> Iterator[str]:
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


def _known_to_the_project(own: set[str], sources: Sources) -> tuple[set[str], bool]:
    """All names of all services, and whether these are really all (a service may not be installed here)."""
    known, complete = set(own), True
    strangers = {name for name in sources.file if name not in own}
    if not strangers and not any(_meant(name, own) for name in sources.environment if name not in own):
        return known, complete
    for target in project_settings(sources.folder).values():
        try:
            known |= {name for one in declared_by(resolve(target)) for name in one.names}
        except ConfigurationError:
            complete = False
    return known, complete


_SET_BY_CONTAINERS = re.compile(r"_SERVICE_(HOST|PORT)(_\w|$)|_PORT_\d+_(TCP|UDP)(_\w|$)|_ENV_\w")


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


def wrong_values(error: ValidationError, declared: Iterable[Declared], given: Mapping[str, Given]) -> Iterator[str]:
    by_key = {key: one for one in declared for key in (one.key, one.attribute, *one.names)}
    told: set[str] = set()
    for detail in error.errors(include_url=False):
        one = by_key.get(str(detail["loc"][0])) if detail["loc"] else None
        if one is None:
            yield _own_words(detail)
        elif one.name not in told:  # a union reports each of its members
            told.add(one.name)
            yield _wrong_value(one, detail, given.get(one.name))


def _wrong_value(one: Declared, detail: ErrorDetails, given: Given | None) -> str:
    if detail["type"] == "missing":
        what = f" ({one.info.description})" if one.info.description else ""
        return f"{one.name} is missing{what}: it has no default. Set it in the environment."
    value = given.value if given else str(detail["input"])
    expected = _expected(one, detail, value)
    if one.secret and value:
        expected = expected.replace(value, MASK)
    name, origin = (given.name, given.origin) if given else (one.name, "default")
    return f"{name}={_masked(one, value)} ({origin}): {expected}"


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


def _expected(one: Declared, detail: ErrorDetails, value: str) -> str:
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


def _masked(one: Declared, value: str) -> str:
    return MASK if one.secret else without_passwords(value)


def without_passwords(text: str) -> str:
    """`text` with the password of a URL masked, also in its query; anything else unchanged."""
    text = re.sub(r"^((?:[\w+.-]+:/+)?[^:/@]*):(.*)@", rf"\1:{MASK}@", text, flags=re.DOTALL)
    kept: list[str] = []
    at = 0
    while found := _PARAMETER.search(text, at):
        kept.append(text[at : found.end()])
        at = found.end()
        if found[2] and _SECRET_NAME.search(found[1]):
            kept.append(MASK)
            at = end if (end := text.find("&", at)) >= 0 else len(text)
    return "".join(kept) + text[at:]


# Of a URL's query. Each part of the text is passed once, however many question marks there are.
_PARAMETER: Final = re.compile(r"[?&]([^=&]*)(=?)")
_SECRET_NAME: Final = re.compile(r"pass|secret|token", re.IGNORECASE)


def shown(one: Declared, value: object) -> str | None:
    if isinstance(value, (SecretStr, SecretBytes)):
        value = value.get_secret_value()
    elif isinstance(value, Secret):
        value = cast("Secret[object]", value).get_secret_value()
    elif isinstance(value, Enum):
        value = value.value
    if value is None or value == "":
        return None
    return _masked(one, str(value).lower() if isinstance(value, bool) else str(value))
