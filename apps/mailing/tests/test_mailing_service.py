"""mailing-ms, whole: events in, mails out to a real SMTP server, and what its own database says, on both databases."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import Envelope as SmtpEnvelope
from cauce import ConfigurationError, EffectNotDoneError, Envelope, Service
from cauce.dev.ports import choose_port
from cauce.dev.servers import MailSinkServer, ValkeyServer
from cauce.ports.lanes import lane_of
from cauce.settings import load
from cauce.testing import story
from cauce.transports.memory import MemoryTransport
from contracts.accounts import UserCreated
from mailing.main import build
from mailing.settings import Settings
from redis import Redis
from seedwork import database
from sqlalchemy import text

from .conftest import OpenSink, Sink

NOWHERE = Path("/nonexistent")
WELCOME = "mailing.welcome"
JOHN = UserCreated(id="12345678-1234-1234-1234-123456789abc", username="john_doe", email="john.doe@example.com")


Build = Callable[..., Service]


@pytest.fixture
def service_for(database_url: str) -> Build:
    def make(smtp_port: int, **given: str) -> Service:
        environ = {
            "EVENTS_TRANSPORT": "memory",
            "MAILING_DATABASE_URL": database_url,
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(smtp_port),
        }
        return build(load(Settings, environ=environ | given, folder=NOWHERE))

    return make


async def rows(url: str) -> list[dict[str, Any]]:
    engine = database.engine(url)
    try:
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT * FROM mails ORDER BY begun_at"))
            return [dict(row) for row in found.mappings()]
    finally:
        await engine.dispose()


async def arrive(service: Service, envelope: Envelope) -> None:
    assert isinstance(service.transport, MemoryTransport)
    await service.transport.publish(lane_of(envelope), [envelope])


async def test_a_sign_up_is_welcomed_by_mail_and_recorded_without_personal_data(
    sink: Sink, service_for: Build, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with story(service_for(sink.port)) as s:
        await s.publish(JOHN)
        envelope = await s.handled(WELCOME)

    received = sink.only()
    assert received.recipients == ["john.doe@example.com"]
    assert received.message["Message-ID"] == f"<welcome.{envelope.id}@clonespotify.example>"
    assert received.message["Subject"] == "Te damos la bienvenida a CloneSpotify"
    assert "¡Hola, john_doe!" in received.part("plain")
    assert "¡Hola, john_doe!" in received.part("html")
    assert (
        "Event received: com.clonespotify.accounts.users.integration.user-created from accounts-ms" in caplog.messages
    )
    (row,) = await rows(database_url)
    assert (row["event_id"], row["user_id"], row["state"], row["reason"]) == (envelope.id, JOHN.id, "sent", None)
    assert row["message_id"] == received.message["Message-ID"]
    assert row["begun_at"] <= row["ended_at"]
    assert "john" not in str(row)
    assert not [record for record in caplog.records if record.name != "mail.log" and "john" in record.getMessage()]


async def test_the_same_event_again_sends_no_second_mail(sink: Sink, service_for: Build, database_url: str) -> None:
    envelope = Envelope.of(JOHN, id="r8ScC5wB5NHPWv6wHTLZ59")
    service = service_for(sink.port)
    async with story(service) as s:
        for _ in range(5):
            await arrive(service, envelope)
        await s.until(lambda: not service.unfinished)

    assert sink.only().message["Message-ID"] == "<welcome.r8ScC5wB5NHPWv6wHTLZ59@clonespotify.example>"
    assert [row["state"] for row in await rows(database_url)] == ["sent"]


async def test_of_two_processes_with_the_same_event_one_sends_the_mail(
    sink: Sink, service_for: Build, database_url: str
) -> None:
    one, two = service_for(sink.port), service_for(sink.port)
    envelope = Envelope.of(JOHN)
    async with story(one, two) as s:
        await asyncio.gather(arrive(one, envelope), arrive(two, envelope))
        await s.until(lambda: not one.unfinished and not two.unfinished)
    assert sink.only().recipients == ["john.doe@example.com"]
    assert [row["state"] for row in await rows(database_url)] == ["sent"]


async def test_a_user_created_again_under_the_same_id_is_welcomed_again(
    sink: Sink, service_for: Build, database_url: str
) -> None:
    service = service_for(sink.port)
    async with story(service) as s:
        await s.publish(JOHN)
        await s.publish(JOHN)
        await s.until(lambda: len(sink.received) == 2 and not service.unfinished)
    assert len({received.message["Message-ID"] for received in sink.received}) == 2
    assert [row["state"] for row in await rows(database_url)] == ["sent", "sent"]


async def test_no_transaction_is_open_while_the_mail_travels(sink: Sink, service_for: Build, database_url: str) -> None:
    seen: list[list[str]] = []

    async def look(_: SmtpEnvelope) -> None:
        # A second writer gets in, and sees what was committed before.
        engine = database.engine(database_url)
        async with engine.begin() as connection:
            found = await connection.execute(text("UPDATE mails SET reason = 'looked' RETURNING state"))
            seen.append([row.state for row in found])
        await engine.dispose()

    sink.on_data = look
    async with story(service_for(sink.port)) as s:
        await s.publish(JOHN)
        await s.handled(WELCOME)
    assert seen == [[None]]
    assert [row["state"] for row in await rows(database_url)] == ["sent"]


async def test_a_mail_server_that_is_down_costs_one_mail_and_nothing_else(
    open_sink: OpenSink, service_for: Build, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await open_sink()
    down = True

    async def sometimes(_: SmtpEnvelope) -> str | None:
        return "451 4.3.0 <john.doe@example.com>: try again later" if down else None

    sink.on_rcpt = sometimes
    service = service_for(sink.port)
    async with story(service) as s:
        await s.publish(JOHN)
        error = await s.failed(WELCOME)
        down = False
        await s.publish(UserCreated(id="2", username="ana", email="ana@example.com"))
        await s.handled(WELCOME, id="2")

    assert isinstance(error, EffectNotDoneError)
    assert sink.only().recipients == ["ana@example.com"]
    failed, sent = await rows(database_url)
    assert (failed["state"], sent["state"]) == ("failed", "sent")
    assert failed["reason"].endswith("refused the recipient: 451 4.3.0 (address): try again later")
    assert failed["ended_at"] is not None
    assert failed["event_id"] in caplog.text
    assert "john.doe@example.com" not in caplog.text
    assert service.counters["failed"] == 1


async def test_without_a_durable_broker_a_failed_mail_is_not_sent_when_the_event_comes_again(
    service_for: Build, database_url: str, sink: Sink
) -> None:
    """Nobody has decided then that this one is to be tried again."""
    envelope = Envelope.of(JOHN)
    nobody = service_for(1)
    async with story(nobody) as s:
        await arrive(nobody, envelope)
        await s.failed(WELCOME)
    again = service_for(sink.port)
    async with story(again) as s:
        await arrive(again, envelope)
        await s.handled(WELCOME)
    assert sink.received == []
    assert [row["state"] for row in await rows(database_url)] == ["failed"]


async def test_a_hostile_address_is_recorded_as_refused_and_sends_nothing(
    sink: Sink, service_for: Build, database_url: str
) -> None:
    async with story(service_for(sink.port)) as s:
        await s.publish(UserCreated(id="1", username="ana", email="ana@example.com, victim@evil.example"))
        await s.handled(WELCOME)
        await s.publish(UserCreated(id="2", username="ana\r\nBcc: x@evil.example", email="ana@example.com"))
        await s.handled(WELCOME, id="2")
    assert sink.received == []
    assert [(row["state"], row["reason"]) for row in await rows(database_url)] == [
        ("refused", "the user's e-mail is not one valid address"),
        ("refused", "the username has control characters"),
    ]


async def test_language_and_sender_come_from_the_settings(sink: Sink, service_for: Build) -> None:
    async with story(
        service_for(sink.port, MAIL_LANGUAGE="en", MAIL_FROM='"Clone, Spotify" <hello@música.example>')
    ) as s:
        await s.publish(JOHN)
        envelope = await s.handled(WELCOME)
    received = sink.only()
    assert received.message["Subject"] == "Welcome to CloneSpotify"
    assert received.message["From"] == '"Clone, Spotify" <hello@xn--msica-7ua.example>'
    assert received.sender == "hello@xn--msica-7ua.example"
    assert received.message["Message-ID"] == f"<welcome.{envelope.id}@xn--msica-7ua.example>"


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"SMTP_TLS": "startls"}, "SMTP_TLS=startls (environment): not one of off, starttls, tls. Did you mean starttls?"),
        ({"MAIL_LANGUAGE": "fr"}, "MAIL_LANGUAGE=fr (environment): not one of es, en."),
        ({"SMTP_USER": "ana"}, "SMTP_USER is set and SMTP_PASS is not: a login needs both"),
        ({"SMTP_PASS": "hunter2"}, "SMTP_PASS is set and SMTP_USER is not: a login needs both"),
        (
            {"SMTP_USER": "ana", "SMTP_PASS": "hunter2", "SMTP_HOST": "smtp.example.com"},
            "SMTP_TLS=off would send SMTP_PASS readable to smtp.example.com: set SMTP_TLS to starttls or tls",
        ),
        ({"SMTP_PROT": "25"}, "SMTP_PROT (environment) is not a setting. Did you mean SMTP_PORT?"),
        ({"MAIL_FROM": "a@b.example, c@d.example"}, "MAIL_FROM=a@b.example, c@d.example (environment): expected one address"),
        ({"MAIL_FROM": "a@b.example\r\nBcc: x@y.example"}, "expected one address"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_clear_line(environ: dict[str, str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(Settings, environ=environ, folder=tmp_path)
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]
    assert "hunter2" not in str(caught.value)


# --- as a process -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mailing_process(folder: Path, **environ: str) -> Generator[subprocess.Popen[str]]:
    usual = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "mailing"],
        cwd=folder,
        env=usual | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} never appeared in:\n{''.join(lines)}")


def test_it_starts_without_settings_and_without_a_broker_and_drains_on_sigterm(tmp_path: Path) -> None:
    # Its own port, since somebody may be running the system beside these tests.
    port = str(choose_port())
    with mailing_process(tmp_path, MAILING_HEALTH_PORT=port, REDIS_PORT="1") as process:
        lines = lines_until(process, f"health http://127.0.0.1:{port}")
        assert len(lines) <= 5, lines
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[0]
        assert process.returncode == 0, rest
    assert (tmp_path / ".cauce" / "data" / "mailing.sqlite").is_file()


CHANNEL = "com.clonespotify.accounts.users.integration.user-updated"
PACKET = (
    f'{{"pattern":"{CHANNEL}","data":{{"service":"accounts-ms","name":"{CHANNEL}","payload":{{"id":"1",'
    '"username":"john_doe","email":"john.doe@example.com"},"id":"r8ScC5wB5NHPWv6wHTLZ59",'
    '"occurredOn":"2024-02-12T12:00:00.000Z"}}'
)


def publish_as_the_article_does(url: str) -> None:
    client: Any = Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]  # its stubs are loose
    with client:
        assert client.publish(CHANNEL, PACKET) == 1


def test_over_the_article_s_broker_to_a_real_mail_server(
    tmp_path: Path, valkey: ValkeyServer, mail_sink: MailSinkServer
) -> None:
    environ = {
        "EVENTS_TRANSPORT": "redis-pubsub",
        "REDIS_URL": valkey.url,
        "SMTP_HOST": mail_sink.host,
        "SMTP_PORT": str(mail_sink.smtp_port),
        "MAILING_HEALTH_PORT": str(choose_port()),
    }
    with mailing_process(tmp_path, **environ) as process:
        lines_until(process, "is ready")
        publish_as_the_article_does(valkey.url)
        lines_until(process, "Welcome mail sent to user 1")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
    (mail,) = mail_sink.mails()
    assert "r8ScC5wB5NHPWv6wHTLZ59" in str(mail)


async def test_without_a_durable_broker_a_killed_mail_leaves_its_record_and_is_never_sent_a_second_time(
    tmp_path: Path, valkey: ValkeyServer, sink: Sink
) -> None:
    travelling = sink.never_answer()
    environ = {
        "EVENTS_TRANSPORT": "redis-pubsub",
        "REDIS_URL": valkey.url,
        "SMTP_PORT": str(sink.port),
        "MAILING_HEALTH_PORT": str(choose_port()),
    }
    with mailing_process(tmp_path, **environ) as process:
        await asyncio.to_thread(lines_until, process, "is ready")
        publish_as_the_article_does(valkey.url)
        async with asyncio.timeout(10):
            await travelling.wait()
        process.kill()
    url = f"sqlite+aiosqlite:///{tmp_path}/.cauce/data/mailing.sqlite"
    assert [(row["state"], row["ended_at"]) for row in await rows(url)] == [(None, None)]

    sink.on_data = None
    with mailing_process(tmp_path, **environ) as process:
        await asyncio.to_thread(lines_until, process, "is ready")
        publish_as_the_article_does(valkey.url)
        await asyncio.to_thread(lines_until, process, "has been dealt with before")
    assert len(sink.received) == 1
    assert [row["state"] for row in await rows(url)] == [None]


def test_wrong_settings_stop_the_start_with_all_of_them_and_exit_code_2(tmp_path: Path) -> None:
    with mailing_process(tmp_path, SMTP_PORT="99999", MAIL_LANG="es") as process:
        output = process.communicate(timeout=20)[0]
        assert process.returncode == 2
    assert output.startswith("mailing-ms: 2 problems in the configuration:")
