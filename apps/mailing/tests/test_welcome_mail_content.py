"""What the welcome mail says, in both languages, and what a name cannot do to it."""

import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import Address
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mailing.domain import (
    Language,
    Mail,
    MailNotSentError,
    MessageId,
    has_control_characters,
    message_id_of,
    name_for_greeting,
    one_recipient,
)
from mailing.infrastructure.composing import message_bytes
from mailing.infrastructure.templates import Templates

SPANISH_TEMPLATES = Templates("es")
SPANISH = """\
¡Hola, john_doe!

Tu cuenta de CloneSpotify está lista, y con ella tu catálogo de música.
Ahora está vacío: llénalo a tu gusto.

  1. Crea tu primera lista y añádele las canciones que quieras.
  2. Hazla pública y cualquiera podrá encontrarla; si es privada, no sale
     en el catálogo público.
  3. Guarda tus favoritos: canciones, artistas y álbumes.

Que suene bien.
El equipo de CloneSpotify

--
Recibes este mensaje porque alguien creó una cuenta con esta dirección de
correo. Si no has sido tú, no tienes que hacer nada. Es un mensaje
automático: nadie lee las respuestas."""

ENGLISH = """\
Hello, john_doe!

Your CloneSpotify account is ready, and so is your music catalog.
It is empty for now: fill it as you like.

  1. Create your first playlist and add the songs you want.
  2. Make it public and anybody can find it; while it is private, the
     public catalog does not show it.
  3. Keep your favorites: songs, artists and albums.

Enjoy the music.
The CloneSpotify team

--
You receive this message because somebody created an account with this
e-mail address. If it was not you, there is nothing you need to do. This
is an automatic message: nobody reads the replies."""


