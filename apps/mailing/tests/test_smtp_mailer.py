"""Sending over SMTP: to servers that work, that refuse, that hang, and that are not who they say they are."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.headerregistry import Address
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import Envelope
from mailing.domain import Mail, MailNotSentError, MailRefusedError, MessageId, Welcome
from mailing.infrastructure.patience import Limits, Patience
from mailing.infrastructure.smtp import SmtpMailer
from testsupport.long_form import PROVE

from .conftest import OpenSink, Sink, only_ana

SENDER = Address(display_name="CloneSpotify", addr_spec="no-reply@clonespotify.example")
WELCOME = Welcome(language="es", subject="Te damos la bienvenida", text="¡Hola!\n.\nAdiós\n", html="<p>¡Hola!</p>\n")


HELLO = (b"220 hi\r\n", b"250 hi\r\n", b"250 sender\r\n", b"250 recipient\r\n")


def mail_to(recipient: str = "john.doe@example.com") -> Mail:
    return Mail(
        recipient=recipient,
        message_id=MessageId("<welcome.1@clonespotify.example>"),
        date=datetime(2026, 11, 24, 8, 5, 41, tzinfo=UTC),
        content=WELCOME,
    )


def mailer_for(sink: Sink, **options: Any) -> SmtpMailer:
    return SmtpMailer(host=sink.host, port=sink.port, sender=SENDER, **options)


async def reason_from(mailer: SmtpMailer, mail: Mail | None = None) -> str:
    with pytest.raises(MailNotSentError) as caught:
        await mailer.send(mail or mail_to())
    assert "@" not in caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value.reason


async def test_the_server_gets_one_mail_for_one_recipient_in_plain_ascii_with_crlf_only(sink: Sink) -> None:
    await mailer_for(sink).send(mail_to())

    received = sink.only()
    assert (received.sender, received.recipients) == (
        "no-reply@clonespotify.example",
        ["john.doe@example.com"],
    )
    assert received.content.isascii()
    assert received.content.replace(b"\r\n", b"").count(b"\n") == 0
    assert received.content.replace(b"\r\n", b"").count(b"\r") == 0
    assert {name: str(value) for name, value in received.message.items() if name != "Content-Type"} == {
        "From": "CloneSpotify <no-reply@clonespotify.example>",
        "To": "john.doe@example.com",
        "Subject": "Te damos la bienvenida",
        "Date": "Tue, 24 Nov 2026 08:05:41 +0000",
        "Message-ID": "<welcome.1@clonespotify.example>",
        "Auto-Submitted": "auto-generated",
        "Content-Language": "es",
        "MIME-Version": "1.0",
    }
    assert received.part("plain") == "¡Hola!\n.\nAdiós\n"
    assert received.part("html") == "<p>¡Hola!</p>\n"


async def test_an_address_beyond_ascii_goes_to_a_server_that_takes_it(sink: Sink, open_sink: OpenSink) -> None:
    await mailer_for(sink).send(mail_to("ñandú@xn--exmple-cua.es"))
    assert sink.only().recipients == ["ñandú@xn--exmple-cua.es"]

    old = await open_sink(enable_SMTPUTF8=False)
    assert "no SMTPUTF8" in await reason_from(mailer_for(old), mail_to("ñandú@xn--exmple-cua.es"))
    assert old.received == []


# --- servers that fail --------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    mailer = SmtpMailer(host="127.0.0.1", port=1, sender=SENDER)
    assert await reason_from(mailer) == (
        "the mail server 127.0.0.1:1 cannot be reached (see SMTP_HOST, SMTP_PORT): connection refused"
    )
    mailer = SmtpMailer(host="smtp.nowhere.invalid", port=25, sender=SENDER, limits=Limits(opening_s=5))
    assert (await reason_from(mailer)).startswith("the mail server smtp.nowhere.invalid:25 ")


@pytest.mark.parametrize(
    "repeated", ["<john.doe@example.com>", "john.doe@example.com", "John.Doe", "'john.doe'", "john.doe=example.com"]
)
async def test_the_server_refuses_the_recipient_and_repeats_the_address(sink: Sink, repeated: str) -> None:
    async def refuse(envelope: Envelope) -> str:
        return f"550 5.1.1 {repeated}: no such user"

    sink.on_rcpt = refuse
    reason = await reason_from(mailer_for(sink))
    assert reason.startswith(f"the mail server localhost:{sink.port} refused the recipient: 550 5.1.1 ")
    assert reason.endswith(" no such user")
    assert "(address)" in reason
    assert "doe" not in reason.casefold()


@pytest.mark.parametrize(
    ("answer", "code", "for_good"),
    [
        ("550 5.1.1 no such user", 550, True),
        ("551 not here", 551, True),
        ("450 4.2.1 greylisted", 450, False),
        ("421 4.3.2 closing", 421, False),
    ],
)
@pytest.mark.parametrize("at", ["on_rcpt", "on_data"])
async def test_a_refusal_of_recipient_or_mail_has_its_code(
    sink: Sink, at: str, answer: str, code: int, for_good: bool
) -> None:
    async def refuse(envelope: Envelope) -> str:
        return answer

    setattr(sink, at, refuse)
    with pytest.raises(MailRefusedError) as caught:
        await mailer_for(sink).send(mail_to())
    assert (caught.value.code, caught.value.for_good) == (code, for_good)


@pytest.mark.parametrize(
    "answers", [(*HELLO[:2], b"550 not you\r\n"), (*HELLO[:3], b"530 5.7.0 log in first\r\n"), (b"554 no\r\n",)]
)
async def test_what_our_own_setting_may_mend_is_no_refusal_of_the_recipient(answers: tuple[bytes, ...]) -> None:
    async with raw_server(*answers, b"") as server:
        with pytest.raises(MailNotSentError) as caught:
            await mailer_for(server).send(mail_to())
    assert not isinstance(caught.value, MailRefusedError)


async def test_the_server_refuses_the_mail(sink: Sink) -> None:
    async def refuse(envelope: Envelope) -> str:
        return "554 5.7.1 looks like spam"

    sink.on_data = refuse
    assert await reason_from(mailer_for(sink)) == (
        f"the mail server localhost:{sink.port} refused the mail: 554 5.7.1 looks like spam"
    )


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncGenerator[Sink]:
    """Says `answers`, the first at once, each other after hearing something; b'' means: from now on, nothing.

    After the last answer it closes the connection.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for answer in answers:
                if not answer:
                    await reader.read()  # until the other side gives up
                    break
                writer.write(answer)
                await reader.read(65536)
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield Sink(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def test_the_server_accepts_the_connection_and_says_nothing() -> None:
    async with raw_server(b"") as silent:
        reason = await reason_from(mailer_for(silent, limits=Limits(opening_s=0.2)))
        assert reason == f"the mail server 127.0.0.1:{silent.port} did not answer in time"


async def test_the_server_answers_a_little_for_ever() -> None:
    async with raw_server(b"220 hi\r\n", b"250-one\r\n", b"") as slow:
        reason = await reason_from(mailer_for(slow, limits=Limits(opening_s=0.3)))
        assert reason == f"the mail server 127.0.0.1:{slow.port} did not answer in time"


async def test_the_server_closes_while_talking() -> None:
    async with raw_server(*HELLO[:2]) as rude:
        assert await reason_from(mailer_for(rude)) == (f"the mail server 127.0.0.1:{rude.port} closed the connection")


@pytest.mark.parametrize(
    ("said", "phase"),
    [
        (HELLO[:0], "opening_s"),
        (HELLO[:1], "opening_s"),
        (HELLO[:2], "mail_s"),
        (HELLO[:3], "recipient_s"),
        (HELLO, "data_s"),
        ((*HELLO, b"354 go on\r\n"), "taken_s"),
    ],
)
async def test_each_phase_has_a_limit_of_its_own(said: tuple[bytes, ...], phase: str) -> None:
    other = dict.fromkeys(("opening_s", "mail_s", "recipient_s", "data_s", "taken_s"), 60.0)
    async with raw_server(*said, b"") as silent:
        reason = await reason_from(mailer_for(silent, limits=Limits(**{**other, "block_s": 0.0, phase: 0.2})))
    assert "did not answer in time" in reason
    assert ("it may have taken the mail" in reason) == (phase == "taken_s")


def test_the_limits_are_at_least_those_of_rfc_5321() -> None:
    limits = Limits()
    assert (limits.opening_s, limits.mail_s, limits.recipient_s) == (300, 300, 300)
    assert (limits.data_s, limits.block_s, limits.taken_s) == (120, 180, 600)
    assert limits.total_s == 1800


async def test_a_server_that_answers_late_has_one_mail_and_is_waited_for(sink: Sink) -> None:
    """Later than it may be late with anything but the answer to the whole mail."""

    async def late(_: Envelope) -> None:
        await asyncio.sleep(20 if PROVE else 1)

    sink.on_data = late
    short = 10 if PROVE else 0.5
    limits = Limits(opening_s=short, mail_s=short, recipient_s=short, data_s=short, block_s=short, taken_s=600)
    await mailer_for(sink, limits=limits).send(mail_to())
    sink.only()


# --- slow servers -------------------------------------------------------------------------------------------


async def slow_now(mailer: SmtpMailer, conversations: int) -> None:
    while len(mailer.patience.slow) < conversations:  # noqa: ASYNC110  # product code has no event for it
        await asyncio.sleep(0.01)


async def test_of_many_slow_conversations_some_are_waited_for_and_the_others_are_tried_again_later(sink: Sink) -> None:
    released, waiting = asyncio.Event(), asyncio.Semaphore(0)

    async def slow_for_some(envelope: Envelope) -> None:
        if envelope.rcpt_tos[0].startswith("slow"):
            waiting.release()
            await released.wait()

    sink.on_rcpt = slow_for_some
    mailer = mailer_for(sink, patience=Patience(places=2, slow_after_s=0.2))
    async with asyncio.TaskGroup() as tasks:
        patient = [tasks.create_task(mailer.send(mail_to(f"slow{number}@example.com"))) for number in range(2)]
        for _ in patient:
            await waiting.acquire()
        await slow_now(mailer, 2)
        with pytest.raises(MailRefusedError) as caught:
            await mailer.send(mail_to("slow2@example.com"))
        await mailer.send(mail_to("quick@example.com"))
        assert [one.recipients for one in sink.received] == [["quick@example.com"]]
        released.set()
    assert "given up before it was handed over" in caught.value.reason
    assert (caught.value.code, caught.value.for_good) == (None, False)
    assert len(sink.received) == 3


async def test_a_mail_that_was_handed_over_is_waited_for_in_any_case(sink: Sink) -> None:
    released, taken = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(_: Envelope) -> None:
        taken.release()
        await released.wait()

    sink.on_data = slow
    mailer = mailer_for(sink, patience=Patience(places=1, slow_after_s=0.05))
    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(mailer.send(mail_to(f"user{number}@example.com")))
        for _ in range(3):
            await taken.acquire()
        await slow_now(mailer, 3)
        released.set()
    assert len(sink.received) == 3
    assert not mailer.patience.slow


async def test_a_connection_lost_after_the_last_dot_leaves_it_open_who_has_the_mail() -> None:
    async with raw_server(*HELLO, b"354 go on\r\n") as dropping:
        assert await reason_from(mailer_for(dropping)) == (
            f"the mail server 127.0.0.1:{dropping.port} closed the connection; it may have taken the mail"
        )
    async with raw_server(*HELLO, b"354 go on\r\n", b"") as hanging:
        assert await reason_from(mailer_for(hanging, limits=Limits(block_s=0.1, taken_s=0.1))) == (
            f"the mail server 127.0.0.1:{hanging.port} did not answer in time; it may have taken the mail"
        )


async def test_a_server_that_drops_dead_after_its_250_has_taken_the_mail() -> None:
    async with raw_server(*HELLO, b"354 go on\r\n", b"250 taken\r\n") as dying:
        await mailer_for(dying).send(mail_to())


async def test_something_that_is_no_mail_server() -> None:
    async with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"") as web:
        assert (await reason_from(mailer_for(web, limits=Limits(opening_s=1)))).startswith("the mail server 127.0.0.1:")


