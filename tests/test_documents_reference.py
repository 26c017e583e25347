"""The reference is compared with the code: settings, events, counters, commands, patterns.

WRITE_DOCUMENTS=1 writes what the code says into the pages instead, between the marks
`<!-- from the code: … -->` and `<!-- end -->`, and beneath commands that ask for help.
"""

import dataclasses
import inspect
import os
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any

import cauce
import msgspec
import pytest
from accounts import main as accounts
from accounts.settings import Settings as AccountsSettings
from cauce import Alarms, DomainEvent, IntegrationEvent, Keep, Pace, Retry, Service, errors, on
from cauce.delivery.inbox.failures import Outcome
from cauce.dev.servers import ValkeyServer
from cauce.events.event import describe
from cauce.events.names import matches
from cauce.health.pages import health_pages
from cauce.listeners.catalog import in_order
from cauce.settings import inspect as effective
from cauce.settings import load
from cauce.stores.sql import tables
from contracts import accounts as accounts_contracts
from contracts import music_discovery as discovery_contracts
from mailing import main as mailing
from mailing.settings import Settings as MailingSettings
from music_discovery import main as discovery
from music_discovery.settings import Settings as DiscoverySettings
from music_discovery.shared import events as discovery_events
from pydantic import BaseModel
from redis import Redis
from seedwork.settings import BrokerSettings, LogSettings
from sqlalchemy import Column
from testsupport.documents import blocks, check_part, pattern_of, squeezed, table
from testsupport.repository import ROOT

REFERENCE = ROOT / "docs" / "reference"
WRITE = bool(os.environ.get("WRITE_DOCUMENTS"))
NOTHING = {"CAUCE_ENV_FILE": ""}


def _check(page: str, part: str, expected: Iterable[str]) -> None:
    check_part(REFERENCE / page, part, expected)


# --- settings -----------------------------------------------------------------------------------------------

SHARED = (BrokerSettings, LogSettings)
OWN: dict[str, type[BaseModel]] = {
    "accounts": AccountsSettings,
    "mailing": MailingSettings,
    "music-discovery": DiscoverySettings,
}


def _settings(classes: Iterable[type[BaseModel]], *, without: Iterable[str] = ()) -> Iterator[str]:
    rows = [
        (f"`{one.name}`", f"`{one.value}`" if one.value is not None else "none", one.description)
        for settings in classes
        for one in effective(settings, environ=NOTHING)
        if one.name not in set(without)
    ]
    return table(("variable", "default", "meaning"), rows)


def test_the_settings_of_every_service() -> None:
    _check("settings.md", "every service", _settings(SHARED))


@pytest.mark.parametrize("service", OWN)
def test_the_settings_of_a_service(service: str) -> None:
    shared = {one.name for settings in SHARED for one in effective(settings, environ=NOTHING)}
    _check("settings.md", service, _settings([OWN[service]], without=shared))


def test_the_variables_of_the_tools_are_read_somewhere() -> None:
    table = (REFERENCE / "settings.md").read_text().partition("## Of the tools")[2]
    sources = "".join(path.read_text() for path in (ROOT / "libs/cauce/src").rglob("*.py"))
    for name in re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE):
        assert f'"{name}"' in sources, name


# --- events -------------------------------------------------------------------------------------------------


def _services() -> list[Service]:
    environment = {**NOTHING, "EVENTS_TRANSPORT": "memory"}
    return [
        accounts.build(load(AccountsSettings, environ=environment))[0],
        mailing.build(load(MailingSettings, environ=environment)),
        discovery.build(load(DiscoverySettings, environ=environment))[0],
    ]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> list[Service]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("services"))  # the default databases are files in the current folder
    try:
        return _services()
    finally:
        os.chdir(before)


def _events_of(module: ModuleType, kind: type[Any]) -> list[type[Any]]:
    return [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, kind) and one.__module__ == module.__name__
    ]


def _described(event: type[Any], services: Sequence[Service], nest_name: str | None) -> Iterator[str]:
    described = describe(event)
    yield ""
    yield f"### {event.__name__}"
    yield ""
    yield inspect.cleandoc(event.__doc__ or "")
    yield ""
    yield f"- name: `{described.name}`"
    if issubclass(event, IntegrationEvent):
        yield f"- version {described.version}, key `{described.key}`, published by {described.source}"
        if described.earlier_names:
            yield f"- also accepted: {', '.join(f'`{name}`' for name in described.earlier_names)}"
        if nest_name is not None:
            yield f"- NestJS name: `{nest_name}`"
    heard = [
        (service.name, listener.registration.when, listener.name)
        for service in services
        for listener in in_order(service.listeners, event)
    ]
    for service, when, listener in heard:
        moment = "" if issubclass(event, IntegrationEvent) else f", {when.replace('_', ' ')}"
        yield f"- heard by {service}{moment}: `{listener.rpartition('.')[2]}`"
    if not heard:
        yield "- heard by no service here; meant for others"
    yield ""
    yield from table(("field", "type"), _fields(event))