class _Text(HTMLParser):
    """The words a reader of the HTML sees, and the tags around them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words = ""
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize(
    ("language", "subject", "text"),
    [
        ("es", "Te damos la bienvenida a CloneSpotify", SPANISH),
        ("en", "Welcome to CloneSpotify", ENGLISH),
    ],
)
def test_the_mail_speaks_one_language_the_same_in_text_and_html(language: Language, subject: str, text: str) -> None:
    welcome = Templates(language)("john_doe")

    assert (welcome.language, welcome.subject) == (language, subject)
    assert welcome.text == text
    assert f'<html lang="{language}">' in welcome.html
    assert f"<title>{subject}</title>" in welcome.html
    page = _Text(welcome.html)
    assert page.open == []
    shown = " ".join(page.words.split())
    for sentence in re.split(r"(?<=[.!]) | -- ", " ".join(text.split())):
        words = re.sub(r"^\d\.$|^-- ", "", sentence)
        assert words in shown, words


@pytest.mark.parametrize("language", ["es", "en"])
def test_nothing_in_the_html_is_fetched_from_anywhere(language: Language) -> None:
    html = Templates(language)("john_doe").html
    assert not re.search(r"https?:|src=|href=|url\(|<script|<img", html, re.IGNORECASE)


def test_a_name_is_escaped_in_html_and_left_as_it_is_in_text() -> None:
    name = """<script>alert("x")</script> & 'co' {{ 7*7 }} {% raw %}"""
    welcome = Templates("en")(name)
    assert f"Hello, {name}!" in welcome.text
    assert "<script" not in welcome.html
    assert "script" not in _Text(welcome.html).tags
    assert f"Hello, {name}!" in _Text(welcome.html).words


@pytest.mark.parametrize("name", ["", "  "])
def test_without_a_name_the_greeting_has_none(name: str) -> None:
    assert Templates("es")(name_for_greeting(name)).text.startswith("¡Hola!\n")
    assert "<h1" in Templates("en")(name_for_greeting(name)).html
    assert ">Hello!</h1>" in Templates("en")(name_for_greeting(name)).html


@pytest.mark.parametrize(
    ("username", "greeted"),
    [
        ("john_doe", "john_doe"),
        (" José Núñez ", "José Núñez"),
        ("👩‍👩‍👧 مرحبا", "👩‍👩‍👧 مرحبا"),
        ("J. R. R. O’Neill-Núñez", "J. R. R. O’Neill-Núñez"),
        ("Dr. Ana", "Dr. Ana"),
        ("J.R.R. Tolkien", "J.R.R. Tolkien"),
        ("Win money at https://evil.example", ""),
        ("WWW.evil.example", ""),
        ("evil.example", ""),
        ("your prize: evil.co", ""),
        ("evil．example", ""),
        ("evil。example", ""),
        ("evil｡example", ""),
        ("evil\u2024example", ""),
        ("ｗｗｗ．ｅｖｉｌ．ｅｘａｍｐｌｅ", ""),
        ("evil.рф", ""),
        ("evil.xn--p1ai", ""),
        ("evil.भारत", ""),
        ("evil.বাংলা", ""),
        ("evil.இந்தியா", ""),
        ("evil.e\u200dxample", ""),
        ("evil\u200d.example", ""),
        ("evil\u0332.example", ""),
        ("💩.la", ""),
        ("i❤.ws", ""),
        ("Call 0900 123 456", ""),
        ("ring ٠٩٠٠١٢٣", ""),
        ("ana_1999", "ana_1999"),
        ("भारती शर्मा", "भारती शर्मा"),
        ("Dr.-Ing. Müller", "Dr.-Ing. Müller"),
        ("127.0.0.1", ""),
        ("ana@evil.example", ""),
        ("evil/example", ""),
        ("tel:555", ""),
        ("Free money!", ""),
        ("your account will be closed", ""),
        ("x" * 41, ""),
        ("moc.elpmaxe\u202e", ""),
        ("\u3164", ""),
        ("Ana\u2800", ""),
        ("\u0301", ""),
        ("\u200d", ""),
        ("...", ""),
    ],
)
def test_a_name_that_would_advertise_something_is_not_repeated(username: str, greeted: str) -> None:
    assert name_for_greeting(username) == greeted


# --- the Message-ID -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event_id", "expected"),
    [
        (
            "0190a5c4-7b1e-7cc3-9a55-2f1f3f3c9b10",
            "<welcome.0190a5c4-7b1e-7cc3-9a55-2f1f3f3c9b10@clonespotify.example>",
        ),
        ("r8ScC5wB5NHPWv6wHTLZ59", "<welcome.r8ScC5wB5NHPWv6wHTLZ59@clonespotify.example>"),
        (
            "<evil>@x\r\nBcc: all@example.com",
            "<welcome.sha256.e30e46d6b0c6e6f85c1fd6af2ad2a9cd66d16c6ab6ee9bd4e2c0f9b7c0a4a8c6@clonespotify.example>",
        ),
    ],
)
def test_the_message_id_comes_from_the_event_id(event_id: str, expected: str) -> None:
    made = message_id_of(event_id, "clonespotify.example")
    assert made == message_id_of(event_id, "clonespotify.example")
    if "sha256" in expected:
        assert re.fullmatch(r"<welcome\.sha256\.[0-9a-f]{64}@clonespotify\.example>", made)
    else:
        assert made == expected


@given(st.text(min_size=1, max_size=128), st.text(min_size=1, max_size=128))
def test_different_events_have_different_message_ids_safe_in_a_header(one: str, other: str) -> None:
    first, second = (message_id_of(event_id, "clonespotify.example") for event_id in (one, other))
    assert (first == second) == (one == other)
    assert re.fullmatch(r"<[A-Za-z0-9_.-]+@clonespotify\.example>", first)


def test_no_event_can_take_the_message_id_of_another_by_naming_its_digest() -> None:
    hostile = "<evil>"
    digest = message_id_of(hostile, "x.example").removeprefix("<welcome.").partition("@")[0]
    assert message_id_of(digest, "x.example") != message_id_of(hostile, "x.example")


# --- whatever the name and the address, the same headers ------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    username=st.text(max_size=80).filter(lambda text: not has_control_characters(text)),
    local=st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~.ñé漢", min_size=1, max_size=64),
    domain=st.sampled_from(["example.com", "exämple.es", "a.b.c.example.org", "x" * 60 + ".example"]),
)
def test_an_accepted_address_is_the_only_one_in_the_headers(username: str, local: str, domain: str) -> None:
    try:
        recipient = one_recipient(f"{local}@{domain}")
    except MailNotSentError:
        return
    raw = message_bytes(
        Mail(
            recipient=recipient,
            message_id=MessageId("<welcome.1@clonespotify.example>"),
            date=datetime(2026, 11, 24, tzinfo=UTC),
            content=SPANISH_TEMPLATES(name_for_greeting(username)),
        ),
        Address(addr_spec="no-reply@clonespotify.example"),
    )
    message = message_from_bytes(raw, policy=policy.default)
    (to,) = message["To"].addresses
    assert to.addr_spec.encode("ascii", "surrogateescape").decode() == recipient
    assert [name for name, _ in message.items()] == [
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
        "Content-Language",
    ]  # fmt: skip
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