async def test_hostile_words_of_a_server_stay_on_one_short_line() -> None:
    async with raw_server(b"220 hi\r\n", b"554 no \x1b[31m\tred\x07 " + b"x" * 300 + b"\r\n") as hostile:
        reason = await reason_from(mailer_for(hostile))
        assert reason.isprintable()
        assert len(reason) < 300


# --- who the server is --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # untyped OpenSSL
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # untyped OpenSSL
    return context


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_a_certificate_nobody_trusts_is_refused_before_the_mail_or_the_password(
    tls: str, authority: trustme.CA, open_sink: OpenSink
) -> None:
    context = server_context(authority)
    sink = await open_sink(**({"tls": context} if tls == "tls" else {"tls_context": context}))
    reason = await reason_from(mailer_for(sink, tls=tls, user="ana", password="hunter2"))
    assert reason == (
        f"the mail server localhost:{sink.port} has no valid certificate: unable to get local issuer certificate"
    )
    assert sink.received == []


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_a_certificate_for_another_name_is_refused(tls: str, authority: trustme.CA, open_sink: OpenSink) -> None:
    context = server_context(authority, "mail.elsewhere.example")
    sink = await open_sink(**({"tls": context} if tls == "tls" else {"tls_context": context}))
    reason = await reason_from(mailer_for(sink, tls=tls, tls_context=trusting(authority)))
    assert "has no valid certificate: Hostname mismatch" in reason
    assert sink.received == []


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_over_verified_tls_it_logs_in_and_sends(tls: str, authority: trustme.CA, open_sink: OpenSink) -> None:
    context = server_context(authority)
    how = {"tls": context, "auth_require_tls": False} if tls == "tls" else {"tls_context": context}
    sink = await open_sink(**how, authenticator=only_ana, auth_required=True)
    mailer = mailer_for(sink, tls=tls, tls_context=trusting(authority), user="ana", password="hunter2")
    await mailer.send(mail_to())
    assert sink.only().over_tls
    assert sink.only().user == b"ana"


async def test_the_machines_own_authorities_can_be_extended_by_ssl_cert_file(
    authority: trustme.CA, open_sink: OpenSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    sink = await open_sink(tls=server_context(authority))
    await mailer_for(sink, tls="tls").send(mail_to())
    assert sink.only().over_tls


async def test_a_server_without_starttls_gets_nothing(sink: Sink) -> None:
    reason = await reason_from(mailer_for(sink, tls="starttls", user="ana", password="hunter2"))
    assert "STARTTLS" in reason
    assert sink.received == []


async def test_tls_to_a_server_that_speaks_none(sink: Sink) -> None:
    assert "does not speak TLS as expected (see SMTP_TLS)" in await reason_from(mailer_for(sink, tls="tls"))


async def test_a_wrong_password_is_told_without_the_password(authority: trustme.CA, open_sink: OpenSink) -> None:
    sink = await open_sink(
        tls=server_context(authority), authenticator=only_ana, auth_required=True, auth_require_tls=False
    )
    reason = await reason_from(
        mailer_for(sink, tls="tls", tls_context=trusting(authority), user="ana", password="hunter3")
    )
    assert "refused the login (see SMTP_USER, SMTP_PASS): 535" in reason
    assert "hunter3" not in reason
