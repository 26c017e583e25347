"""Generated names and addresses from HTTP to SMTP: accounts refuses them, or exactly one mail arrives, as it should be.

Everything is real: accounts' HTTP, the broker, a database for each service, mailing, a mail server. Each sign-up is made
from a seed of its own. One that failed is printed with it: `sign_up(SEED)` makes it again.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.headerregistry import AddressHeader
from html.parser import HTMLParser
from random import Random
from typing import Any, Final

import httpx
import idna
import pytest
from testsupport.long_form import PROVE
from testsupport.whole_system import LiveSystem, live_system

SIGN_UPS: Final = 2_000 if PROVE else 300
AT_A_TIME: Final = 500
"""Fewer than the mail sink keeps."""
VICTIM: Final = "victim@evil.example"

# --- what is signed up ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignUp:
    seed: int
    username: str
    email: str

    def __str__(self) -> str:
        return f"seed {self.seed}: username={self.username!r} email={self.email!r}"


LINE_ENDS: Final = (
    "\r\n",
    "\r",
    "\n",
    "\0",
    "\r\n ",
    "\r\n\t",
    "\n\n",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
)
DIRECTIONS: Final = ("\u202e", "\u202a", "\u2066", "\u2069", "\u200f", "\u061c")
UNSEEN: Final = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u3164", "\u2800", "\u180e", "\U000e0041")
LOOKALIKES: Final = ("а", "е", "о", "р", "ѕ", "і", "ａ", "＠", "，", "；", "．", "。", "․", "∕", "﹫", "ⅰ", "ſ", "K")
DANGEROUS: Final = (
    *LINE_ENDS, *DIRECTIONS, *UNSEEN, *LOOKALIKES, "@", ",", ";", ":", "<", ">", "(", ")", "[", "]", '"', "\\", " ", "\t",
    "%", "!", "=?", "?=", "=0d=0a", "..", ".", "+", "'", "`", "{{7*7}}", "${7*7}", "{%", "#{", "<b>", "&amp;", "\ud800",
    "\udfff", "Bcc: ", "To: ", f"\r\nBcc: {VICTIM}", f",{VICTIM}", f"\nRCPT TO:<{VICTIM}>", "\r\n.\r\n", "ñ", "漢", "👧", "xn--",
)  # fmt: skip
DOMAINS: Final = (
    "ours.example", "OURS.Example", "sub.ours.example", "mañana.example", "例え.example", "straße.example", "xn--maana-pta.example",
    "пример.example", "مثال.example", "ours.пример", "a-b.example", "1.example", "faß.example", "ﬁ.example", "Ⅷ.example",
    "e\u0301a.example", f"{'x' * 63}.example", f"{'y' * 60}.{'z' * 60}.example",
)  # fmt: skip
BAD_DOMAINS: Final = (
    "localhost", "[127.0.0.1]", "[IPv6:::1]", "-a.example", "a-.example", "a..example", ".example", "example.", "a_b.example",
    "xn--.example", "xn--0.example", "xn--zzzzzzzzzz.example", f"{'x' * 64}.example", f"{'x.' * 130}example", "ours。example",
    "ours．example", "ours\u200b.example", "ａ.example", "a\u202eb.example", "", "ours.example:25", "ours.example,evil.example",
    "😀.example", "аррӏе.example", "a\u0640b.example",
)  # fmt: skip
ATOM: Final = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-/=?^_`{|}~"
WORDS: Final = (
    "Ana",
    "José",
    "名前",
    "ana maria",
    "O'Brien",
    "Jean-Luc",
    "Dr. No",
    "müller",
    "ابن",
    "नाम",
    "Ω",
    "r2d2",
    "x_y",
)


def atoms(random: Random) -> str:
    return ".".join("".join(random.choices(ATOM, k=random.randint(1, 8))) for _ in range(random.randint(1, 3)))


def encoded_word(random: Random) -> str:
    charset, way = random.choice(("utf-8", "us-ascii", "iso-8859-1*es", "utf-7", "nosuch")), random.choice("qbQB")
    hidden = random.choice(
        ("a=0d=0aBcc=3a_evil=40x.example", "DQpCY2M6IGV2aWxAeC5leGFtcGxl", "a=40x.example=2c", "=00", "ana", "")
    )
    return f"=?{charset}?{way}?{hidden}?="


def damaged(random: Random, text: str) -> str:
    """With one to three dangerous pieces anywhere in it."""
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(text))
        text = text[:at] + random.choice(DANGEROUS) + text[at:]
    return text


# Every address is somebody else's: `{n}` is its number.
ADDRESSES: Final[Sequence[Callable[[Random, int], str]]] = (
    lambda random, n: f"u{n}.{atoms(random)}@{random.choice(DOMAINS)}",
    lambda random, n: f"{atoms(random)}.u{n}@{random.choice(DOMAINS)}",
    lambda random, n: f"u{n}+{atoms(random)}@{random.choice(DOMAINS)}",
    lambda random, n: f"u{n}@{random.choice(BAD_DOMAINS)}",
    lambda random, n: f"u{n}{encoded_word(random)}@ours.example",
    lambda random, n: f"{encoded_word(random)}{n}@ours.example",
    lambda random, n: f'"u{n}{random.choice(DANGEROUS)}"@ours.example',
    lambda random, n: f'"u{n}"@{random.choice(DOMAINS)}',
    lambda random, n: f"u{n}({random.choice(DANGEROUS)})@ours.example",
    lambda random, n: f"u{n}@(x)ours.example",
    lambda random, n: f"<@relay.example{random.choice(',:')}u{n}@ours.example>",
    lambda random, n: f"@relay.example:u{n}@ours.example",
    lambda random, n: f"relay.example!u{n}@ours.example",
    lambda random, n: f"u{n}%{VICTIM.replace('@', '%')}@ours.example",
    lambda random, n: f"u{n}{random.choice((',', ';', ' ', ':', chr(10), '>,<'))}{VICTIM}",
    lambda random, n: f"u{n} <u{n}@ours.example>",
    lambda random, n: f"u{n}{random.choice(WORDS)}@{random.choice(DOMAINS)}",
    lambda random, n: f"u{n}{random.choice(LINE_ENDS)}Bcc: {VICTIM}{random.choice(LINE_ENDS)}@ours.example",
    lambda random, n: f"{'a' * random.randint(55, 66)}{n}@ours.example",
    lambda random, n: f"u{n}@{'.'.join('x' * random.randint(50, 63) for _ in range(4))}.example",
    lambda random, n: f"u{n}@{'x' * random.choice((64, 1_000, 10_000))}.example",
    lambda random, n: f"u{n}{random.choice(('{{7*7}}', '${7*7}', '{7*7}', '{%x%}', '<b>', '&amp;'))}@ours.example",
    lambda random, n: f"{random.choice(DIRECTIONS + UNSEEN)}u{n}@ours.example",
    lambda random, n: damaged(random, f"u{n}@{random.choice(DOMAINS)}"),
    lambda random, n: damaged(random, f"u{n}.{atoms(random)}@ours.example"),
)
NAMES: Final[Sequence[Callable[[Random, int], str]]] = (
    lambda random, n: f"{random.choice(WORDS)} {n}",
    lambda random, n: f"u{n} you have won, see https://evil.example/{n}",
    lambda random, n: f"Win {n} at evil.example now",
    lambda random, n: f"http://evil.example/?{n}",
    lambda random, n: f"www.evil.example {n}",
    lambda random, n: f"{VICTIM} {n}",
    lambda random, n: f"javascript:alert({n})",
    lambda random, n: f"<a href='https://evil.example'>{n}</a>",
    lambda random, n: f"<script>alert({n})</script>",
    lambda random, n: f"</h1><img src=x onerror=alert({n})>",
    lambda random, n: f"&lt;{n}&amp;",
    lambda random, n: f"{{{{ 7*7 }}}} {n}",
    lambda random, n: f"{{% include '/etc/hostname' %}}{n}",
    lambda random, n: f"${{7*7}}#{{{n}}}%(name)s%s{{0}}",
    lambda random, n: f"{encoded_word(random)} {n}",
    lambda random, n: f"{n}{random.choice(LINE_ENDS)}Bcc: {VICTIM}",
    lambda random, n: f"{n}{random.choice(LINE_ENDS)}{random.choice(LINE_ENDS)}<b>body</b>",
    lambda random, n: f"{n}\r\n.\r\nMAIL FROM:<{VICTIM}>",
    lambda random, n: f"{n}{random.choice(DIRECTIONS + UNSEEN)}gnp.exe",
    lambda random, n: f"{random.choice(LOOKALIKES)}{n}{random.choice(LOOKALIKES)}",
    lambda random, n: f"{'x' * random.choice((30, 55, 64, 65, 5_000))}{n}",
    lambda random, n: f"{random.choice(('ａｎａ', 'K', 'ﬁ', 'e' + chr(0x301) * 30, '名。example', 'a․b'))}{n}",
    lambda random, n: f"From: {n}",
    lambda random, n: f"{n}@{n}",
    lambda random, n: damaged(random, f"{random.choice(WORDS)}{n}"),
    lambda random, n: damaged(random, f"{random.choice(WORDS)} {n}"),
)


def sign_up(seed: int) -> SignUp:
    """Two in five have a harmless name, so that the address decides, two in five a harmless address, one in five neither."""
    random = Random(seed)
    username, email = random.choice(NAMES)(random, seed), random.choice(ADDRESSES)(random, seed)
    plain = random.choice(("name", "name", "address", "address", "neither"))
    return SignUp(
        seed,
        username=f"u{seed}" if plain == "name" else username,
        email=f"u{seed}@ours.example" if plain == "address" else email,
    )


# --- what may become of it ------------------------------------------------------------------------------------

HEADERS: Final = (
    "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type", "Content-Language",
)  # fmt: skip


@pytest.fixture
def live(tmp_path: Any) -> Iterator[LiveSystem]:
    settings = {"EVENTS_TRANSPORT": "redis-streams", "MAIL_LANGUAGE": "en", "MAIL_PER_RECIPIENT": "1000"}
    with live_system(tmp_path, LOG_LEVEL="WARNING", **settings) as system:
        yield system


def test_every_generated_sign_up_is_refused_or_sends_exactly_one_mail_as_it_should_be(live: LiveSystem) -> None:
    plain = mail_to(live, "plain", "plain@ours.example")
    accepted = 0
    for first in range(0, SIGN_UPS, AT_A_TIME):
        made = [sign_up(seed) for seed in range(first, min(first + AT_A_TIME, SIGN_UPS))]
        answers = asked(live, made)
        mails = all_mails(live)
        wrong = [
            problem
            for one, answer in zip(made, answers, strict=True)
            for problem in problems(one, answer, mails, plain)
        ]
        known = {answer.json()["email"] for answer in answers if answer.status_code == 201}
        wrong += [
            f"a mail to nobody who signed up: {mail['recipients']!r}"
            for mail in mails
            if not known >= {*mail["recipients"]}
        ]
        assert not wrong, f"{len(wrong)} of {len(made)}:\n" + "\n".join(wrong[:20])
        accepted += len(known)
    assert SIGN_UPS // 5 < accepted < SIGN_UPS * 4 // 5, f"{accepted} are accepted: some are names and addresses"
    assert {state for (state,) in live.rows("mailing", "SELECT DISTINCT state FROM mails")} == {"sent"}
    assert not live.rows("mailing", "SELECT 1 FROM cauce_dead_letter")


def asked(live: LiveSystem, made: Sequence[SignUp]) -> Sequence[httpx.Response]:
    """What accounts answers; when this returns, every mail that will ever be sent has been."""
    live.http.delete(f"{live.system.environment['CAUCE_MAILS_URL']}/mails")
    with ThreadPoolExecutor(8) as clients:
        answers = [*clients.map(post, [live] * len(made), made)]
    live.nothing_pending("accounts", "mailing")
    return answers


def post(live: LiveSystem, one: SignUp) -> httpx.Response:
    # By hand: half a surrogate pair is JSON's `\\ud800`.
    body = json.dumps({"username": one.username, "email": one.email, "password": "pa55word!"})
    return live.http.post(
        f"{live.accounts}/users", content=body, headers={"Content-Type": "application/json"}, timeout=60
    )


def all_mails(live: LiveSystem) -> list[dict[str, Any]]:
    return live.http.get(f"{live.system.environment['CAUCE_MAILS_URL']}/mails", timeout=60).json()


def mail_to(live: LiveSystem, username: str, email: str) -> dict[str, Any]:
    assert asked(live, [SignUp(-1, username, email)])[0].status_code == 201
    [mail] = all_mails(live)
    return mail


def problems(
    one: SignUp, answer: httpx.Response, mails: Sequence[dict[str, Any]], plain: dict[str, Any]
) -> Iterator[str]:
    """What is wrong with the answer, and with the mail."""
    if answer.status_code == 422:
        if any(one.email in mail["recipients"] for mail in mails):
            yield f"{one}: refused, and a mail was sent"
        return
    if answer.status_code != 201:
        yield f"{one}: answered {answer.status_code} {answer.text[:200]}"
        return
    user = answer.json()
    if user["email"] != (expected := expected_recipient(one.email)):
        yield f"{one}: taken as {user['email']!r} instead of {expected!r}"
    found = [mail for mail in mails if user["email"] in mail["recipients"]]
    if len(found) != 1:
        yield f"{one}: {len(found)} mails"
    for mail in found:
        for problem in wrong_with(mail, user, plain):
            yield f"{one}: {problem}"


def expected_recipient(address: str) -> str:
    """As it was sent, with the domain in ASCII; empty if it has none."""
    local, _, domain = address.rpartition("@")
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        return ""


def wrong_with(mail: dict[str, Any], user: dict[str, Any], plain: dict[str, Any]) -> Iterator[str]:
    recipient, raw = user["email"], mail["raw"].encode()
    message = message_from_bytes(raw, policy=policy.default)
    if mail["recipients"] != [recipient]:
        yield f"the envelope's recipients are {mail['recipients']!r}"
    if tuple(message.keys()) != HEADERS:
        yield f"its headers are {message.keys()}"
    to = message["To"]
    parsed = [address.addr_spec for address in to.addresses] if isinstance(to, AddressHeader) else None
    if parsed != [recipient]:
        yield f"its To is read as {parsed!r}"
    for name in ("From", "Subject", "Auto-Submitted", "MIME-Version", "Content-Language"):
        if mail["headers"].get(name) != plain["headers"][name]:
            yield f"its {name} is {mail['headers'].get(name)!r}"
    if b"\n" in raw.replace(b"\r\n", b"") or b"\r" in raw.replace(b"\r\n", b""):
        yield "it has bare line ends"
    yield from wrong_with_text(mail, user["username"], plain)


def wrong_with_text(mail: dict[str, Any], username: str, plain: dict[str, Any]) -> Iterator[str]:
    """The name is in the greeting or nowhere; all else is the text of every welcome."""
    greetings = ("Hello!", f"Hello, {username}!")
    first, rest = _greeting_and_rest(mail["text"])
    if first not in greetings or rest != _greeting_and_rest(plain["text"])[1]:
        yield f"its text is {mail['text'][:200]!r}"
    if first != greetings[0] and any(sign in username for sign in (":/", "@", "evil.example", "<", "{")):
        yield "it greets with more than a name"
    ours, plains = Page(mail["html"]), Page(plain["html"])
    if ours.tags != plains.tags:
        yield "its HTML has other tags"
    if [text for text in ours.texts if text not in greetings] != [
        text for text in plains.texts if text != "Hello, plain!"
    ]:
        yield f"its HTML says {[text for text in ours.texts if text not in plains.texts]!r}"


def _greeting_and_rest(text: str) -> tuple[str, str]:
    first, _, rest = text.replace("\r\n", "\n").partition("\n")
    return first, rest


class Page(HTMLParser):
    """The tags of a page with their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Any]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((tag, None))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())
