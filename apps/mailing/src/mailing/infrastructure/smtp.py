"""The mail server: mails are handed over by SMTP, one connection each."""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final, Literal

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from mailing.domain import Mail, MailImpossibleError, MailNotSentError, MailUncertainError

__all__ = ["SmtpMailer", "Tls", "message_bytes"]

Tls = Literal["off", "starttls", "tls"]


_ANSWER_LIMIT_S: Final = 10.0
_MAIL_LIMIT_S: Final = 30.0


class SmtpMailer:
    """Hands each mail to one SMTP server, over a connection of its own.

    With `tls` on, the server's certificate is verified against the machine's authorities (or those in
    SSL_CERT_FILE) and the host's name; a server that offers no TLS then gets nothing. Every answer is waited
    for at most `answer_limit_s`, the whole mail at most `mail_limit_s`.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        sender: Address,
        tls: Tls = "off",
        user: str | None = None,
        password: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        answer_limit_s: float = _ANSWER_LIMIT_S,
        mail_limit_s: float = _MAIL_LIMIT_S,
    ) -> None:
        self._host: Final = host
        self._port: Final = port
        self._sender: Final = sender
        self._tls: Final = tls
        self._user: Final = user
        self._password: Final = password
        # The library's own default would be unverified for some paths; this one never is.
        self._tls_context: Final = tls_context or (ssl.create_default_context() if tls != "off" else None)
        self._answer_limit_s: Final = answer_limit_s
        self._mail_limit_s: Final = mail_limit_s

    async def send(self, mail: Mail) -> None:
        """Return once the server has answered 250 to the whole mail. MailNotSentError or one of its kinds otherwise.

        What a server refuses for good (5xx) of recipient or mail is impossible; of login or sender it is our own
        setting, which somebody will correct.
        """
        server = f"the mail server {self._host}:{self._port}"
        smtp = self._connection()
        handed_over = False
        try:
            async with asyncio.timeout(self._mail_limit_s):
                await smtp.connect()
                await self._address(smtp, mail)
                handed_over = True
                await smtp.data(message_bytes(mail, self._sender))
        except (SMTPException, OSError, TimeoutError) as error:
            reason = _reason(error, server)
            # RFC 1047: between the last dot and the 250 nobody knows who has the mail.
            if handed_over and not isinstance(error, SMTPDataError):
                raise MailUncertainError(f"{reason}; it may have taken the mail") from None
            never = isinstance(error, (SMTPRecipientRefused, SMTPDataError)) and 500 <= error.code < 600
            raise (MailImpossibleError if never else MailNotSentError)(reason) from None
        else:
            with suppress(SMTPException, OSError, TimeoutError):  # the mail is accepted, whatever comes now
                async with asyncio.timeout(1):
                    await smtp.quit()
        finally:
            smtp.close()

    def _connection(self) -> SMTP:
        return SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            local_hostname=_own_name(),
            timeout=self._answer_limit_s,
            use_tls=self._tls == "tls",
            start_tls=self._tls == "starttls",
            tls_context=self._tls_context,
        )

    async def _address(self, smtp: SMTP, mail: Mail) -> None:
        """The envelope: one sender, one recipient, whatever the headers say."""
        if mail.recipient.isascii():
            await smtp.mail(self._sender.addr_spec)
            await smtp.rcpt(mail.recipient)
            return
        await smtp.ehlo()
        if not smtp.supports_extension("smtputf8"):
            raise MailImpossibleError("the mail server takes no address with letters beyond ASCII (no SMTPUTF8)")
        await smtp.mail(self._sender.addr_spec, options=["SMTPUTF8"], encoding="utf-8")
        await smtp.rcpt(mail.recipient, encoding="utf-8")


def message_bytes(mail: Mail, sender: Address) -> bytes:
    """The mail as it travels: CRLF line ends only, ASCII only (but for an address that is not)."""
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


def _own_name() -> str:
    """What we call ourselves in EHLO. Not getfqdn(): it asks DNS and may hang."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9.-]{1,255}", name) else "localhost"


_REFUSED: Final[dict[type[SMTPResponseException], str]] = {
    SMTPAuthenticationError: "the login (see SMTP_USER, SMTP_PASS)",
    SMTPSenderRefused: "the sender (see MAIL_FROM)",
    SMTPRecipientRefused: "the recipient",
    SMTPDataError: "the mail",
}


def _reason(error: Exception, server: str) -> str:
    """What went wrong, for a log and a record: no address, no password, one line."""
    if isinstance(error, SMTPResponseException):
        refused = next((what for kind, what in _REFUSED.items() if isinstance(error, kind)), "to talk to us")
        return f"{server} refused {refused}: {error.code} {_harmless(error.message)}"
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
        why = "connection refused" if refused else _harmless(words[-1]).lower() if words else "no connection"
        return f"{server} cannot be reached (see SMTP_HOST, SMTP_PORT): {why}"
    return f"{server}: {_harmless(str(error))}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _harmless(text: str) -> str:
    """A server's own words, without the address they repeat, on one short line."""
    text = re.sub(r"<?[^\s<>]+@[^\s<>]+>?", "(address)", text)
    return "".join(character if character.isprintable() else " " for character in text)[:200]
