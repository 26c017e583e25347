"""What an event class is refused for, word for word, and what it may be."""

import sys
import textwrap
import types
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any
from uuid import UUID

import msgspec
import pytest
from cauce import (
    Bus,
    ConfigurationError,
    DefinitionError,
    DomainEvent,
    IntegrationEvent,
    Service,
    Transaction,
    on,
)
from cauce.events.event import describe
from cauce.events.immutable import secret_looking
from cauce.stores.memory import MemoryStore
from cauce.stores.outbox import Outbox
from cauce.transports.memory import MemoryTransport

PREAMBLE = """
import dataclasses, enum, typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, Optional, TypeVar
from uuid import UUID
from cauce import DomainEvent, IntegrationEvent
from msgspec import Meta, Struct
T = TypeVar("T")
class Song(Struct, frozen=True):
    title: str
class Draft(Struct):
    title: str
@dataclasses.dataclass
class Loose:
    x: int = 0
@dataclasses.dataclass(frozen=True)
class Tight:
    x: int = 0
class Point(NamedTuple):
    x: int
class Page(Struct, Generic[T], frozen=True):
    items: tuple[T, ...]
    next: "Page[T] | None" = None
class Titled(Page[Song], frozen=True, kw_only=True):
    title: str
@dataclasses.dataclass(frozen=True)
class Held(Generic[T]):
    item: T
class Pair(NamedTuple, Generic[T]):
    one: T
class Lion(Struct, frozen=True, tag=True):
    x: int
class Bear(Struct, frozen=True, tag=True):
    x: int
class Handle(str): ...
class Misled(Struct, frozen=True):
    x: int = dataclasses.field(default=3)
class Empty(Struct, frozen=True):
    x: int = None
class Mood(enum.Enum):
    CALM = "calm"
class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"
UserId = NewType("UserId", str)
"""


@pytest.fixture
def elsewhere() -> Iterator[ModuleType]:
    """A module with domain types, not the event's own."""
    module = _module("golden_domain", "")
    yield module
    del sys.modules["golden_domain"]


