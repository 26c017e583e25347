"""A mail as it travels: composed, and read again before anybody gets it."""

from email import message_from_bytes, policy
from email.headerregistry import Address, AddressHeader
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Final

from mailing.domain import Mail, MailImpossibleError

__all__ = ["message_bytes"]

_HEADERS: Final = (
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Language",
)
"""All that a mail of ours has, in their order, each once."""
_END_OF_LINE: Final = b"\r\n"


def message_bytes(mail: Mail, sender: Address) -> bytes:
    """The mail as it travels: CRLF line ends only, ASCII only (but for an address that is not).

    What was composed is read again, since composing decodes what it is given. Raises MailImpossibleError unless the
    result has our headers and no other, each on one line, and one recipient, who is the mail's.
    """
    try:
        raw = _composed(mail, sender)
        problem = _problem(raw, mail, sender)
    except Exception as error:  # the standard library raises errors of every kind for what is no header
        raise MailImpossibleError(f"the mail could not be composed ({type(error).__name__})") from None
    if problem is not None:
        raise MailImpossibleError(f"the mail that was composed is not the one that was meant: {problem}")
    return raw


def _composed(mail: Mail, sender: Address) -> bytes:
    message = EmailMessage(policy=policy.SMTP if mail.recipient.isascii() else policy.SMTPUTF8)
    message["From"] = sender
    local, _, domain = mail.recipient.rpartition("@")
    message["To"] = Address(username=local, domain=domain)
    message["Subject"] = mail.content.subject
    message["Date"] = format_datetime(mail.date)
    message["Message-ID"] = mail.message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    # Quoted-printable: no 8-bit line, no long line, no bare line end can leave this process.
    message.set_content(mail.content.text, cte="quoted-printable")
    message.add_alternative(mail.content.html, subtype="html", cte="quoted-printable")
    message["Content-Language"] = mail.content.language  # of the whole; a part would lose it to set_content
    # Headers are not folded: folding splits long addresses and ids in ways that servers misread.
    return message.as_bytes(policy=message.policy.clone(max_line_length=998))


def _problem(raw: bytes, mail: Mail, sender: Address) -> str | None:
    """What is wrong with a composed mail: first line by line, as a mail server sees it, then as a mail program does."""
    lines = raw.partition(_END_OF_LINE * 2)[0].split(_END_OF_LINE)
    if tuple(line.partition(b": ")[0].decode("ascii", "replace") for line in lines) != _HEADERS:
        return "its headers are not ours"
    if any(control in line for line in lines for control in (b"\r", b"\n", b"\0")):
        return "a header has a line end or a NUL"
    if lines[1].removeprefix(b"To: ") != mail.recipient.encode():
        return "its To is not the recipient"
    message = message_from_bytes(raw, policy=policy.default)
    if tuple(message.keys()) != _HEADERS:
        return "its headers are read as others"
    if any(control in str(value) for value in message.values() for control in ("\r", "\n", "\0")):
        return "a header is read with a line end or a NUL"
    if _addresses(message["To"]) != [mail.recipient]:
        return "its To is read as something else than the recipient"
    if _addresses(message["From"]) != [sender.addr_spec]:
        return "its From is read as somebody else than the sender"
    if (message["Subject"], message["Message-ID"]) != (mail.content.subject, mail.message_id):
        return "its Subject or Message-ID is read as another"
    return None


def _addresses(header: Any) -> list[str]:
    """The bare addresses that a header is read as; the parser leaves UTF-8 of SMTPUTF8 undecoded."""
    if not isinstance(header, AddressHeader):
        return []
    return [address.addr_spec.encode("ascii", "surrogateescape").decode() for address in header.addresses]
