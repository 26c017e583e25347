"""Five hundred hostile names and addresses against a real SMTP server: refused, or one mail to one recipient."""

import itertools
from datetime import UTC, datetime
from email.headerregistry import Address
from typing import Final

from mailing.application import WelcomeMail
from mailing.domain import MailNotSentError, MessageId, NewUser
from mailing.infrastructure.smtp import SmtpMailer
from mailing.infrastructure.templates import Templates

from .conftest import Received, Sink

LINE_ENDS: Final = ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
CONTROLS: Final = [*LINE_ENDS, "\x00", "\t", "\x08", "\x1b[31m", "\x7f", "\ud800"]

GOOD: Final = [
    "john.doe@example.com",
    "JOHN@EXAMPLE.COM",
    "o'brien+tag@sub.example.org",
    "ñandú@exämple.es",
    "用户@例え.jp",
    "ana%victim@evil.example",
    "x" * 65 + "@example.com",
    "!#$%&'*+/=?^_`{|}~-@example.com",
]
VICTIM: Final = "victim@evil.example"
BAD: Final = [
    "",
    " ",
    "@",
    "nobody",
    "@example.com",
    "ana@",
    "ana@@example.com",
    "ana@example..com",
    ".ana@example.com",
    "ana@-example.com",
    "ana@example.com.",
    "ana@[127.0.0.1]",
    "ana@localhost",
    "ana@" + "x" * 64 + ".com",
    "ana@" + "x." * 130 + "com",
    *(
        template.format(VICTIM)
        for template in [
            "ana@example.com,{}",
            "ana@example.com, {}",
            "ana@example.com;{}",
            "ana@example.com {}",
            "ana@example.com:{}",
            "ana@example.com|{}@x",
            "Ana <{}>",
            "<{}>",
            "<ana@example.com> {}",
            "<ana@example.com>,<{}>",
            '"ana@example.com, {}"@example.com',
            '"ana"@example.com,{}',
            '"{}"@example.com',
            "ana@example.com(,{})",
            "(comment){}",
            "ana(comment)@example.com,{}",
            "group:ana@example.com,{};",
            "@relay.example:{}",
            "relay.example!{}@x",
            "ana\\,{}",
            "ana@example.com\\,{}",
            "=?utf-8?q?ana=40example.com=2C_{}?=",
            "ana@example.com?bcc={}",
            "mailto:{}?cc=x@y.example",
            "ana@exam\uff0cple.com\uff0c{}",
            "ana\uff20{}",
            "ana@example.com\uff1b{}",
            "ana@example.com\u3002{}",
            "ana@example.com\u2024,{}",
            "ana@example.com\u00a0{}",
            "ana@example.com\u200b,{}",
            "\u202e{}",
            "ana@xn--0.example,{}",
        ]
    ),
    *(
        template.format(control, VICTIM)
        for control in CONTROLS
        for template in [
            "ana@example.com{0}Bcc: {1}",
            "ana@example.com{0},{1}",
            "{0}ana@example.com",
            "ana@example.com{0}",
            "ana{0}@example.com",
            "ana@{0}example.com",
            "ana@example.com>{0}RCPT TO:<{1}",
            "ana@example.com{0}{0}.{0}MAIL FROM:<{1}>",
        ]
    ),
]
GOOD_NAMES: Final = [
    "john_doe",
    "",
    "José Núñez",
    "名前",
    "👩‍👩‍👧",
    "Ana, Bob; Carol <" + VICTIM + ">",
    '"quoted" \\ \\" name',
    "=?utf-8?q?encoded?=",
    "{{ 7*7 }}{% include '/etc/hostname' %}",
    "<b>bold</b>&amp;",
    ".",
    "..",
    "From ana",
    "To: " + VICTIM,
    "x" * 5000,
    "\u202egnp.exe",
    "a\u0300" * 50,
]
BAD_NAMES: Final = [
    template.format(control)
    for control in CONTROLS
    for template in ["Ana{0}Bcc: " + VICTIM, "{0}", "Ana{0}.{0}MAIL FROM:<x@y.example>", "{0}{0}<b>body</b>"]
]