def _module(name: str, source: str) -> ModuleType:
    """What `import name` would give if this were its file."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(PREAMBLE + textwrap.dedent(source), f"{name}.py", "exec", dont_inherit=True), vars(module))
    return module


def define(source: str) -> Any:
    """Run the source as a module, and give the class it calls E."""
    try:
        return _module("golden_events", source).E
    finally:
        sys.modules.pop("golden_events", None)


INTEGRATION = 'name="a.b", version=1, source="a-ms"'

REFUSED = {
    # names
    'class E(DomainEvent, name="Playlist Updated"): ...': (
        "E: 'Playlist Updated' is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
        "at most 200 characters, like 'accounts.user-created'"
    ),
    'class E(DomainEvent, name=""): ...': (
        "E: '' is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
        "at most 200 characters, like 'accounts.user-created'"
    ),
    'class E(DomainEvent, name="a..b"): ...': (
        "E: 'a..b' is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
        "at most 200 characters, like 'accounts.user-created'"
    ),
    'class E(DomainEvent, name="a.*"): ...': (
        "E: 'a.*' is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
        "at most 200 characters, like 'accounts.user-created'"
    ),
    'class E(DomainEvent, name="a.b\\n"): ...': (
        "E: 'a.b\\n' is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
        "at most 200 characters, like 'accounts.user-created'"
    ),
    "class E(DomainEvent, name=7): ...": (
        "E: 7 is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
        "at most 200 characters, like 'accounts.user-created'"
    ),
    # what a contract must say
    'class E(IntegrationEvent, name="a.b"): ...': (
        "E: an integration event is a contract and needs a version: version=1; "
        'an integration event says who publishes it: source="accounts-ms"'
    ),
    'class E(IntegrationEvent, name="a.b", version=1): ...': (
        'E: an integration event says who publishes it: source="accounts-ms"'
    ),
    'class E(IntegrationEvent, name="a.b", version=0, source="a-ms"): ...': (
        "E: version=0: versions are whole numbers and count from 1"
    ),
    'class E(IntegrationEvent, name="a.b", version="1", source="a-ms"): ...': (
        "E: version='1': versions are whole numbers and count from 1"
    ),
    'class E(IntegrationEvent, name="a.b", version=True, source="a-ms"): ...': (
        "E: version=True: versions are whole numbers and count from 1"
    ),
    'class E(IntegrationEvent, version=1, source="a-ms"): ...': (
        'E: it says version=… and has no name, so it cannot be published; give it one: name="…"; '
        'it says source=… and has no name, so it cannot be published; give it one: name="…"'
    ),
    f'class E(IntegrationEvent, {INTEGRATION}, earlier_names="a.c"): ...': (
        "E: earlier_names is a tuple of names; write ('a.c',)"
    ),
    f'class E(IntegrationEvent, {INTEGRATION}, earlier_names=("a.c", "a.b", "a.c")): ...': (
        "E: earlier_names repeats 'a.c'; earlier_names repeats 'a.b'"
    ),
    f'class E(IntegrationEvent, {INTEGRATION}, earlier_names=("A.C",)): ...': (
        "E: 'A.C' is not an event name: lower-case words joined by '-' or '_', segments joined by '.', "
        "at most 200 characters, like 'accounts.user-created'"
    ),
    # keywords
    'class E(DomainEvent, nam="a.b"): ...': (
        "E: 'nam' is not something an event class can say. Did you mean 'name'? "
        "It can say: name, version, key, source, earlier_names, earlier_sources, not_secret, rename."
    ),
    'class E(DomainEvent, name="a.b", rename="camelCase"): ...': (
        "E: rename='camelCase': rename is one of camel, kebab, pascal, lower, upper. Did you mean 'camel'?"
    ),
    # the key
    'class E(DomainEvent, name="a.b", key="user_idd"):\n    user_id: str\n    title: str': (
        "E: key='user_idd' is not one of its fields (user_id, title). Did you mean 'user_id'?"
    ),
    'class E(DomainEvent, name="a.b", key="user_id"): ...': (
        "E: key='user_id' is not one of its fields (it has none)."
    ),
    # mutable at any depth
    'class E(DomainEvent, name="a.b"):\n    tags: list[str]': (
        "E: the field 'tags' is mutable (list); use tuple[…, ...]"
    ),
    'class E(DomainEvent, name="a.b"):\n    tags: set[str] | None = None': (
        "E: the field 'tags' is mutable (set); use frozenset[…]"
    ),
    'class E(DomainEvent, name="a.b"):\n    tags: Optional[dict[str, int]] = None': (
        "E: the field 'tags' is mutable (dict); use a frozen Struct, or a tuple of pairs"
    ),
    'class E(DomainEvent, name="a.b"):\n    raw: bytearray': (
        "E: the field 'raw' is mutable (bytearray); use bytes"
    ),
    'class E(DomainEvent, name="a.b"):\n    pairs: tuple[tuple[str, list[int]], ...]': (
        "E: the field 'pairs[][]' is mutable (list); use tuple[…, ...]"
    ),
    'class E(DomainEvent, name="a.b"):\n    draft: Draft': (
        "E: the field 'draft' has the type Draft, which is not known to be immutable; make it a frozen Struct or a "
        "frozen dataclass"
    ),
    'class E(DomainEvent, name="a.b"):\n    loose: frozenset[Loose]': (
        "E: the field 'loose[]' has the type Loose, which is not known to be immutable; make it a frozen Struct or a "
        "frozen dataclass"
    ),
    """
    class Album(Struct, frozen=True):
        songs: tuple[Song, ...]
        ratings: dict[str, int]
    class E(DomainEvent, name="a.b"):
        albums: tuple[Album, ...]
    """: "E: the field 'albums[].ratings' is mutable (dict); use a frozen Struct, or a tuple of pairs",
    'class E(DomainEvent, name="a.b"):\n    what: Annotated[list[str], "doc"]': (
        "E: the field 'what' is mutable (list); use tuple[…, ...]"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: NewType("Tags", list[str])': (
        "E: the field 'what' is mutable (list); use tuple[…, ...]"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: Any': (
        "E: the field 'what': Any is not a type an event can hold; name a concrete, immutable one"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: Sequence[str]': (
        "E: the field 'what' has the type Sequence, which is not known to be immutable; make it a frozen Struct or a "
        "frozen dataclass"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: tuple': (
        "E: the field 'what': say what is inside, like tuple[str, ...]"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: typing.Tuple': (
        "E: the field 'what': say what is inside, like tuple[str, ...]"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: tuple[T, ...]': (
        "E: the field 'what[]': a type variable says nothing about what is inside; name the type"
    ),
    'class E(DomainEvent, name="a.b"):\n    draft: "Draft"': (
        "E: the field 'draft' has the type Draft, which is not known to be immutable; make it a frozen Struct or a "
        "frozen dataclass"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: Page[list[int]]': (
        "E: the field 'what.items[]' is mutable (list); use tuple[…, ...]"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: Page': (
        "E: the field 'what.items[]': a type variable says nothing about what is inside; name the type; "
        "the field 'what.next.items[]': a type variable says nothing about what is inside; name the type"
    ),
    'class E(DomainEvent, name="a.b"):\n    what: Handle': (
        "E: the field 'what' has the type Handle, which is read back as no more than str; use str, or "
        'NewType("Handle", str)'
    ),
    # defaults
    'class E(DomainEvent, name="a.b"):\n    x: int = dataclasses.field(default=3)': (
        "E: the field 'x' has dataclasses.field(…) as its default, which means nothing here; write the value itself, or "
        "msgspec.field(default_factory=…)"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    what: Misled": (
        "E: the field 'what.x' has dataclasses.field(…) as its default, which means nothing here; write the value itself, "
        "or msgspec.field(default_factory=…)"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    x: int = None": (
        "E: the default of the field 'x' is not of the field's type, so it could not be read back"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    what: Empty": (
        "E: the default of the field 'what.x' is not of the field's type, so it could not be read back"
    ),
    # secrets
    'class E(DomainEvent, name="a.b"):\n    password: str': (
        "E: the field 'password' looks like a secret ('password'), and events are stored and logged. Leave it out, or "
        'state why it is none: not_secret={"password": "because …"}'
    ),
    'class E(DomainEvent, name="a.b"):\n    resetToken: str': (
        "E: the field 'resetToken' looks like a secret ('token'), and events are stored and logged. Leave it out, or "
        'state why it is none: not_secret={"resetToken": "because …"}'
    ),
    'class E(DomainEvent, name="a.b", not_secret={"token": "  "}):\n    token: str': (
        "E: not_secret['token'] states no reason"
    ),
    'class E(DomainEvent, name="a.b", not_secret={"tokn": "a word count"}):\n    token: str': (
        "E: not_secret names 'tokn', which is not a field. Did you mean 'token'?; "
        "the field 'token' looks like a secret ('token'), and events are stored and logged. Leave it out, or "
        'state why it is none: not_secret={"token": "because …"}'
    ),
    """
    class Login(Struct, frozen=True):
        password: str
    class E(DomainEvent, name="a.b"):
        login: Login
    """: (
        "E: the field 'login.password' looks like a secret ('password'), and events are stored and logged. Leave it "
        'out, or state why it is none: not_secret={"login.password": "because …"}'
    ),
    # contracts hold plain data
    f"class E(IntegrationEvent, {INTEGRATION}):\n    where: IPv4Address": (
        "E: the field 'where' has the type IPv4Address, which JSON cannot carry; use str"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    file: Path": (
        "E: the field 'file' has the type Path, which JSON cannot carry; use str"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    what: Song | Lion": (
        "E: it could not be read back from JSON: If a type union contains multiple Struct types, all Struct types must be "
        "tagged (via `tag` or `tag_field` kwarg) - type `golden_events.Song | golden_events.Lion` is not supported; "
        "give each a tag: class A(Struct, frozen=True, tag=True)"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    what: Annotated[int, Meta(ge=2**70)]": (
        "E: it could not be read back from JSON: Integer bounds constraints (`ge`, `le`, ...) that don't fit in an int64 "
        "are currently not supported. If you need this feature, please open an issue on GitHub"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    what: str | UUID": (
        "E: it could not be read back from JSON: Type unions may not contain more than one str-like type (`str`, "
        "`Enum`, `Literal[str values]`, `datetime`, `date`, `time`, `timedelta`, `uuid`, `decimal`, `bytes`, "
        "`bytearray`) - type `str | uuid.UUID` is not supported; use one of them, or a frozen Struct with a field for each"
    ),
    f"class E(IntegrationEvent, {INTEGRATION}):\n    mood: Mixed": (
        "E: it could not be read back from JSON: Enums must contain either all str or all int values - type "
        "`<enum 'Mixed'>` is not supported; give its members texts only, or whole numbers only"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_an_impossible_event_class_is_refused_when_it_is_made(source: str, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        define(source)
    assert str(caught.value) == message


def test_a_domain_type_in_a_contract_is_refused(elsewhere: ModuleType) -> None:
    with pytest.raises(DefinitionError) as caught:
        define(f"""
            from golden_domain import Song as DomainSong
            class E(IntegrationEvent, {INTEGRATION}):
                songs: tuple[DomainSong, ...]
        """)
    assert str(caught.value) == (
        "E: the field 'songs[]' has the type Song of golden_domain; a contract holds plain data and types declared "
        "beside it in golden_events"
    )


def test_a_domain_event_may_carry_domain_types(elsewhere: ModuleType) -> None:
    assert define("""
        from golden_domain import Song as DomainSong
        class E(DomainEvent, name="a.b"):
            songs: tuple[DomainSong, ...]
    """)


@pytest.mark.parametrize(
    "annotation",
    [
        "str", "int | None", "Optional[float]", "bytes", "datetime", "Decimal", "UUID", "UserId", "Mood", "Tight",
        "Point", "Song", "Page[Song]", "Page[tuple[int, ...]]", "Titled", "Held[int]", "Pair[Page[Song]]", "Lion | Bear",
        "tuple[Song, ...]", "tuple[int, str]", "frozenset[str]", "Literal['a', 'b']",
        "Annotated[int, 'count']", "None | str", "tuple['Song', ...]", "'Song'", "ClassVar[list[str]]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", ['DomainEvent, name="a.b"', f"IntegrationEvent, {INTEGRATION}"])
def test_immutable_plain_data_is_accepted(base: str, annotation: str) -> None:
    assert define(f"class E({base}):\n    what: {annotation}")


@pytest.mark.parametrize("annotation", ["Fraction", "complex", "IPv4Address", "Path"])
def test_immutable_things_no_wire_carries_are_fine_inside_the_process(annotation: str) -> None:
    assert define(f'class E(DomainEvent, name="a.b"):\n    what: {annotation}')


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("password", "password"), ("passwordHash", "password"), ("password_hash", "password"),
        ("PASSWORD", "password"), ("userPassword2", "password"), ("passwordhash", "password"),
        ("reset_token", "token"), ("tokens", "token"), ("resetTokens", "token"), ("secret", "secret"),
        ("client_secrets", "secret"), ("apiKey", "api key"), ("API_KEY", "api key"), ("api_keys", "api key"),
        ("privateKey", "private key"), ("userPIN", "pin"), ("OTPCode", "otp"), ("pwd", "pwd"),
        ("hashes", "hash"), ("contraseña", "contraseña"),
    ],
)  # fmt: skip
def test_a_name_with_a_secret_word_in_it_is_noticed(name: str, word: str) -> None:
    assert secret_looking(name) == word


@pytest.mark.parametrize(
    "name",
    [
        "hashtag", "hashtags", "pinned", "pink", "opinion", "spin", "secretary", "tokenizer", "tokenised", "key",
        "keys", "public_key", "sort_key", "keyboard", "passenger", "bypass", "compass", "credit", "username", "email",
    ],
)  # fmt: skip
def test_a_name_that_only_resembles_a_secret_word_is_fine(name: str) -> None:
    assert secret_looking(name) is None


def test_a_secret_looking_field_may_stay_for_a_stated_reason() -> None:
    event = define("""
        class E(DomainEvent, name="a.b", not_secret={"tokens": "a count of words"}):
            tokens: int
    """)
    assert describe(event).not_secret == {"tokens": "a count of words"}


def test_a_nested_field_may_stay_for_a_stated_reason() -> None:
    assert define("""
        class Usage(Struct, frozen=True):
            tokens: int
        class E(DomainEvent, name="a.b", not_secret={"usage.tokens": "a count of words"}):
            usage: Usage
    """)


def test_a_reason_given_on_a_base_holds_for_its_subclasses() -> None:
    assert define("""
        class Base(DomainEvent, not_secret={"tokens": "a count of words"}):
            tokens: int
        class E(Base, name="a.b"):
            more: str
    """)


def test_fields_are_inherited_and_checked_again() -> None:
    event = define("""
        class Base(DomainEvent):
            user_id: str
        class E(Base, name="a.b", key="user_id"):
            title: str
    """)
    assert event(user_id="u", title="t").user_id == "u"
    assert describe(event).key == "user_id"


def test_a_contract_may_inherit_fields_whose_types_are_declared_beside_its_base() -> None:
    sys.modules["golden_base"] = _module("golden_base", "class Base(IntegrationEvent):\n    song: Song")
    try:
        assert define(f"from golden_base import Base\nclass E(Base, {INTEGRATION}):\n    other: int")
    finally:
        del sys.modules["golden_base"]


def test_a_subclass_without_a_name_of_its_own_is_only_a_base() -> None:
    event = define("""
        class Named(DomainEvent, name="a.b"):
            x: int
        class E(Named):
            y: int
    """)
    with pytest.raises(DefinitionError) as caught:
        describe(event)
    assert str(caught.value) == (
        'E has no wire name, so it cannot be published or heard. Declare it as class E(Named, name="…").'
    )


def test_events_are_frozen_and_keyword_only() -> None:
    event = define('class E(DomainEvent, name="a.b"):\n    x: int\n    y: int = 2')
    made = event(x=1)
    with pytest.raises(AttributeError):
        made.x = 2
    with pytest.raises(TypeError):
        event(1)
    assert made == event(x=1, y=2)
    assert hash(made) == hash(event(x=1, y=2))


def test_rename_spells_the_fields_on_the_wire_and_the_key_stays_the_python_name() -> None:
    event = define(f'class E(IntegrationEvent, {INTEGRATION}, key="user_id", rename="camel"):\n    user_id: str')
    assert msgspec.json.encode(event(user_id="u")) == b'{"userId":"u"}'
    assert msgspec.json.decode(b'{"userId":"u"}', type=event) == event(user_id="u")
    assert describe(event).key == "user_id"


# Forward references: passed over while the module runs, asked for again at start.


class Node(DomainEvent, name="golden.node"):
    """Refers to itself, and to what comes later in this file."""

    children: "tuple[Node, ...]" = ()
    leaf: "Leaf | None" = None
    draft: "Draft | None" = None


class Leaf(msgspec.Struct, frozen=True):
    parent: "Leaf | None" = None


class Draft(msgspec.Struct):
    title: str


@on(Node)
def hear_node(event: Node) -> None: ...


def test_a_mutable_forward_reference_is_refused_at_start_and_a_recursive_one_is_not() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Bus([hear_node])
    assert caught.value.problems == (
        (
            "Node: the field 'draft' has the type Draft, which is not known to be immutable; make it a frozen Struct or a "
            "frozen dataclass"
        ),
    )


def test_an_event_without_a_listener_is_checked_when_first_published() -> None:
    with pytest.raises(DefinitionError, match="Node: the field 'draft' has the type Draft"):
        Bus().emit(Node())


async def test_the_same_in_a_transaction() -> None:
    async with Service("a-ms").transaction() as tx:
        with pytest.raises(DefinitionError, match="Node: the field 'draft' has the type Draft"):
            await tx.publish(Node())


class Unresolvable(DomainEvent, name="golden.unresolvable"):
    missing: "Missing"  # type: ignore[name-defined]  # noqa: F821  # what the test is about  # pyright: ignore[reportUndefinedVariable]


@on(Unresolvable)
def hear_unresolvable(event: Unresolvable, tx: Transaction) -> None: ...


def test_a_type_that_cannot_be_resolved_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Service("a-ms", modules=[hear_unresolvable])
    assert caught.value.problems == (
        (
            "Unresolvable: a field's type cannot be resolved (name 'Missing' is not defined); import it at module level, "
            "not under TYPE_CHECKING"
        ),
    )


def test_events_and_their_types_may_be_declared_inside_a_function() -> None:
    class Inner(msgspec.Struct, frozen=True):
        x: int

    class Local(DomainEvent, name="golden.local"):
        inner: tuple[Inner, ...]

    heard: list[Local] = []

    @on(Local)
    def hear(event: Local) -> None:
        heard.append(event)

    Bus([hear]).emit(Local(inner=(Inner(x=1),)))
    assert heard == [Local(inner=(Inner(x=1),))]


# Two classes under one name.


class FirstUserCreated(IntegrationEvent, name="golden.user-created", version=1, source="a-ms"):
    id: str


class SecondUserCreated(
    IntegrationEvent, name="golden.user-added", version=1, source="a-ms", earlier_names=("golden.user-created",)
):
    id: str


def test_two_classes_under_one_name_are_refused_at_start() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Service("a-ms", publishes=[FirstUserCreated, SecondUserCreated], transport=MemoryTransport())
    assert caught.value.problems == (
        (
            f"two event classes are called 'golden.user-created': {__name__}.FirstUserCreated and "
            f"{__name__}.SecondUserCreated"
        ),
    )


def test_everything_wrong_with_a_class_is_said_at_once() -> None:
    with pytest.raises(DefinitionError) as caught:
        define('class E(IntegrationEvent, name="A", key="x"):\n    tags: list[str]\n    pin: str')
    text = str(caught.value)
    for part in ("'A' is not an event name", "version=1", "source=", "key='x'", "'tags' is mutable", "'pin' looks"):
        assert part in text


def test_an_event_class_can_be_made_while_the_program_runs() -> None:
    made = types.new_class("Made", (DomainEvent,), {"name": "golden.made"})
    assert describe(made).name == "golden.made"


# What only travelling asks for: a durable listener's events are written down.


class Measured(DomainEvent, name="golden.measured"):
    """Fine inside the process."""

    ratio: Fraction
    who: "str | UUID" = ""


@on(Measured, when="durable")
def hear_measured(event: Measured) -> None: ...


def test_a_domain_event_that_is_written_down_holds_what_json_carries() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Service("a-ms", modules=[hear_measured], store=MemoryStore())
    assert caught.value.problems == (
        "Measured: the field 'ratio' has the type Fraction, which JSON cannot carry; use str",
    )


@on("late.*", kind=DomainEvent, when="durable")
def hear_late(event: DomainEvent) -> None: ...


async def test_one_that_is_heard_by_a_pattern_is_refused_when_it_is_first_published() -> None:
    made: Any = types.new_class(
        "Late", (DomainEvent,), {"name": "late.one"}, lambda body: body.update(__annotations__={"who": str | UUID})
    )
    service = Service("a-ms", modules=[hear_late], store=MemoryStore())
    async with service, service.transaction() as tx:
        with pytest.raises(DefinitionError, match="Late: it could not be read back from JSON: Type unions may not"):
            await tx.publish(made(who="ana"))


class Pending(IntegrationEvent, name="golden.pending", version=1, source="a-ms"):
    what: "Missing"  # type: ignore[name-defined]  # noqa: F821  # what the test is about  # pyright: ignore[reportUndefinedVariable]


def test_the_outbox_of_own_sessions_resolves_every_type_when_it_is_made() -> None:
    with pytest.raises(DefinitionError, match="Pending: a field's type cannot be resolved"):
        Outbox("a-ms", publishes=[Pending])


def test_a_generic_base_is_given_its_types_by_those_that_derive_from_it() -> None:
    event = define(f"""
        class Base(IntegrationEvent, Generic[T]):
            item: T
        class E(Base[Song], {INTEGRATION}):
            more: int
    """)
    assert msgspec.json.decode(b'{"item":{"title":"a"},"more":1}', type=event).item.title == "a"
    with pytest.raises(DefinitionError, match=r"E: the field 'item' is mutable \(list\)"):
        define(f"""
            class Base(IntegrationEvent, Generic[T]):
                item: T
            class E(Base[list[int]], {INTEGRATION}):
                more: int
        """)


ALIASES = """
type Maybe = int | None
type Many[X] = tuple[X, ...]
type Loose = list[int]
type Tree = tuple[Tree, ...] | int
class Box[X](Struct, frozen=True):
    item: X
    more: Many[X] = ()
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695 came with Python 3.12")
@pytest.mark.parametrize(
    "annotation", ["Maybe", "Many[int]", "Many[Song]", "Box[Song]", "Maybe | str", "Many[Box[int]]"]
)
def test_aliases_and_generic_classes_of_python_3_12_are_what_they_name(annotation: str) -> None:
    assert define(f"{ALIASES}\nclass E(IntegrationEvent, {INTEGRATION}):\n    what: {annotation}")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695 came with Python 3.12")
@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("Loose", "the field 'what' is mutable (list)"),
        ("Many[Draft]", "the field 'what[]' has the type Draft, which is not known to be immutable"),
        ("Box[Draft]", "the field 'what.item' has the type Draft, which is not known to be immutable"),
        ("Box", "the field 'what.item': a type variable says nothing"),
        ("Tree", "use a frozen Struct that holds others of its kind"),
    ],
)
def test_what_they_name_is_judged_as_if_it_stood_there(annotation: str, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        define(f"{ALIASES}\nclass E(IntegrationEvent, {INTEGRATION}):\n    what: {annotation}")
    assert message in str(caught.value)
