"""What went wrong with a mail server, in words fit for a log and a record: no address, no password, one line."""

import re
import ssl
from collections.abc import Iterator
from typing import Final

from aiosmtplib import (
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

__all__ = ["reason_of"]

_REFUSED: Final[dict[type[SMTPResponseException], str]] = {
    SMTPAuthenticationError: "the login (see SMTP_USER, SMTP_PASS)",
    SMTPSenderRefused: "the sender (see MAIL_FROM)",
    SMTPRecipientRefused: "the recipient",
    SMTPDataError: "the mail",
}


def reason_of(error: Exception, server: str, recipient: str) -> str:
    """One line: which server, what it did or did not do, and which setting may be wrong. Without the recipient."""
    if isinstance(error, SMTPResponseException):
        refused = next((what for kind, what in _REFUSED.items() if isinstance(error, kind)), "to talk to us")
        return f"{server} refused {refused}: {error.code} {_harmless(error.message, recipient)}"
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{server} has no valid certificate: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"{server} does not speak TLS as expected (see SMTP_TLS): {cause.reason or 'no handshake'}"
    if any(isinstance(cause, (SMTPTimeoutError, TimeoutError)) for cause in causes):
        return f"{server} did not answer in time"
    closed = (SMTPServerDisconnected, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
    if any(isinstance(cause, closed) for cause in causes):
        return f"{server} closed the connection"
    if isinstance(error, OSError):  # SMTPConnectError is one
        refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
        words = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
        why = "connection refused" if refused else _harmless(words[-1], recipient).lower() if words else "no connection"
        return f"{server} cannot be reached (see SMTP_HOST, SMTP_PORT): {why}"
    return f"{server}: {_harmless(str(error), recipient)}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _harmless(text: str, recipient: str) -> str:
    """A server's own words on one short line, without the address they repeat, whole or only what is before the `@`."""
    text = re.sub(r"<?[^\s<>@]{1,64}@[^\s<>]{1,255}>?", "(address)", text)
    local = recipient.rpartition("@")[0].casefold()

    def without_it(word: re.Match[str]) -> str:
        return "(address)" if word[0].strip("'.").casefold() == local else word[0]

    text = re.sub(r"""[^\s<>()",:;=@]+""", without_it, text)
    return "".join(character if character.isprintable() else " " for character in text)[:200]
