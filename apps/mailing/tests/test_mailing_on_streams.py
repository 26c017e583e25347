"""mailing-ms on a durable broker: each sign-up has its mail, whatever breaks, and what may repeat is chosen."""

import asyncio
import contextlib
import hmac
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import Envelope as SmtpEnvelope
from cauce import Retry, Service
from cauce.dev.ports import choose_port
from cauce.dev.servers import ValkeyServer
from cauce.settings import load
from cauce.stores.sql.outbox import EVENT, PUT_BACK_NOW
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from contracts.accounts import UserCreated
from mailing.infrastructure.patience import Limits
from mailing.main import build
from mailing.settings import Settings
from seedwork import database
from sqlalchemy import text
from testsupport.long_form import PROVE

from .conftest import OpenSink, Received, Sink

LIMIT_S = 120.0
Start = Callable[..., Any]


@pytest.fixture
def mailing(valkey: ValkeyServer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`async with mailing(smtp_port) as service`: mailing-ms as it is put together, on Streams; it tries again soon."""
    monkeypatch.setattr("mailing.entrypoints.RETRY", Retry(attempts=20, base=0.05, cap=0.5))

    def start(smtp_port: int, limits: Limits | None = None, **given: str) -> Service:
        environ = {
            "CAUCE_ENV_FILE": "",
            "EVENTS_TRANSPORT": "redis-streams",
            "REDIS_URL": valkey.url,
            "MAILING_DATABASE_URL": database_url,
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(smtp_port),
        }
        return build(load(Settings, environ=environ | given), limits=limits)

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
            begun = await connection.execute(text("SELECT state FROM cauce_inbox"))
            seen.append([row.state for row in [*found, *begun]])
        await engine.dispose()

    sink.on_data = look
    async with mailing(sink.port):
        await sign_up(accounts, user(1))
        await settled(database_url, ["sent"])
    assert seen == [[None, "sending"]], "that it is being sent stands in one place"


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
    assert sorted(str(row.state) for row in mails) == ["None"] * 20 + ["sent"] * 2
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


async def nothing_waits_for_a_person(ask: Callable[[str], Awaitable[list[Any]]]) -> bool:
    return not await ask("SELECT 1 FROM cauce_dead_letter") and not await ask("SELECT 1 FROM cauce_waiting")


async def test_an_address_that_no_attempt_would_make_good_is_refused_and_no_dead_letter(
    sink: Sink, mailing: Start, accounts: Service, database_url: str
) -> None:
    async with mailing(sink.port) as service:
        hostile = UserCreated(id="1", username="ana", email="ana@example.com, victim@evil.example")
        encoded = UserCreated(id="3", username="ana", email="=?utf-8?q?a=0d=0aBcc=3a_evil=40x.example?=@ours.example")
        await sign_up(accounts, hostile, user(2), encoded)
        await until(lambda: service.counters["handled"] == 3, "all are settled")
        async with looking(database_url) as ask:
            refused = await ask("SELECT reason, code FROM mails WHERE state = 'refused' ORDER BY user_id")
            assert await nothing_waits_for_a_person(ask)
        assert await service.check() == {}

    assert [row.reason for row in refused] == ["the user's e-mail is not one valid address"] * 2
    assert [row.code for row in refused] == [None, None]
    assert (service.counters["mails_refused"], service.counters["mails_sent"]) == (2, 1)
    assert sink.only().recipients == ["user2@example.com"]


async def test_a_recipient_whom_the_server_never_takes_is_an_outcome_with_the_code_and_no_dead_letter(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await open_sink()

    async def refuse(envelope: SmtpEnvelope) -> str | None:
        [recipient] = envelope.rcpt_tos
        return f"550 5.1.1 <{recipient}>: no such user" if recipient.startswith("nobody") else None

    sink.on_rcpt = refuse
    async with mailing(sink.port) as service:
        nobodies = [UserCreated(id=f"n{n}", username="ana", email=f"nobody{n}@example.com") for n in range(20)]
        await sign_up(accounts, *nobodies, user(1))
        await until(lambda: service.counters["handled"] == 21, "all are settled")
        async with looking(database_url) as ask:
            rows = await ask("SELECT state, code, reason, ended_at FROM mails WHERE user_id LIKE 'n%'")
            assert await nothing_waits_for_a_person(ask)

    assert {(row.state, row.code) for row in rows} == {("refused", 550)}
    assert all("nobody" not in row.reason and row.ended_at for row in rows)
    assert (len(rows), service.counters["mails_refused"], service.counters["dead"]) == (20, 20, 0)
    assert sink.only().recipients == ["user1@example.com"]
    assert "nobody1@example.com" not in caplog.text
    assert caplog.text.count("no such user") == 20


async def test_a_recipient_who_is_put_off_for_ever_is_refused_at_the_last_attempt(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailing.entrypoints.RETRY", Retry(attempts=3, base=0.0, cap=0.0))
    sink = await open_sink()

    async def put_off(_: SmtpEnvelope) -> str:
        return "450 4.1.2 domain not found"

    sink.on_rcpt = put_off
    async with mailing(sink.port) as service, looking(database_url) as ask:
        await sign_up(accounts, user(1))
        await settled(database_url, ["refused"])
        [row] = await ask("SELECT code FROM mails")
        assert await nothing_waits_for_a_person(ask)
    assert (row.code, service.counters["waiting"], service.counters["dead"]) == (450, 2, 0)


async def test_a_mailbox_is_sent_a_few_mails_an_hour_and_what_is_over_that_is_withheld(
    sink: Sink, mailing: Start, accounts: Service, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with mailing(sink.port) as one, mailing(sink.port) as two:
        spellings = ["victim@gmail.com", "VICTIM@gmail.com", "vic.tim@googlemail.com", "victim+{}@gmail.com"]
        users = [
            UserCreated(id=f"victim-{n}", username="ana", email=spelling.format(n))
            for n, spelling in enumerate(spellings * 5)
        ]
        await sign_up(accounts, *users, user(1))
        await until(lambda: one.counters["handled"] + two.counters["handled"] == 21, "all are settled")
        async with looking(database_url) as ask:
            rows = await ask("SELECT state, recipient FROM mails WHERE user_id LIKE 'victim%' ORDER BY state")
            assert await nothing_waits_for_a_person(ask)

    assert [row.state for row in rows] == ["sent"] * 3 + ["withheld"] * 17
    assert len({row.recipient for row in rows}) == 2, "one hash for all spellings; a withheld mail keeps none"
    assert all("ictim" not in str(row) for row in rows)
    assert one.counters["mails_withheld"] + two.counters["mails_withheld"] == 17
    assert (len(sink.received), len(sink.of("user1@example.com"))) == (4, 1)
    assert caplog.text.count("its recipient has had enough mails for now") == 17
    assert "ictim" not in "".join(one.getMessage() for one in caplog.records if one.name.startswith("mailing"))


async def test_the_bound_is_a_setting_and_the_key_of_the_hashes_may_be(
    sink: Sink, mailing: Start, accounts: Service, database_url: str
) -> None:
    own_key = {"MAIL_PER_RECIPIENT": "1", "MAIL_ADDRESS_KEY": "a secret of sixteen"}
    async with mailing(sink.port, **own_key) as service, looking(database_url) as ask:
        await sign_up(accounts, user(1))
        await until(lambda: service.counters["handled"] == 1, "the first mail")
        await sign_up(accounts, UserCreated(id="again", username="ana", email="user1@example.com"))
        await until(lambda: service.counters["handled"] == 2, "both are settled")
        rows = await ask("SELECT state, recipient FROM mails ORDER BY begun_at")
    assert [row.state for row in rows] == ["sent", "withheld"]
    expected = hmac.digest(b"a secret of sixteen", b"user1@example.com", "sha256").hex()[:32]
    assert rows[0].recipient == expected


async def test_a_mail_that_is_tried_again_is_counted_once(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink, attempts = await open_sink(), 0

    async def at_the_fourth(_: SmtpEnvelope) -> str | None:
        nonlocal attempts
        attempts += 1
        return None if attempts > 3 else "450 later"

    sink.on_rcpt = at_the_fourth
    async with mailing(sink.port, MAIL_PER_RECIPIENT="1"):
        await sign_up(accounts, user(1))
        await settled(database_url, ["sent"])
    assert len(sink.received) == 1


async def test_a_server_that_takes_the_mail_and_answers_late_gets_it_once_and_delays_no_other(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str
) -> None:
    sink, released = await open_sink(), asyncio.Event()

    async def late_for_user_0(envelope: SmtpEnvelope) -> None:
        if envelope.rcpt_tos == ["user0@example.com"]:
            await released.wait()
            await asyncio.sleep(20 if PROVE else 1)  # longer than any other answer may take

    sink.on_data = late_for_user_0
    short = 10 if PROVE else 0.5
    limits = Limits(opening_s=30, mail_s=short, recipient_s=short, data_s=short, block_s=short, taken_s=600)
    async with mailing(sink.port, limits) as service:
        await sign_up(accounts, *map(user, range(20)))
        await until(lambda: service.counters["handled"] == 19, "the mails of all others")
        released.set()
        await settled(database_url, ["sent"] * 20)

    assert len(sink.of("user0@example.com")) == 1
    assert len(sink.received) == 20
    assert service.counters["waiting"] == 0


async def test_recipients_for_whom_the_server_is_slow_leave_room_for_the_others(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many of them as Cauce handles events at a time."""
    monkeypatch.setattr("mailing.main.SLOW_AFTER_S", 0.3)
    sink, released = await open_sink(), asyncio.Event()

    async def slow_for_some(envelope: SmtpEnvelope) -> None:
        if envelope.rcpt_tos[0].startswith("slow"):
            await released.wait()

    sink.on_rcpt = slow_for_some
    async with mailing(sink.port) as service:
        slow = [UserCreated(id=f"slow{n}", username="ana", email=f"slow{n}@example.com") for n in range(16)]
        await sign_up(accounts, *slow, *map(user, range(20)))
        await until(lambda: service.counters["mails_sent"] == 20, "the mails of all others")
        assert not released.is_set()
        released.set()
        await settled(database_url, ["sent"] * 36)
    assert len(sink.received) == 36
    assert service.counters["dead"] == 0


async def test_a_server_that_never_says_whether_it_took_the_mail_gets_it_three_times_at_most(
    open_sink: OpenSink, mailing: Start, accounts: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await open_sink()
    sink.cut_after_dot = lambda _: True
    async with mailing(sink.port) as service, looking(database_url) as ask:
        await sign_up(accounts, user(1))
        await settled(database_url, ["uncertain"])
        assert await nothing_waits_for_a_person(ask)
    assert len(sink.received) == 3
    assert service.counters["mails_uncertain"] == 1


async def test_of_two_replicas_one_sends_and_a_repeat_from_the_broker_sends_nothing(
    sink: Sink, mailing: Start, accounts: Service, database_url: str, valkey: ValkeyServer
) -> None:
    async with mailing(sink.port) as one, mailing(sink.port) as two:
        await sign_up(accounts, *map(user, range(10)))
        await until(lambda: len(sink.received) == 10, "ten mails")
        # The relay is made to send everything again, as after a lost mark.
        async with accounts.transaction() as tx:
            await tx.session.execute(
                text(f"INSERT INTO cauce_outbox (position, {EVENT}) SELECT position, {EVENT} FROM cauce_sent")
            )
            await tx.session.execute(text("DELETE FROM cauce_sent"))
            await tx.session.execute(text(PUT_BACK_NOW))
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
    [("at-least-once", 2, [], "sent"), ("at-most-once", 1, ["uncertain"], None)],
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
    state: str | None,
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
