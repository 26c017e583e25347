"""What a newcomer reads after the five typical mistakes: one line each, which says what to do. Word for word.

The service is letters_service.py, a process of its own, on a real Valkey.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from cauce import Bus, DomainEvent, IntegrationEvent, PublishError, Service, on
from cauce.dev.ports import choose_port
from cauce.dev.servers import ValkeyServer
from cauce.formats.cloudevents import from_json
from cauce.ports.lanes import lane_of
from cauce.stores.outbox import Outbox
from cauce.stores.sql.schema import create_tables
from cauce.stores.sqlalchemy import create_engine
from cauce.transports.memory import MemoryTransport
from cauce.transports.redis_streams import RedisStreams
from redis import Redis
from sqlalchemy.ext.asyncio import AsyncSession
from testsupport.said_process import SaidProcess
from testsupport.services import FOLDER

ID = "061b4f14-295d-40b8-aa74-dd4aa8a248bf"
SOURCE = FOLDER / "letters_service.py"


def line_of(text: str) -> int:
    return 1 + next(number for number, line in enumerate(SOURCE.read_text().splitlines()) if text in line)


class Letters(SaidProcess):
    """The process and what it has said."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.health = f"http://127.0.0.1:{environment['LETTERS_HEALTH_PORT']}"
        super().__init__(
            [sys.executable, "-c", "import letters_service; letters_service.main()"],
            folder,
            environment={"PATH": os.environ["PATH"], "CAUCE_ENV_FILE": "", **environment},
            cwd=SOURCE.parent,
        )

    @property
    def said(self) -> list[str]:
        """All lines but those of the start."""
        return [line for line in self.err if not re.match("letters (hears|publishes|uses|is ready|waits)", line)]

    def started(self) -> None:
        self.until(lambda: any(re.match("letters (is ready|waits)", line) for line in self.err))

    def ready(self) -> None:
        self.until(lambda: any(line.startswith("letters is ready") for line in self.err))


@pytest.fixture
def letters(tmp_path: Path) -> Generator[Callable[..., Letters]]:
    made: list[Letters] = []

    def start(**environment: str) -> Letters:
        made.append(Letters(tmp_path, {"LETTERS_HEALTH_PORT": str(choose_port()), **environment}))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def send(server: ValkeyServer, payload: object, event_id: str = ID) -> bytes:
    """As a NestJS service would: an event with this payload. Returns the bytes."""
    data = {
        "service": "accounts",
        "name": "accounts.opened",
        "payload": payload,
        "id": event_id,
        "occurredOn": "2026-11-24T06:46:18.914Z",
    }
    raw = json.dumps({"pattern": "accounts.opened", "data": data}).encode()
    publish(server, raw)
    return raw


def publish(server: ValkeyServer, raw: bytes) -> None:
    with cast("Any", Redis).from_url(server.url, protocol=2) as client:  # half typed
        client.publish("accounts.opened", raw)


# --- 1. The broker is down at the start ---------------------------------------------------------------------


def test_a_broker_that_is_down_at_the_start_is_one_line_and_the_service_waits_for_it(
    letters: Callable[..., Letters], own_valkey: ValkeyServer
) -> None:
    url, address = own_valkey.url, own_valkey.address
    own_valkey.stop()
    process = letters(REDIS_URL=url)
    process.started()

    [line] = process.said
    assert re.sub(r"in \d\.\d s", "in N s", line) == (
        f"letters: no Redis at {address} (refused). Trying again in N s. → is it running?"
    )
    assert process.err[-1] == f"letters waits (redis: no Redis at {address} (refused)) · health {process.health}"
    process.until(lambda: readiness_of(process) == (503, {"redis": f"no Redis at {address} (refused)"}))
    assert httpx.get(process.health + "/health/live").status_code == 200

    own_valkey.start()
    process.until(lambda: len(process.said) > 1)
    assert re.fullmatch(r"letters: back after \d+(\.\d)? (s|min)", process.said[1])
    process.until(lambda: readiness_of(process) == (200, {}))
    send(own_valkey, {"id": "1", "email": "ana@example.com"})
    process.until(lambda: process.out == ["sent to ana@example.com"])
    assert len(process.said) == 2


# --- 2. An unknown event ------------------------------------------------------------------------------------


class Opened(DomainEvent, name="mistakes.opened"):
    id: str


