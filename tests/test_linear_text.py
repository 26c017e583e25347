"""No pattern and no validator of the product takes more than linear time for a text from outside.

Patterns are collected from the sources, wherever they stand, and each is given what it would go back over: repetitions
of everything it looks for, alone, in pairs, and after its own beginnings, with and without an end that spoils the match.
What is measured is the processor time of this thread, the least of several runs, at two sizes one eight times the other:
a linear pattern takes eight times as long, a quadratic one sixty-four times.
"""

import ast
import contextlib
import importlib
import itertools
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from re import _constants as sre  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
from re import _parser as sre_parser  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
from typing import Any, Final, get_args, get_origin

import pytest
from accounts import entrypoints as accounts_http
from accounts.domain import parse_password
from accounts.entrypoints import NewUser, UserChange
from cauce.admin.masking import masked_text as masked_bytes
from cauce.settings.messages import without_passwords
from cauce.telemetry.log_text import one_line as log_line
from mailing.domain import MailNotSentError, name_for_greeting, one_recipient
from music_discovery.playlist_catalog.cursor import read_cursor
from music_discovery.user_catalog.entrypoints import http as user_catalog_http
from music_discovery.user_catalog.entrypoints.http import FavoritesUpdate, NewCatalog, PlaylistUpdate
from pydantic import BaseModel, ValidationError
from seedwork.addresses import email_address
from seedwork.masking import masked_text
from seedwork.text import identifier, one_line
from seedwork.usernames import username
from testsupport.repository import ROOT

SOURCES = sorted(
    path
    for folder in (
        "libs/cauce/src",
        "libs/contracts/src",
        "libs/seedwork/src",
        *(f"apps/{app}/src" for app in ("accounts", "mailing", "music_discovery")),
    )
    for path in (ROOT / folder).rglob("*.py")
    if "migrations" not in path.parts and "alembic_env" not in path.parts
)
QUICK_S = 0.0004
"""What takes no longer for 2,048 characters is not asked again: a quadratic pattern takes four times as long at least."""
SIZE, TIMES = 2048, 8
FACTOR = 24.0
"""Linear is 8, quadratic 64."""

