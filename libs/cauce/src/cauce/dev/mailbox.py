"""What the mail sink has received: bounded, in memory."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes
from email.message import Message
from email.policy import default as newest_rules
from typing import Any, Final

__all__ = ["Mail", "Mailbox"]

_LONGEST_DECODED: Final = 10_000
"""Characters of a header that are decoded; the standard library takes quadratic time for some longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One mail as it came over SMTP: the envelope, the bytes, and what they say."""

    number: int
    received_at: datetime
    sender: str
    recipients: Sequence[str]
    raw: bytes

    def as_json(self) -> dict[str, object]:
        """`id, received_at, sender, recipients, subject, message_id, headers, text, html, raw`.

        `sender` and `recipients` are SMTP's envelope, not the headers. `headers` holds the first of each
        name, decoded, or as it came if it cannot be; `text` and `html` are null when the mail has no such part;
        `raw` is the whole mail. Never raises: whatever was sent is shown.
        """
        try:
            message: Message[Any, Any] = message_from_bytes(self.raw)
            headers, text, html = _headers(message), _part(message, "plain"), _part(message, "html")
        except Exception:  # a mail may be built to break its parser (a thousand nested parts): its source is left
            headers, text, html = {}, None, None
        return {
            "id": self.number,
            "received_at": self.received_at.isoformat(timespec="milliseconds"),
            "sender": self.sender,
            "recipients": list(self.recipients),
            "subject": headers.get("Subject"),
            "message_id": headers.get("Message-ID"),
            "headers": headers,
            "text": text,
            "html": html,
            "raw": self.raw.decode("utf-8", errors="replace"),
        }


class Mailbox:
    """The latest mails; the oldest are forgotten when there are too many or they are too large together."""

    def __init__(self, *, most_mails: int = 1_000, most_bytes: int = 64 * 1024 * 1024) -> None:
        self._most_mails = most_mails
        self._most_bytes = most_bytes
        self._mails: deque[Mail] = deque()
        self._bytes = 0
        self._received = 0

    def __iter__(self) -> Iterator[Mail]:
        """Oldest first."""
        return iter(self._mails)

    def __len__(self) -> int:
        return len(self._mails)

    @property
    def received(self) -> int:
        """How many have ever come, also those forgotten since."""
        return self._received

    def add(self, sender: str, recipients: Sequence[str], raw: bytes, *, at: datetime) -> None:
        self._received += 1
        self._mails.append(
            Mail(number=self._received, received_at=at, sender=sender, recipients=tuple(recipients), raw=raw)
        )
        self._bytes += len(raw)
        while len(self._mails) > self._most_mails or (self._bytes > self._most_bytes and len(self._mails) > 1):
            self._bytes -= len(self._mails.popleft().raw)

    def clear(self) -> None:
        self._mails.clear()
        self._bytes = 0


def _headers(message: "Message[Any, Any]") -> dict[str, str]:
    """The first header of each name."""
    headers: dict[str, str] = {}
    for name, value in message.raw_items():
        headers.setdefault(name, _decoded(name, str(value)))
    return headers


def _decoded(name: str, value: str) -> str:
    """A header's text. The standard library's parser raises errors of every kind for what is no header of its kind."""
    if len(value) <= _LONGEST_DECODED:
        with suppress(Exception):  # IndexError, AttributeError, …: `From: <` is enough
            return str(newest_rules.header_fetch_parse(name, value))
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _part(message: "Message[Any, Any]", kind: str) -> str | None:
    for part in message.walk():
        if part.get_content_type() == f"text/{kind}" and part.get_content_disposition() != "attachment":
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                return _text_of(payload, part)
    return None


def _text_of(payload: bytes, part: "Message[Any, Any]") -> str:
    try:
        return payload.decode(part.get_content_charset() or "utf-8", errors="replace")
    except (LookupError, ValueError):  # a charset nobody knows, or one that is none
        return payload.decode("utf-8", errors="replace")