def _fields(struct: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    hints = typing.get_type_hints(struct)
    for name, wire_name in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True):
        hint = hints[name]
        repeated = typing.get_origin(hint) is tuple
        inner = typing.get_args(hint)[0] if repeated else hint
        assert not isinstance(inner, UnionType), "teach this test unions"
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from _fields(inner, f"{prefix}{wire_name}{'[]' if repeated else ''}.")
        else:
            yield f"`{prefix}{wire_name}`", f"list of {inner.__name__}" if repeated else inner.__name__


def test_the_integration_events(services: list[Service]) -> None:
    lines = [
        line
        for module in (accounts_contracts, discovery_contracts)
        for event in _events_of(module, IntegrationEvent)
        for line in _described(event, services, accounts_contracts.NEST_NAMES.get(event))
    ]
    _check("events.md", "integration events", [*lines, ""])


def test_the_domain_events(services: list[Service]) -> None:
    lines = [line for event in _events_of(discovery_events, DomainEvent) for line in _described(event, services, None)]
    _check("events.md", "domain events", [*lines, ""])


# --- health port, errors, listeners -------------------------------------------------------------------------


def test_every_counter_is_in_the_table_and_no_other() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "libs/cauce/src/cauce").rglob("*.py"))
    calls = "\n".join(re.findall(r"\b_?count\(([^)]*)\)", sources))
    counted = set(re.findall(r'"(\w+)"', calls)) | set(typing.get_args(Outcome)) - {"not_due"}
    table = (REFERENCE / "health-port.md").read_text().partition("## Counters")[2]

    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == counted | {"unfinished"}


def test_every_page_of_the_health_port_is_in_the_table() -> None:
    cases = "".join(re.findall(r"case \(.*", inspect.getsource(health_pages)))
    pages = re.findall(r'"(/[a-z/]+)"', cases)
    text = (REFERENCE / "health-port.md").read_text()

    assert pages
    assert re.findall(r"^\| `(/[a-z/]+)` \|", text, re.MULTILINE) == pages


def test_every_error_is_in_the_table() -> None:
    table = (REFERENCE / "errors.md").read_text().partition("What each leaves behind")[2]
    between_transport_and_relay = {"TailUnverifiedError"}
    public = {name for name in errors.__all__ if name.endswith("Error")} - {"CauceError"} - between_transport_and_relay

    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == public
    assert public <= set(cauce.__all__)


def test_every_argument_of_on_is_in_the_table() -> None:
    table = (REFERENCE / "listeners.md").read_text().partition("## Arguments of `@on`")[2].partition("##")[0]
    arguments = {name for name in inspect.signature(on).parameters if name != "targets"}

    assert set(re.findall(r"^\| `(\w+)=", table, re.MULTILINE)) == arguments


def test_every_keyword_of_an_event_class_is_in_the_table() -> None:
    from cauce.events.event import EventMeta

    table = (REFERENCE / "event-classes.md").read_text().partition("## Keywords")[2].partition("##")[0]
    parameters = inspect.signature(EventMeta.__new__).parameters.values()
    keywords = {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}

    assert set(re.findall(r"^\| `(\w+)=", table, re.MULTILINE)) == keywords


def test_every_attribute_of_the_envelope_is_in_the_table() -> None:
    table = (REFERENCE / "wire-formats.md").read_text().partition("## The envelope")[2].partition("##")[0]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))

    assert set(re.findall(r"`(\w+)`", first_cells)) == set(cauce.Envelope.__struct_fields__)


# --- durable delivery ---------------------------------------------------------------------------------------


def test_every_argument_of_a_service_is_in_the_table() -> None:
    table = (REFERENCE / "service.md").read_text().partition("## Keep")[0]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))

    assert set(re.findall(r"`(\w+)=?`", first_cells)) == set(inspect.signature(Service).parameters)


MEANINGS = {
    "sent_s": "seconds an event stays in the outbox after it was sent",
    "sent_rows": "at most so many sent events",
    "sent_bytes": "at most so many bytes of them",
    "inbox_s": "seconds the inbox recognises a repeat",
    "broker_s": "seconds an entry stays on the broker, and until every group has acknowledged it",
    "dead_s": "seconds a dead letter that holds no key stays; never less than `inbox_s`",
    "lease_s": "how long the lanes of a process that died stay its own",
    "beat_every_s": "how often a process renews its lease and looks for its fair share",
    "verify_every_s": "how often a broker that seems well is asked whether it still has what it confirmed",
    "prune_every_s": "how often what is old enough is removed",
    "watch_every_s": "how often it is looked whether an alarm is due",
    "outbox_age_s": "seconds the oldest event waits to be sent",
    "outbox_rows": "events that wait to be sent",
    "behind_key": "events that wait behind one key of a listener",
    "refuse_at": "with so many events not sent, `publish` of integration events raises OutboxFullError",
    "attempts": "in all, the first one included",
    "base": "seconds; the longest delay after the first failure, doubled after each",
    "cap": "seconds; no delay is longer",
}


