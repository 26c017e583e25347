"""mailing-ms on a durable broker: each sign-up has its mail, whatever breaks, and what may repeat is chosen."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import Envelope as SmtpEnvelope
from cauce import Service
from cauce.dev.ports import choose_port
from cauce.dev.servers import ValkeyServer
from cauce.settings import load
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from contracts.accounts import UserCreated
from mailing.main import build
from mailing.settings import Settings
from seedwork import database
from sqlalchemy import text

from .conftest import OpenSink, Received, Sink

LIMIT_S = 30.0
Start = Callable[..., Any]


@pytest.fixture
def mailing(valkey: ValkeyServer, database_url: str) -> Start:
    """`async with mailing(smtp_port) as service`: mailing-ms as it is put together, on Streams."""

    def start(smtp_port: int, **given: str) -> Service:
        environ = {
            "CAUCE_ENV_FILE": "",
            "EVENTS_TRANSPORT": "redis-streams",
            "REDIS_URL": valkey.url,
            "MAILING_DATABASE_URL": database_url,
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(smtp_port),
        }
        return build(load(Settings, environ=environ | given))

    return start


@pytest.fixture
async def accounts(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[Service]:
    store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{tmp_path}/accounts.sqlite"))
    transport = RedisStreams(valkey.url)
    async with Service("accounts-ms", store=store, transport=transport, publishes=[UserCreated]) as service:
        yield service


def user(number: int) -> UserCreated:
    return UserCreated(id=f"user-{number}", username=f"name{number}", email=f"user{number}@example.com")


async def sign_up(accounts: Service, *users: UserCreated) -> None:
    for one in users:
        async with accounts.transaction() as tx:
            await tx.publish(one)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                met = condition()
                if met if isinstance(met, bool) else await met:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {LIMIT_S:g} s: {what}") from None


@asynccontextmanager
async def looking(url: str) -> AsyncGenerator[Callable[[str], Awaitable[list[Any]]]]:
    engine = database.engine(url)

    async def ask(query: str) -> list[Any]:
        async with engine.connect() as connection:
            return list((await connection.execute(text(query))).all())

    try:
        yield ask
    finally:
        await engine.dispose()


async def settled(url: str, states: list[str]) -> None:
    """The records are as said, and nothing waits for another try."""
    async with looking(url) as ask:

        async def so() -> bool:
            found = [row.state for row in await ask("SELECT state FROM mails ORDER BY user_id")]
            waiting = await ask("SELECT 1 FROM cauce_waiting")
            doubt = await ask("SELECT 1 FROM cauce_inbox WHERE state IS NOT NULL")
            return found == states and not waiting and not doubt

        await until(so, f"the records are {states}")


async def test_a_mail_server_that_is_away_costs_time_and_then_each_recipient_has_one_mail(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink = await open_sink()
    away = True

    async def sometimes(_: SmtpEnvelope) -> str | None:
        return "451 4.3.0 try again later" if away else None

    sink.on_rcpt = sometimes
    async with mailing(sink.port) as service:
        await sign_up(accounts, *map(user, range(5)))
        await until(lambda: service.counters["waiting"] >= 5, "every first try has failed")
        assert sink.received == []
        away = False
        await settled(database_url, ["sent"] * 5)

    assert sorted(one.recipients[0] for one in sink.received) == [f"user{number}@example.com" for number in range(5)]
    assert service.counters["dead"] == 0


async def test_a_mail_server_that_hangs_for_one_recipient_delays_nobody_else(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink = await open_sink()
    released = asyncio.Event()

    async def hang_for_user_0(envelope: SmtpEnvelope) -> None:
        if envelope.rcpt_tos == ["user0@example.com"]:
            await released.wait()

    sink.on_rcpt = hang_for_user_0
    async with mailing(sink.port):
        await sign_up(accounts, *map(user, range(20)))
        await until(lambda: len(sink.received) == 19, "the mails of all others")
        assert not released.is_set()
        assert sink.of("user0@example.com") == []
        released.set()
        await settled(database_url, ["sent"] * 20)

    assert len(sink.of("user0@example.com")) == 1


async def test_no_lock_is_held_while_a_mail_travels(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink = await open_sink()
    seen: list[list[str]] = []

    async def look(_: SmtpEnvelope) -> None:
        engine = database.engine(database_url)  # a second writer gets in
        async with engine.begin() as connection:
            found = await connection.execute(text("UPDATE mails SET reason = 'looked' RETURNING state"))
            seen.append([row.state for row in found])
        await engine.dispose()

    sink.on_data = look
    async with mailing(sink.port):
        await sign_up(accounts, user(1))
        await settled(database_url, ["sent"])
    assert seen == [["sending"]]


async def test_by_default_a_connection_cut_after_the_final_dot_gives_at_most_two_copies_with_one_message_id(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink = await open_sink()
    sink.cut_after_dot = lambda mail: len(sink.of(mail.recipients[0])) == 1  # once for each
    async with mailing(sink.port) as service:
        await sign_up(accounts, *map(user, range(20)))
        await settled(database_url, ["sent"] * 20)

    for number in range(20):
        copies = sink.of(f"user{number}@example.com")
        assert len(copies) == 2, "the cut really happened"
        assert len({copy.message["Message-ID"] for copy in copies}) == 1
    assert service.counters["dead"] == 0


async def test_at_most_once_the_cut_gives_one_copy_and_a_dead_letter_that_says_uncertain(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink = await open_sink()
    sink.cut_after_dot = lambda mail: int(mail.recipients[0].removeprefix("user").partition("@")[0]) < 20
    async with mailing(sink.port, MAIL_DELIVERY="at-most-once") as service:
        await sign_up(accounts, *map(user, range(22)))
        await until(lambda: service.counters["dead"] == 20 and service.counters["handled"] == 2, "all are settled")
        async with looking(database_url) as ask:
            dead = await ask("SELECT reason, error, attempts FROM cauce_dead_letter")
            mails = await ask("SELECT state, reason FROM mails ORDER BY user_id")
            waiting = await ask("SELECT 1 FROM cauce_waiting")

    assert [len(sink.of(f"user{number}@example.com")) for number in range(22)] == [1] * 22
    assert {row.reason for row in dead} == {"uncertain"}
    assert all("it may have taken the mail" in row.error for row in dead)
    assert sorted(row.state for row in mails) == ["failed"] * 20 + ["sent"] * 2
    assert waiting == []


async def test_at_most_once_what_surely_did_not_happen_is_tried_again(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink = await open_sink()
    refused: list[str] = []

    async def first_time_later(envelope: SmtpEnvelope) -> str | None:
        [recipient] = envelope.rcpt_tos
        if recipient in refused:
            return None
        refused.append(recipient)
        return "450 4.2.1 greylisted"

    sink.on_rcpt = first_time_later
    async with mailing(sink.port, MAIL_DELIVERY="at-most-once") as service:
        await sign_up(accounts, *map(user, range(5)))
        await settled(database_url, ["sent"] * 5)

    assert len(sink.received) == len(refused) == 5
    assert service.counters["dead"] == 0


async def test_an_address_that_no_try_would_make_good_is_a_dead_letter_at_once(
    sink: Sink, mailing: Start, accounts: Service, database_url: str
) -> None:
    async with mailing(sink.port) as service:
        hostile = UserCreated(id="1", username="ana", email="ana@example.com, victim@evil.example")
        await sign_up(accounts, hostile, user(2))
        await until(lambda: service.counters["dead"] == 1 and service.counters["handled"] == 1, "both are settled")
        async with looking(database_url) as ask:
            [dead] = await ask("SELECT reason, error, attempts, key FROM cauce_dead_letter")

    assert (dead.reason, dead.attempts, dead.key) == ("rejected", 1, "1")
    assert "evil" not in dead.error
    assert sink.only().recipients == ["user2@example.com"]


async def test_of_two_replicas_one_sends_and_a_repeat_from_the_broker_sends_nothing(
    sink: Sink, mailing: Start, accounts: Service, database_url: str, valkey: ValkeyServer
) -> None:
    async with mailing(sink.port) as one, mailing(sink.port) as two:
        await sign_up(accounts, *map(user, range(10)))
        await until(lambda: len(sink.received) == 10, "ten mails")
        # The relay is made to send everything again, as after a lost mark.
        async with accounts.transaction() as tx:
            await tx.session.execute(text("UPDATE cauce_outbox SET sent_at = NULL"))
        await until(lambda: one.counters["duplicate"] + two.counters["duplicate"] == 10, "ten repeats are recognised")
        await settled(database_url, ["sent"] * 10)

    def id_of(received: Received) -> str:
        return str(received.message["Message-ID"])

    assert len(sink.received) == len(set(map(id_of, sink.received))) == 10


@asynccontextmanager
async def process(folder: Path, **environ: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    usual = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    port = str(choose_port())
    with (folder / "mailing.log").open("ab") as log:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mailing",
            cwd=folder, env=usual | environ | {"MAILING_HEALTH_PORT": port}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


@pytest.mark.parametrize(
    ("delivery", "copies", "reasons", "state"),
    [("at-least-once", 2, [], "sent"), ("at-most-once", 1, ["uncertain"], "sending")],
)
async def test_killed_while_a_mail_travels_it_does_afterwards_what_was_chosen(
    sink: Sink,
    accounts: Service,
    database_url: str,
    valkey: ValkeyServer,
    tmp_path: Path,
    delivery: str,
    copies: int,
    reasons: list[str],
    state: str,
) -> None:
    travelling = sink.never_answer()
    environ = {
        "EVENTS_TRANSPORT": "redis-streams",
        "REDIS_URL": valkey.url,
        "MAILING_DATABASE_URL": database_url,
        "SMTP_PORT": str(sink.port),
        "MAIL_DELIVERY": delivery,
    }
    async with process(tmp_path, **environ) as first:
        await sign_up(accounts, user(1))
        await until(travelling.is_set, "the mail travels")
        first.kill()
        await first.wait()
    sink.on_data = None
    async with process(tmp_path, **environ), looking(database_url) as ask:

        async def settled_so() -> bool:
            [mail] = await ask("SELECT state FROM mails")
            dead = [row.reason for row in await ask("SELECT reason FROM cauce_dead_letter")]
            doubt = await ask("SELECT 1 FROM cauce_inbox WHERE state IS NOT NULL")
            return (mail.state, dead, doubt) == (state, reasons, [])

        await until(settled_so, "what was chosen is done")

    assert len(sink.received) == copies
    assert len({one.message["Message-ID"] for one in sink.received}) == 1