ANCHORED = {"match", "fullmatch"}
FUNCTIONS = {"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}


@dataclass(frozen=True)
class Used:
    """A pattern, and how it is asked."""

    where: str
    pattern: "re.Pattern[Any]"
    anchored: str | None

    def run(self, text: str) -> None:
        given: Any = text.encode("utf-8", "replace") if isinstance(self.pattern.pattern, bytes) else text
        if self.anchored is not None:
            getattr(self.pattern, self.anchored)(given)
            return
        for _ in self.pattern.finditer(given):
            pass


def module_of(path: Any) -> Any:
    relative = path.relative_to(next(folder for folder in path.parents if folder.name == "src"))
    return importlib.import_module(".".join(relative.with_suffix("").parts).removesuffix(".__init__"))


def patterns_in(path: Any) -> Iterator[Used]:
    """Those that the module keeps, and those that are written where they are used."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(
        isinstance(node, ast.Import) and any(name.name == "re" for name in node.names) for node in ast.walk(tree)
    ):
        return
    module = module_of(path)
    asked: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        on = node.func.value
        if isinstance(on, ast.Name) and on.id == "re" and node.func.attr in FUNCTIONS:
            text = eval(compile(ast.Expression(node.args[0]), str(path), "eval"), vars(module))  # our own source
            flags = next((key.value for key in node.keywords if key.arg == "flags"), None)
            number = eval(compile(ast.Expression(flags), str(path), "eval"), vars(module)) if flags else 0
            how = node.func.attr if node.func.attr in ANCHORED else None
            yield Used(f"{path.parent.name}/{path.name} {text!r:.24}", re.compile(text, number), how)
        elif isinstance(on, ast.Name) and node.func.attr in FUNCTIONS:
            asked.setdefault(on.id, set()).add(node.func.attr)
    for name, pattern in kept_in(vars(module)):
        methods = asked.get(name, {"search"})
        for how in {method if method in ANCHORED else None for method in methods}:
            yield Used(f"{path.parent.name}/{path.name} {name}", pattern, how)


def kept_in(names: dict[str, Any]) -> Iterator[tuple[str, "re.Pattern[Any]"]]:
    for name, value in names.items():
        yield from ((name, pattern) for pattern in patterns_of(value))


def patterns_of(value: Any) -> Iterator["re.Pattern[Any]"]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | dict) and not isinstance(value, str):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for one in inner:
            yield from patterns_of(one)


# --- what a pattern looks for -------------------------------------------------------------------------------

CATEGORIES = {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a"}


def samples(items: Any) -> str:
    """A text that a sequence of a parsed pattern may match, each repetition once or twice."""
    return "".join(sample(*item) for item in items)


def sample(op: Any, av: Any) -> str:
    if op is sre.LITERAL:
        return chr(av)
    if op is sre.NOT_LITERAL:
        return "a" if av != ord("a") else "b"
    if op is sre.ANY:
        return "a"
    if op is sre.IN:
        return members(av)[0]
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, inner = av
        return samples(inner) * max(1, min(least, 40) if most else 0)
    if op is sre.SUBPATTERN:
        return samples(av[-1])
    if op is sre.ATOMIC_GROUP:
        return samples(av)
    if op is sre.BRANCH:
        return samples(av[1][0])
    return ""


def members(items: Any) -> list[str]:
    """One of each part of a class; of a negated one, what is in it of the usual characters."""
    if items[0][0] is sre.NEGATE:
        excluded = {chr(av) for op, av in items if op is sre.LITERAL}
        ranges = [av for op, av in items if op is sre.RANGE]
        spaces = any(op is sre.CATEGORY and "SPACE" in str(av) for op, av in items)
        usual = [one for one in "ab0-.@=:'\"( " if one not in excluded and not (spaces and one == " ")]
        return [one for one in usual if not any(low <= ord(one) <= high for low, high in ranges)] or ["\u4e00"]
    found: list[str] = []
    for op, av in items:
        if op is sre.LITERAL:
            found.append(chr(av))
        elif op is sre.RANGE:
            found.append(chr(av[0]))
        elif op is sre.CATEGORY:
            found.append(CATEGORIES.get(str(av), "-"))
    return found or ["a"]


def sequences(items: Any) -> Iterator[Any]:
    """Every sequence in a parsed pattern, the whole one first."""
    yield items
    for op, av in items:
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            yield from sequences(av[2])
        elif op is sre.SUBPATTERN:
            yield from sequences(av[-1])
        elif op is sre.ATOMIC_GROUP:
            yield from sequences(av)
        elif op is sre.BRANCH:
            for branch in av[1]:
                yield from sequences(branch)
        elif op in (sre.ASSERT, sre.ASSERT_NOT):
            yield from sequences(av[1])


def attacks(pattern: "re.Pattern[Any]") -> list[tuple[str, str, str]]:
    """Beginning, what is repeated, and end, of texts that this pattern might go back over."""
    parsed = sre_parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else 0)
    pieces: dict[str, None] = {}
    beginnings: dict[str, None] = {"": None}
    for items in sequences(list(parsed)):
        listed = list(items)
        for end in range(1, len(listed) + 1):
            for start in range(end):
                pieces[samples(listed[start:end])] = None
            beginnings[samples(listed[:end])] = None
        for op, av in listed:
            if op is sre.IN:
                pieces |= dict.fromkeys(members(av))
    repeated = [piece for piece in pieces if 0 < len(piece) <= 120] or ["a"]
    chance = random.Random(20)
    if len(repeated) > 16:
        repeated = chance.sample(repeated, 16)
    singles = [(begin, one, end) for begin in list(beginnings)[:5] for one in repeated for end in ("", "\0")]
    pairs = [("", one + other, "\0") for one, other in itertools.permutations(repeated[:10], 2)]
    return singles + pairs


def made(attack: tuple[str, str, str], size: int) -> str:
    begin, piece, end = attack
    return begin + piece * (size // len(piece)) + end


def seconds(work: Callable[[str], object], text: str, *, runs: int) -> float:
    """The least of several: whatever else the machine does only adds."""
    least = float("inf")
    for _ in range(runs):
        before = time.thread_time()
        work(text)
        least = min(least, time.thread_time() - before)
    return least


def grows_too_fast(work: Callable[[str], object], attack: tuple[str, str, str]) -> bool:
    """Whether eight times the text takes more than three times the eightfold."""
    for size in (SIZE // 16, SIZE):
        if (small := seconds(work, made(attack, size), runs=1)) > QUICK_S:
            break
    else:
        return False
    small = min(small, seconds(work, made(attack, size), runs=2))
    large = made(attack, size * TIMES)
    return all(seconds(work, large, runs=1) > FACTOR * small for _ in range(3))


def found() -> dict[str, Used]:
    named: dict[str, Used] = {}
    for path in SOURCES:
        for one in patterns_in(path):
            name = one.where + (f" {one.anchored}" if one.anchored else "")
            number = 1
            while name in named:
                number += 1
                name = f"{name.partition(' #')[0]} #{number}"
            named[name] = one
    return named


FOUND: Final = found()


def test_the_patterns_of_the_product_are_found() -> None:
    assert len(FOUND) > 50
    assert {"seedwork/text.py _ONE_LINE fullmatch", "seedwork/masking.py _PATTERNS"} <= FOUND.keys()


@pytest.mark.parametrize("where", FOUND)
def test_a_pattern_takes_linear_time_for_the_worst_text_there_is_for_it(where: str) -> None:
    one = FOUND[where]
    slow = next((attack for attack in attacks(one.pattern) if grows_too_fast(one.run, attack)), None)
    assert slow is None, f"{one.pattern.pattern!r} goes back over {slow!r}"


@pytest.mark.parametrize(
    ("pattern", "how"),
    [
        (r"[^\x00]*[^\s\x00][^\x00]*", "fullmatch"),  # the one that stopped a service for nine seconds
        (r"\s+$", None),
        (r"(Key \([^)\n]*\)=\().*?(?=\) already)", None),
        (r"<[^>]*>x", None),
    ],
)
def test_a_pattern_that_is_quadratic_is_noticed(pattern: str, how: str | None) -> None:
    one = Used("here", re.compile(pattern), how)
    assert any(grows_too_fast(one.run, attack) for attack in attacks(one.pattern))


# --- validators ---------------------------------------------------------------------------------------------

PIECES = (
    *(
        "a",
        " ",
        "a ",
        "a\n",
        "\n",
        "\0",
        "a.",
        "a@",
        "=?",
        "?=",
        "xn--",
        "-",
        "[",
        '"',
        "\\",
        "\ud800",
        "\u200d",
        "\u200c",
    ),
    *(
        "\u3164",
        "e\u0301",
        "\u0301\u0316",
        "\u0958",
        "\ufdfa",
        "\u0660\u06f0",
        "\u30fb",
        "\u05d0",
        "\uff41",
        "www.",
        "://",
        "?pass",
    ),
)


def filled(annotation: Any, text: str) -> Any:
    """A body of this model, with the text in every place for a text."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return {field.alias or name: filled(field.annotation, text) for name, field in fields}
    if get_origin(annotation) is list:
        return [filled(get_args(annotation)[0], text)]
    return False if annotation is bool else text


def check_body(model: type[BaseModel]) -> Callable[[str], object]:
    def check(text: str) -> None:
        with pytest.raises(ValidationError):
            model.model_validate(filled(model, text))

    return check


def refusing(check: Callable[[str], object]) -> Callable[[str], object]:
    def refuse(text: str) -> None:
        with contextlib.suppress(ValueError, MailNotSentError):
            check(text)

    return refuse


BODIES = (NewUser, UserChange, NewCatalog, PlaylistUpdate, FavoritesUpdate)
VALIDATORS: Final[dict[str, Callable[[str], object]]] = {
    **{model.__name__: check_body(model) for model in BODIES},
    "one_line": refusing(partial(one_line, at_most=300)),
    "username": refusing(username),
    "email_address": refusing(email_address),
    "email_address, international": refusing(partial(email_address, international=True)),
    "identifier": refusing(identifier),
    "password": refusing(parse_password),
    "the recipient of a mail": refusing(one_recipient),
    "the name in a mail": refusing(name_for_greeting),
    "a cursor": refusing(lambda text: read_cursor(text, "")),
    "the log's mask": masked_text,
    "a line of the log": log_line,
    "a setting in a message": without_passwords,
    "the screen's mask": lambda text: masked_bytes(text.encode("utf-8", "surrogatepass")),
}


@pytest.mark.parametrize("name", VALIDATORS)
def test_a_validator_takes_linear_time_for_the_worst_text_there_is_for_it(name: str) -> None:
    slow = next((piece for piece in PIECES if grows_too_fast(VALIDATORS[name], ("", piece, ""))), None)
    assert slow is None, f"{name} goes back over {slow!r}"


@pytest.mark.parametrize("app", [accounts_http, user_catalog_http])
def test_every_body_of_the_services_is_among_them(app: Any) -> None:
    bodies = {one for one in vars(app).values() if isinstance(one, type) and issubclass(one, BaseModel)}
    asked = {model for body in BODIES for model in {body, *parts_of(body)}}
    of_requests = {one for one in bodies if one.model_config.get("extra") == "forbid" and one.model_fields}
    assert of_requests <= asked


def parts_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from (part, *parts_of(part))
