"""The mail sink: takes everything, shows it truly, obeys nothing it holds."""

import http.client
import json
import smtplib
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from cauce.dev.mail_sink import page
from cauce.dev.mailbox import Mailbox
from cauce.dev.servers import MailSinkServer

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def welcome() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "CloneSpotify <no-reply@clonespotify.example>"
    message["To"] = "José <jose@example.com>"
    message["Subject"] = "¡Bienvenido, José!"
    message["Message-ID"] = "<event-1@clonespotify.example>"
    message.set_content("Hola, José.\n")
    message.add_alternative("<p>Hola, <b>José</b>.</p>\n", subtype="html")
    return message


def mailbox_with(raw: bytes) -> Mailbox:
    mailbox = Mailbox()
    mailbox.add("a@example.com", ["b@example.com"], raw, at=NOON)
    return mailbox


def ask(sink: MailSinkServer, method: str, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(sink.host, sink.http_port, timeout=5)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_mail_is_shown_with_its_envelope_its_headers_and_both_parts(mail_sink: MailSinkServer) -> None:
    with smtplib.SMTP(mail_sink.host, mail_sink.smtp_port) as client:
        client.send_message(welcome(), from_addr="bounce@clonespotify.example", to_addrs=["jose@example.com"])

    (mail,) = mail_sink.mails()
    assert mail["sender"] == "bounce@clonespotify.example"
    assert mail["recipients"] == ["jose@example.com"]
    assert mail["subject"] == "¡Bienvenido, José!"
    assert mail["message_id"] == "<event-1@clonespotify.example>"
    headers = mail["headers"]
    assert isinstance(headers, dict)
    assert headers["To"] == "José <jose@example.com>"
    assert str(mail["text"]).strip() == "Hola, José."
    assert str(mail["html"]).strip() == "<p>Hola, <b>José</b>.</p>"
    assert "Message-ID: <event-1@clonespotify.example>" in str(mail["raw"])

    status, body = ask(mail_sink, "GET", f"/mails/{mail['id']}")
    assert (status, json.loads(body)) == (200, mail)
    assert ask(mail_sink, "GET", "/mails/0")[0] == 404


def test_mails_can_be_removed_and_their_numbers_continue(mail_sink: MailSinkServer) -> None:
    for _ in range(2):
        with smtplib.SMTP(mail_sink.host, mail_sink.smtp_port) as client:
            client.send_message(welcome())
    first, second = (int(str(mail["id"])) for mail in mail_sink.mails())
    assert second == first + 1
    assert ask(mail_sink, "DELETE", "/mails")[0] == 200
    assert mail_sink.mails() == []


def test_addresses_beyond_ascii_are_taken(mail_sink: MailSinkServer) -> None:
    with smtplib.SMTP(mail_sink.host, mail_sink.smtp_port) as client:
        client.ehlo()
        client.mail("josé@example.com", ["SMTPUTF8", "BODY=8BITMIME"])
        client.rcpt("niña@example.com")
        client.data("Subject: ñ\r\n\r\nñandú\r\n".encode())
    (mail,) = mail_sink.mails()
    assert (mail["sender"], mail["recipients"], mail["text"]) == ("josé@example.com", ["niña@example.com"], "ñandú\r\n")


def test_a_page_elsewhere_cannot_read_the_mails_through_a_name_of_its_own(mail_sink: MailSinkServer) -> None:
    assert ask(mail_sink, "GET", "/mails", host=f"localhost:{mail_sink.http_port}")[0] == 200
    assert ask(mail_sink, "GET", "/mails", host=f"evil.example:{mail_sink.http_port}")[0] == 403


def test_an_unknown_path_says_which_there_are(mail_sink: MailSinkServer) -> None:
    status, body = ask(mail_sink, "GET", "/mail")
    assert (status, json.loads(body)) == (404, {"detail": "try /, /mails or /mails/1"})


def test_what_a_mail_contains_is_text_on_the_page() -> None:
    shown = page(
        list(
            mailbox_with(
                b"Subject: <script>alert(1)</script>\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n"
                b'<script>alert(2)</script>"></iframe><img src=x onerror=alert(3)>\r\n'
            )
        )
    )
    assert "<script" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "<iframe sandbox " in shown


def test_the_page_of_an_empty_box_says_so() -> None:
    assert "None yet." in page([])


def test_the_page_allows_no_script_and_nothing_from_elsewhere(mail_sink: MailSinkServer) -> None:
    connection = http.client.HTTPConnection(mail_sink.host, mail_sink.http_port, timeout=5)
    try:
        connection.request("GET", "/")
        policy = connection.getresponse().headers["content-security-policy"]
    finally:
        connection.close()
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy


def test_only_the_latest_mails_are_kept() -> None:
    by_number = Mailbox(most_mails=2)
    for _ in range(3):
        by_number.add("a", ["b"], b"x", at=NOON)
    assert [mail.number for mail in by_number] == [2, 3]

    by_size = Mailbox(most_bytes=10)
    for size in (6, 6, 20):
        by_size.add("a", ["b"], b"x" * size, at=NOON)
    assert [mail.number for mail in by_size] == [3]
    assert by_size.received == 3


NO_MAILS: list[bytes] = [
    b"From: \xe2\x80\xb9",
    b"From: \x8b",
    b"From: <",
    b'To: "',
    b"Message-ID: <",
    b"From: a@[",
    b"From: " + b"(" * 900,
    b"Subject: =?utf-8?b?/w==?=",
    b"Subject: a\x00b",
    b'Content-Type: text/plain; charset="\x00"',
    b"Content-Type: text/plain; charset=idna",
    b"Content-Type: text/plain; charset*=utf-8''%ff",
    b"Content-Disposition: \x8b;",
    b"Content-Transfer-Encoding: \x8b",
]


@pytest.mark.parametrize("header", NO_MAILS)
def test_a_mail_with_a_header_that_nobody_can_read_is_on_the_page(mail_sink: MailSinkServer, header: bytes) -> None:
    name, _, value = header.partition(b": ")
    with smtplib.SMTP(mail_sink.host, mail_sink.smtp_port) as client:
        client.sendmail("a@example.com", ["b@example.com"], header + b"\r\nX-Last: the rest\r\n\r\n\xffbody\r\n")

    status, shown = ask(mail_sink, "GET", "/")
    assert status == 200
    assert b"body" in shown
    (mail,) = mail_sink.mails()
    headers = mail["headers"]
    assert isinstance(headers, dict)
    assert headers["X-Last"] == "the rest"
    assert name.decode() in headers
    assert (str(mail["text"]), mail["html"]) == ("\N{REPLACEMENT CHARACTER}body\r\n", None)
    assert str(mail["raw"]).startswith(f"{name.decode()}: {value.decode(errors='replace')}")


def test_a_mail_of_a_thousand_nested_parts_is_shown_as_its_source(mail_sink: MailSinkServer) -> None:
    nested = b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (depth, depth) for depth in range(3_000)
    )
    with smtplib.SMTP(mail_sink.host, mail_sink.smtp_port) as client:
        client.sendmail("a@example.com", ["b@example.com"], nested)

    assert ask(mail_sink, "GET", "/")[0] == 200
    (mail,) = mail_sink.mails()
    assert (mail["text"], mail["html"]) == (None, None)
    assert "boundary=2999" in str(mail["raw"])


def test_a_mail_that_breaks_every_rule_is_still_shown() -> None:
    (mail,) = mailbox_with(b"Subject: =?nosuch?q?x?=\r\nContent-Type: text/plain; charset=nosuch\r\n\r\n\xff\xfe\r\n")
    said = mail.as_json()
    assert said["html"] is None
    assert "\ufffd" in str(said["text"])
    json.dumps(said)
