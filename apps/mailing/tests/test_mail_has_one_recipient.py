"""Five hundred hostile names and addresses against a real SMTP server: refused, or one mail to one recipient."""

import itertools
from base64 import b64encode
from datetime import UTC, datetime
from email.headerregistry import Address
from random import Random
from typing import Final

import pytest
from mailing.application import Found, WelcomeMail
from mailing.domain import Mail, MailImpossibleError, MessageId, NewUser, Outcome
from mailing.infrastructure.smtp import SmtpMailer
from mailing.infrastructure.templates import Templates
from testsupport.long_form import PROVE

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
    "!#$%&'*+/=?^_`{|}~-@example.com",
]
VICTIM: Final = "victim@evil.example"
BAD: Final = [
    "",
    " ",
    "@",
    "nobody",
    "x" * 65 + "@example.com",
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
    """No bound, so that one address may be written to often."""

    def __init__(self) -> None:
        self.states: dict[str, Outcome | None] = {}
        self.reasons: dict[str, str | None] = {}

    async def ask(
        self, *, event_id: str, user_id: str, message_id: MessageId, recipient: str | None, at: datetime
    ) -> Found:
        if event_id in self.states:
            return "settled" if self.states[event_id] else "open"
        self.states[event_id] = None
        return "new"

    async def unanswered(self, event_id: str) -> int:
        return 1

    async def ended(
        self, event_id: str, outcome: Outcome, *, code: int | None = None, reason: str | None = None, at: datetime
    ) -> None:
        self.states[event_id], self.reasons[event_id] = outcome, reason


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


def welcome_over(sink: Sink, records: RecordsInMemory) -> WelcomeMail:
    sender = Address(addr_spec="no-reply@clonespotify.example")
    return WelcomeMail(
        records=records,
        mailer=SmtpMailer(host="127.0.0.1", port=sink.port, sender=sender),
        render=Templates("en"),
        sender_domain="clonespotify.example",
        now=lambda: NOW,
        tried_again=True,
    )


async def test_hostile_names_and_addresses_are_refused_or_reach_exactly_one_recipient(sink: Sink) -> None:
    assert len(HOSTILE) >= 500
    records = RecordsInMemory()
    welcome = welcome_over(sink, records)
    for number, (username, address) in enumerate(HOSTILE):
        user = NewUser(id=str(number), username=username, email=address)
        sink.received.clear()
        await welcome.send(user, event_id=f"e{number}")
        refused = username in BAD_NAMES or address in BAD
        assert records.states[f"e{number}"] == ("refused" if refused else "sent"), (username, address)
        if refused:
            assert sink.received == []
            assert "@" not in str(records.reasons[f"e{number}"])
        else:
            check(sink.only(), f"<welcome.e{number}@clonespotify.example>")


PIECES: Final = [
    "=?", "?=", "?q?", "?b?", "?Q?", "utf-8", "us-ascii", "=0d=0a", "=0D=0A", "=00", "=40", "=2c", "=3a", "_", "Bcc", "To",
    "DQpCY2M6", "a", "b.c", "ana", "victim", "evil", "x.example", "ours.example", "@", "@", ".", "+", "=", "?", "!", "%",
    "&", "#", "{", "}", "|", "~", "^", "`", "'", '"', "\\", ",", ";", ":", "<", ">", "(", ")", "[", "]", " ", "\t", "\r\n",
    "\n", "\r", "\x00", "\x85", "\u2028", "\u200b", "\u202e", "\uff20", "\uff0c", "\u3002", "\ud800", "ñ", "漢", "👧", "xn--",
]  # fmt: skip


PLAIN: Final = [piece for piece in PIECES if piece.isascii() and not set(piece) & set('@"\\,;:<>()[] \t\r\n\0')]
"""What may be in an address."""


def generated(random: Random, *, addresses: int) -> list[tuple[str, str]]:
    """Names and addresses out of what is dangerous in one; every other address has the form of one, half of those as an
    encoded word."""
    made: list[tuple[str, str]] = []
    for number in range(addresses):
        name, local, domain = (
            "".join(random.choices(random.choice((PIECES, PLAIN)), k=random.randint(1, 8))) for _ in range(3)
        )
        if number % 4 == 1:
            local = f"=?utf-8?{random.choice('qb')}?{local}?="
        made.append((name, f"{local}@ours.example" if number % 2 else f"{local}@{domain}"))
    return made


async def test_generated_names_and_addresses_are_refused_or_reach_exactly_one_recipient(sink: Sink) -> None:
    records = RecordsInMemory()
    welcome, reached = welcome_over(sink, records), 0
    for number, (username, address) in enumerate(generated(Random(10), addresses=2_000 if PROVE else 400)):
        sink.received.clear()
        await welcome.send(NewUser(id=str(number), username=username, email=address), event_id=f"e{number}")
        if records.states[f"e{number}"] == "refused":
            assert sink.received == [], (username, address)
        else:
            check(sink.only(), f"<welcome.e{number}@clonespotify.example>")
            assert sink.only().recipients[0].partition("@")[0] == address.partition("@")[0]
            reached += 1
    assert reached > 10, "some of them are addresses"


@pytest.mark.parametrize("hidden", ["a=0d=0aBcc=3a_evil=40x.example", "a=40x.example=2c", "a=00", "ana"])
@pytest.mark.parametrize("charset", ["utf-8", "us-ascii", "iso-8859-1*es", "nosuch"])
async def test_an_encoded_word_in_an_address_is_refused(sink: Sink, hidden: str, charset: str) -> None:
    records = RecordsInMemory()
    for number, address in enumerate(
        (
            f"=?{charset}?q?{hidden}?=@ours.example",
            f"=?{charset}?Q?{hidden}?=@ours.example",
            f"x=?{charset}?q?{hidden}?=x@ours.example",
            f"=?{charset}?b?{b64encode(hidden.encode()).decode().rstrip('=')}?=@ours.example",
        )
    ):
        user = NewUser(id="1", username="ana", email=address)
        await welcome_over(sink, records).send(user, event_id=f"e{number}")
        assert records.states[f"e{number}"] == "refused"
        assert "@" not in str(records.reasons[f"e{number}"])
    assert sink.received == []


@pytest.mark.parametrize(
    "recipient",
    [
        "=?utf-8?q?a=0d=0aBcc=3a_evil=40x.example?=@ours.example",
        "=?utf-8?q?ana?=@ours.example",
        "a,b@ours.example",
        "a@ours.example, evil@x.example",
        '"a b"@ours.example',
        "(comment)a@ours.example",
        "a@[127.0.0.1",
        "<",
        "",
    ],
)
async def test_what_was_composed_for_another_than_the_recipient_is_not_sent(sink: Sink, recipient: str) -> None:
    """Also if the address was let through: the composed mail is read again."""
    mailer = SmtpMailer(host="127.0.0.1", port=sink.port, sender=Address(addr_spec="a@b.example"))
    mail = Mail(recipient=recipient, message_id=MessageId("<1@b.example>"), date=NOW, content=Templates("en")("ana"))
    with pytest.raises(MailImpossibleError) as caught:
        await mailer.send(mail)
    assert "@" not in caught.value.reason
    assert sink.received == []


async def test_control_characters_in_ids_are_refused_before_anything_is_written(sink: Sink) -> None:
    records = RecordsInMemory()
    welcome = welcome_over(sink, records)
    for control in CONTROLS:
        for event_id, user_id in ((f"e{control}x", "1"), ("e", f"1{control}")):
            user = NewUser(id=user_id, username="ana", email="ana@example.com")
            with pytest.raises(MailImpossibleError):
                await welcome.send(user, event_id=event_id)
    assert (records.states, sink.received) == ({}, [])