@pytest.mark.parametrize("of", [Keep, Pace, Retry, Alarms])
def test_the_fields_of_what_a_service_can_be_told(of: Callable[[], Any]) -> None:
    defaults = dataclasses.asdict(of())
    values = {name: "never" if default is None else f"{default:,.10g}" for name, default in defaults.items()}
    rows = [(f"`{name}`", values[name], MEANINGS[name]) for name in defaults]
    page = "alarms.md" if of is Alarms else "service.md"
    _check(page, type(of()).__name__.lower(), table(("field", "default", "meaning"), rows))


def test_the_tables_in_the_database() -> None:
    purposes = dict(re.findall(r"^    (cauce_\w+) +(.+)$", inspect.getdoc(tables) or "", re.MULTILINE))
    lines = []
    for found in sorted(tables.metadata.tables.values(), key=lambda one: list(purposes).index(one.name)):
        lines += ["", f"## {found.name}", "", f"{purposes[found.name][0].upper()}{purposes[found.name][1:]}.", ""]
        lines += table(("column", "type", "of the key", "may be null"), map(_column, found.columns))
    _check("tables.md", "tables", [*lines, ""])


def _column(column: Column[Any]) -> Sequence[str]:
    return (
        f"`{column.name}`",
        str(column.type).lower(),
        "yes" if column.primary_key else "",
        "yes" if column.nullable else "",
    )


def test_every_test_that_is_named_as_a_proof_exists() -> None:
    named = re.findall(r"`(test_\w+(?:\.py|…)?)`", (ROOT / "docs/explanation/delivery.md").read_text())
    files = [path for folder in ("libs", "apps", "tests") for path in (ROOT / folder).rglob("test_*.py")]
    functions = re.findall(r"^ *(?:async )?def (test_\w+)", "\n".join(path.read_text() for path in files), re.MULTILINE)

    assert len(named) > 20
    for name in named:
        if name.endswith(".py"):
            assert name in {path.name for path in files}, name
        else:
            assert [one for one in functions if one == name or (name[-1] == "…" and one.startswith(name[:-1]))], name


# --- commands -----------------------------------------------------------------------------------------------


def test_the_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][a-z-]*):[^#\n]*## (.+)$", makefile, re.MULTILINE)

    _check("command-line.md", "make targets", table(("command", "does"), [(f"`make {a}`", b) for a, b in targets]))


def test_the_help_of_the_commands() -> None:
    path = REFERENCE / "command-line.md"
    every = blocks(path)
    asked = 0
    for block, output in pairwise(every):
        if block.language == "bash" and block.text.strip().endswith("--help"):
            asked += 1
            _, *words = shlex.split(block.text)
            said = subprocess.run(
                [_beside_python("cauce"), *words],
                env=os.environ | {"COLUMNS": "100"},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            if WRITE:
                text = path.read_text(encoding="utf-8")
                path.write_text(
                    text.replace(f"{block.text}```\n\n```text output\n{output.text}", _help(block.text, said))
                )
            else:
                assert "output" in output.words
                assert re.fullmatch(pattern_of(output.text), squeezed(said)), f"{output}: it says\n{said}"
    assert asked == 34


def _help(command: str, said: str) -> str:
    return f"{command}```\n\n```text output\n{said.strip()}\n"


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).parent / name)


# --- patterns -----------------------------------------------------------------------------------------------


def _pattern_rows() -> list[tuple[str, str, bool, bool]]:
    table = (REFERENCE / "wire-formats.md").read_text().partition("## Patterns")[2]
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \| (yes|no) \| (yes|no) \|$", table, re.MULTILINE)
    return [(pattern, name, ours == "yes", glob == "yes") for pattern, name, ours, glob in rows]


def test_the_table_of_both_pattern_languages_is_true(valkey: ValkeyServer) -> None:
    rows = _pattern_rows()

    assert len(rows) > 10
    with Redis.from_url(valkey.url) as redis:
        for pattern, name, ours, glob in rows:
            assert matches(pattern, name) is ours, (pattern, name)
            with redis.pubsub() as pubsub:
                pubsub.psubscribe(pattern)
                assert pubsub.get_message(timeout=5) is not None
                heard = redis.publish(name, "x") == 1
            assert heard is glob, (pattern, name)