class Closed(DomainEvent, name="mistakes.closed"):
    id: str


class Told(IntegrationEvent, name="mistakes.told", version=1, source="letters"):
    id: str


class Opend:
    """What a newcomer forgot to derive from DomainEvent."""


@on(Opened, Closed)
def note(event: Opened | Closed) -> None: ...


async def test_publishing_what_is_no_event_says_so_and_what_could_be_published() -> None:
    expected = (
        "publish(Opend): Opend is not an event. Did you mean 'Opened'? "
        "Derive it from DomainEvent or IntegrationEvent, or publish one of: Closed, Opened, Told."
    )
    service = Service("letters", modules=[note], transport=MemoryTransport(), publishes=[Told])
    bare: object = Opend()
    async with service:
        async with service.transaction() as tx:
            with pytest.raises(PublishError) as in_a_transaction:
                await tx.publish(bare)  # type: ignore[call-overload]  # pyright: ignore  # the mistake
        with pytest.raises(PublishError) as outside:
            await service.publish(bare)  # type: ignore[call-overload]  # pyright: ignore  # the mistake
    assert str(in_a_transaction.value) == str(outside.value) == expected

    with pytest.raises(PublishError) as on_a_bus:
        Bus([note]).emit(bare)  # type: ignore[arg-type]  # pyright: ignore  # the mistake
    assert str(on_a_bus.value) == expected.replace(", Told.", ".")


async def test_publishing_where_nothing_is_known_says_what_to_do() -> None:
    with pytest.raises(PublishError) as refused:
        await Bus().publish(SimpleNamespace())  # type: ignore[arg-type]  # pyright: ignore  # the mistake
    assert str(refused.value) == (
        "publish(SimpleNamespace): SimpleNamespace is not an event. Derive it from DomainEvent or IntegrationEvent."
    )


async def test_publishing_the_class_itself_says_how_to_make_one() -> None:
    with pytest.raises(PublishError) as refused:
        await Bus([note]).publish(Opened)  # type: ignore[arg-type]  # pyright: ignore  # the mistake
    assert str(refused.value) == "publish(Opened): Opened is the class; publish one of it: Opened(…)."


def test_a_name_no_event_has_stops_the_start_with_the_nearest_and_the_place(
    letters: Callable[..., Letters], valkey: ValkeyServer
) -> None:
    process = letters(REDIS_URL=valkey.url, LETTERS_MISTAKE="a name nobody bears")

    assert process.process.wait(20) == 2
    assert process.err == [
        "letters: 1 problem in the service 'letters':",
        (
            "  · letters.goodbye hears 'accounts.opend', and no event known here has that name. "
            "Did you mean 'accounts.opened'? Correct it, or import the event's class there "
            f"· {SOURCE}:{line_of('accounts.opend')}"
        ),
    ]


# --- 3. A listener raises -----------------------------------------------------------------------------------


def readiness_of(process: Letters) -> tuple[int, dict[str, str]]:
    """As the health port has it, which is a moment behind the log."""
    answer = httpx.get(process.health + "/health/ready")
    return answer.status_code, answer.json()["not_ready"]


def counters_of(process: Letters) -> dict[str, int]:
    """As the health port has them, which is a moment behind the service."""
    return dict(httpx.get(process.health + "/counters").json())


def test_a_listener_that_raises_is_one_line_with_the_place_and_one_traceback(
    letters: Callable[..., Letters], valkey: ValkeyServer
) -> None:
    process = letters(REDIS_URL=valkey.url)
    process.ready()
    send(valkey, {"id": "1", "email": "ana@nowhere.example"})
    send(valkey, {"id": "1", "email": "ana@example.com"}, event_id="the-next")
    process.until(lambda: process.out == ["sent to ana@example.com"])

    assert process.said[0] == (
        f"letters: letters_service.welcome failed on accounts.opened {ID}: RuntimeError: smtp said no "
        f"· letters_service.py:{line_of('smtp said no')} · not tried again"
    )
    assert process.said[1] == "Traceback (most recent call last):"
    assert process.said[-1] == "RuntimeError: smtp said no"
    assert sum("Traceback" in line for line in process.said) == 1
    assert sum("smtp said no" in line and "raise" not in line for line in process.said) == 2
    process.until(lambda: {"failed": 1, "handled": 1}.items() <= counters_of(process).items())