HOSTILE: Final = [
    *itertools.product(GOOD_NAMES, GOOD),
    *((name, address) for name in BAD_NAMES for address in GOOD[:2]),
    *(("john_doe", address) for address in BAD),
    *zip(itertools.cycle(GOOD_NAMES), BAD, strict=False),
]

NOW: Final = datetime(2026, 11, 24, 8, 5, 41, tzinfo=UTC)


class RecordsInMemory:
    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    async def begin(self, *, event_id: str, user_id: str, message_id: MessageId, at: datetime, again: bool) -> bool:
        if event_id in self.states:
            return again and self.states[event_id] != "sent"
        self.states[event_id] = "sending"
        return True

    async def sent(self, event_id: str, *, at: datetime) -> None:
        self.states[event_id] = "sent"

    async def failed(self, event_id: str, *, reason: str, at: datetime) -> None:
        self.states[event_id] = "failed"
        self.reasons[event_id] = reason


def check(received: Received, message_id: str) -> None:
    message = received.message
    assert len(received.recipients) == 1
    assert received.to == received.recipients
    assert VICTIM not in received.recipients
    assert received.sender == "no-reply@clonespotify.example"
    assert {name: str(value) for name, value in message.items() if name not in ("To", "Content-Type")} == {
        "From": "no-reply@clonespotify.example",
        "Subject": "Welcome to CloneSpotify",
        "Date": "Tue, 24 Nov 2026 08:05:41 +0000",
        "Message-ID": message_id,
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Language": "en",
    }
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]
    assert b"\n" not in received.content.replace(b"\r\n", b"")


async def test_hostile_names_and_addresses_are_refused_or_reach_exactly_one_recipient(sink: Sink) -> None:
    assert len(HOSTILE) >= 500
    records = RecordsInMemory()
    welcome = WelcomeMail(
        records=records,
        mailer=SmtpMailer(host="127.0.0.1", port=sink.port, sender=Address(addr_spec="no-reply@clonespotify.example")),
        render=Templates("en"),
        sender_domain="clonespotify.example",
        now=lambda: NOW,
        tried_again=True,
    )
    for number, (username, address) in enumerate(HOSTILE):
        user = NewUser(id=str(number), username=username, email=address)
        sink.received.clear()
        try:
            await welcome.send(user, event_id=f"e{number}")
            refusal = None
        except MailNotSentError as error:
            refusal = error.reason
        assert (refusal is not None) == (username in BAD_NAMES or address in BAD), (username, address, refusal)
        if refusal is None:
            check(sink.only(), f"<welcome.e{number}@clonespotify.example>")
            assert records.states[f"e{number}"] == "sent"
        else:
            assert sink.received == []
            assert records.states[f"e{number}"] == "failed"
            assert records.reasons[f"e{number}"] == refusal
            assert "@" not in refusal


async def test_control_characters_in_ids_are_refused_before_anything_is_written(sink: Sink) -> None:
    records = RecordsInMemory()
    welcome = WelcomeMail(
        records=records,
        mailer=SmtpMailer(host="127.0.0.1", port=sink.port, sender=Address(addr_spec="a@b.example")),
        render=Templates("es"),
        sender_domain="b.example",
        now=lambda: NOW,
        tried_again=True,
    )
    for control in CONTROLS:
        for event_id, user_id in ((f"e{control}x", "1"), ("e", f"1{control}")):
            user = NewUser(id=user_id, username="ana", email="ana@example.com")
            try:
                await welcome.send(user, event_id=event_id)
            except MailNotSentError:
                continue
            raise AssertionError(f"{control!r} was accepted")
    assert (records.states, sink.received) == ({}, [])