# --- 4. A bad payload on the wire ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"id": "1", "email": {"secret": "hunter2"}}, "$.email: expected str, got object"),
        ({"id": 7, "email": "hunter2"}, "$.id: expected str, got int"),
        ({"id": "1", "mail": "hunter2"}, "$: object missing required field email"),
    ],
)
def test_a_bad_payload_is_one_line_with_the_path_and_never_the_value(
    letters: Callable[..., Letters], valkey: ValkeyServer, payload: object, problem: str
) -> None:
    process = letters(REDIS_URL=valkey.url)
    process.ready()
    raw = send(valkey, payload)
    send(valkey, {"id": "1", "email": "ana@example.com"}, event_id="the-next")
    process.until(lambda: process.out == ["sent to ana@example.com"])

    assert process.said == [
        (
            f"letters refused accounts.opened {ID} · {problem} · from accounts · {len(raw)} bytes, not kept "
            "→ correct the sender, or letters_service.AccountOpened"
        )
    ]
    assert "hunter2" not in "\n".join(process.err)
    process.until(lambda: counters_of(process).get("refused") == 1)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"pattern": hunter2', "not JSON"),
        (
            b'{"pattern": "accounts.opened", "data": {"payload": ["hunter2"]}}',
            "the payload is an array, expected an object",
        ),
    ],
)
def test_bytes_that_are_no_event_at_all_are_one_line_too(
    letters: Callable[..., Letters], valkey: ValkeyServer, raw: bytes, problem: str
) -> None:
    process = letters(REDIS_URL=valkey.url)
    process.ready()
    publish(valkey, raw)
    process.until(lambda: bool(process.said))

    assert process.said == [
        (
            f"letters refused a message on accounts.opened · {problem} · {len(raw)} bytes, not kept "
            "→ correct whoever publishes it there"
        )
    ]


# --- 5. A wrong configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {"REDIS_URL": "reddis://:hunter2@localhost:6379"},
            (
                "it cannot be read. Expected redis://[user:password@]host[:port], rediss:// for TLS, or unix:///path; "
                "in the password, write characters like / @ : # as %2F %40 %3A %23"
            ),
        ),
        (
            {"EVENTS_TRANSPROT": "memory"},
            (
                "EVENTS_TRANSPROT (environment) is not a setting. Did you mean EVENTS_TRANSPORT? "
                "(If it is another program's: CAUCE_IGNORE_ENV=EVENTS_TRANSPROT)"
            ),
        ),
        (
            {"EVENTS_TRANSPORT": "rediss-pubsub"},
            "EVENTS_TRANSPORT=rediss-pubsub (environment): not one of redis-pubsub, redis-streams, memory. Did you mean redis-pubsub?",
        ),
    ],
)
def test_a_misspelt_setting_stops_the_start_with_the_nearest_valid_one(
    letters: Callable[..., Letters], environment: dict[str, str], line: str
) -> None:
    process = letters(**environment)

    assert process.process.wait(20) == 2
    assert process.err[-1] == f"  · {line}"
    assert len(process.err) == 2
    assert "hunter2" not in "\n".join(process.err)


# --- The same over Streams, where nothing is lost: it is said that it waits, and what for -------------------


@pytest.fixture
def durable(tmp_path: Path) -> dict[str, str]:
    """Settings of a service that keeps what it does in a SQLite file."""
    return {"EVENTS_TRANSPORT": "redis-streams", "LETTERS_DATABASE": f"sqlite+aiosqlite:///{tmp_path}/letters.sqlite"}


class LetterSent(IntegrationEvent, name="letters.sent", version=1, source="letters"):
    to: str


def write_letters(durable: dict[str, str], count: int) -> None:
    """Another process of the service publishes, through its own session."""
    outbox = Outbox("letters", publishes=[LetterSent])

    async def write() -> None:
        engine = create_engine(durable["LETTERS_DATABASE"])
        try:
            await create_tables(engine)
            async with AsyncSession(engine) as session, session.begin():
                for number in range(count):
                    outbox.add(session, LetterSent(to=str(number)))
        finally:
            await engine.dispose()

    asyncio.run(write())


def publish_account(server: ValkeyServer, data: object, event_id: str = ID, **attributes: str) -> bytes:
    """As accounts would, over Streams. Returns the bytes."""
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": "accounts",
        "type": "accounts.opened",
        "time": "2026-11-24T06:46:18.914Z",
        "datacontenttype": "application/json",
        "partitionkey": "acc-7",
        "data": data,
        **attributes,
    }
    raw = json.dumps(event).encode()

    async def append() -> None:
        transport = RedisStreams(server.url)
        try:
            await transport.append("accounts", lane_of(from_json(raw)), [raw])
        finally:
            await transport.close()

    asyncio.run(append())
    return raw


def told(line: str) -> str:
    """With everything that differs between two runs made alike."""
    line = re.sub(r"Trying again in \d+\.\d s", "Trying again in N s", line)
    return re.sub(r"(oldest|next try in|back after) \d+(\.\d)? s", r"\1 N s", line)


def test_over_streams_an_outage_logs_what_the_outbox_keeps_and_then_what_was_caught_up(
    letters: Callable[..., Letters], own_valkey: ValkeyServer, durable: dict[str, str]
) -> None:
    url, address = own_valkey.url, own_valkey.address
    own_valkey.stop()
    write_letters(durable, 3)
    process = letters(REDIS_URL=url, **durable)
    process.started()
    process.until(lambda: bool(process.said))

    assert [told(line) for line in process.said] == [
        (
            f"letters: no Redis at {address} (refused). Events are kept in the outbox: 3 waiting, oldest N s. "
            "Trying again in N s. → cauce doctor"
        )
    ]
    assert f"letters waits (redis: no Redis at {address} (refused)) · health {process.health}" in process.err
    process.until(lambda: readiness_of(process) == (503, {"redis": f"no Redis at {address} (refused)"}))

    own_valkey.start()
    process.until(lambda: len(process.said) > 1)
    assert told(process.said[1]) == "letters: back after N s, 3 events caught up"
    process.until(lambda: readiness_of(process) == (200, {}))
    assert len(process.said) == 2


def test_over_streams_a_failed_attempt_is_logged_with_its_number_the_next_and_what_waits(
    letters: Callable[..., Letters], valkey: ValkeyServer, durable: dict[str, str]
) -> None:
    process = letters(REDIS_URL=valkey.url, **durable)
    process.ready()
    publish_account(valkey, {"id": "acc-7", "email": "ana@nowhere.example"})
    process.until(lambda: any(line.startswith("dead: ") for line in process.said))

    place = f"letters_service.py:{line_of('smtp said no')}"
    failed = f"letters_service.welcome failed on accounts.opened {ID}"
    said = [told(line) for line in process.said]
    assert [line for line in said if failed in line] == [
        f"{failed} (attempt 1 of 3): RuntimeError: smtp said no · {place} · next try in N s · only key acc-7 waits",
        f"{failed} (attempt 2 of 3): RuntimeError: smtp said no · {place} · next try in N s · only key acc-7 waits",
        f"dead: {failed} (attempt 3 of 3): RuntimeError: smtp said no · {place} · cauce dead list · key acc-7 waits",
    ]
    assert said[1] == "Traceback (most recent call last):"
    assert sum("Traceback" in line for line in said) == 1, "once, at the first failure"


@pytest.mark.parametrize(
    ("version", "sender"), [({}, "accounts"), ({"sourceversion": "1.4.2"}, "accounts 1.4.2")], ids=["", "version"]
)
def test_over_streams_a_bad_payload_is_dead_at_once_and_its_bytes_are_kept(
    letters: Callable[..., Letters],
    valkey: ValkeyServer,
    durable: dict[str, str],
    version: dict[str, str],
    sender: str,
) -> None:
    process = letters(REDIS_URL=valkey.url, **durable)
    process.ready()
    publish_account(valkey, {"id": "acc-7", "email": {"secret": "hunter2"}}, **version)
    publish_account(valkey, {"id": "acc-8", "email": "ana@example.com"}, event_id="the-next", partitionkey="acc-8")
    process.until(lambda: process.out == ["sent to ana@example.com"] and bool(process.said))

    assert process.said == [
        (
            f"dead: accounts.opened {ID} for letters/letters_service.welcome · undecodable: $.email: expected str, got object · "
            f"from {sender} · cauce dead list · key acc-7 waits"
        )
    ]
    assert "hunter2" not in "\n".join(process.err)
    (letter,) = httpx.get(process.health + "/status").json()["listeners"]
    assert (letter["listener"], letter["dead"]) == ("letters_service.welcome", 1)
