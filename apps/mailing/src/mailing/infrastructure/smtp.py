"""The mail server: mails are handed over by SMTP, one connection each."""

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from email.headerregistry import Address
from typing import Final, Literal

from aiosmtplib import (
    SMTP,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
)

from mailing.domain import Mail, MailImpossibleError, MailNotSentError, MailRefusedError, MailUncertainError
from mailing.infrastructure.composing import message_bytes
from mailing.infrastructure.patience import Conversation, Limits, Patience
from mailing.infrastructure.smtp_errors import reason_of

__all__ = ["SmtpMailer", "Tls"]

Tls = Literal["off", "starttls", "tls"]

_RECIPIENT_TAKEN: Final = (250, 251)
_GO_ON: Final = 354
_TAKEN: Final = 250
_LOGIN_WANTED: Final = 530
"""RFC 4954: the answer to a client that should have logged in, so it is about us and not about the recipient."""
_GOODBYE_LIMIT_S: Final = 1.0


class SmtpMailer:
    """Hands each mail to one SMTP server, over a connection of its own.

    With `tls` on, the server's certificate is verified against the machine's authorities (or those in
    SSL_CERT_FILE) and the host's name; a server that offers no TLS then gets nothing. `limits` says how long each answer
    is waited for, `patience` how many conversations may take so long.
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
        limits: Limits | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._host: Final = host
        self._port: Final = port
        self._sender: Final = sender
        self._tls: Final = tls
        self._user: Final = user
        self._password: Final = password
        # The library's own default would be unverified for some paths; this one never is.
        self._tls_context: Final = tls_context or (ssl.create_default_context() if tls != "off" else None)
        self._limits: Final = limits or Limits()
        self.patience: Final = patience or Patience(places=4)

    async def send(self, mail: Mail) -> None:
        """Return once the server has answered 250 to the whole mail. MailNotSentError or one of its kinds otherwise.

        Trouble with the connection, the login or the sender is our own setting, which somebody will correct, or
        passes. What happens from the recipient on is about this recipient or this mail: MailRefusedError, for good if
        the server says 5xx.
        """
        content = message_bytes(mail, self._sender)
        smtp, conversation = self._connection(), Conversation()
        try:
            await self.patience.hold(conversation, self._talk(smtp, mail, content, conversation))
        except (SMTPException, OSError, TimeoutError) as error:
            raise self._not_sent(error, conversation, mail.recipient) from None
        else:
            with suppress(SMTPException, OSError, TimeoutError):  # the mail is accepted, whatever comes now
                async with asyncio.timeout(_GOODBYE_LIMIT_S):
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
            timeout=self._limits.opening_s,
            use_tls=self._tls == "tls",
            start_tls=self._tls == "starttls",
            tls_context=self._tls_context,
        )

    async def _talk(self, smtp: SMTP, mail: Mail, content: bytes, conversation: Conversation) -> None:
        async with asyncio.timeout(self._limits.opening_s):
            await smtp.connect()
            await _introduce(smtp)
        await self._address(smtp, mail, conversation)
        await self._data(smtp, content, conversation)

    async def _address(self, smtp: SMTP, mail: Mail, conversation: Conversation) -> None:
        """The envelope: one sender, one recipient, whatever the headers say."""
        options, encoding = ([], "ascii") if mail.recipient.isascii() else (["SMTPUTF8"], "utf-8")
        if options and not smtp.supports_extension("smtputf8"):
            raise MailImpossibleError("the mail server takes no address with letters beyond ASCII (no SMTPUTF8)")
        await smtp.mail(self._sender.addr_spec, options=options, encoding=encoding, timeout=self._limits.mail_s)
        conversation.about_recipient = True
        # By hand: the library parses the address once more, and may read it as another.
        recipient = b"TO:<" + mail.recipient.encode(encoding) + b">"
        answer = await smtp.execute_command(b"RCPT", recipient, timeout=self._limits.recipient_s)
        if answer.code not in _RECIPIENT_TAKEN:
            raise SMTPRecipientRefused(answer.code, answer.message, mail.recipient)

    async def _data(self, smtp: SMTP, content: bytes, conversation: Conversation) -> None:
        """The library's own `data` has one limit for both answers; the standard has two minutes and ten."""
        answer = await smtp.execute_command(b"DATA", timeout=self._limits.data_s)
        if answer.code != _GO_ON:
            raise SMTPDataError(answer.code, answer.message)
        if smtp.protocol is None:
            raise SMTPServerDisconnected("Connection lost")
        conversation.before_handing_over()
        smtp.protocol.write(_with_final_dot(content))
        conversation.handed_over = True
        answer = await smtp.protocol.read_response(timeout=self._limits.block_s + self._limits.taken_s)
        if answer.code != _TAKEN:
            raise SMTPDataError(answer.code, answer.message)

    def _not_sent(self, error: Exception, conversation: Conversation, recipient: str) -> MailNotSentError:
        reason = reason_of(error, f"the mail server {self._host}:{self._port}", recipient)
        # RFC 1047: between the last dot and the 250 nobody knows who has the mail.
        if conversation.handed_over and not isinstance(error, SMTPDataError):
            return MailUncertainError(f"{reason}; it may have taken the mail")
        if conversation.given_up:
            reason = f"{reason}; several mails wait for it, so this one was given up before it was handed over"
        code = error.code if isinstance(error, SMTPResponseException) and 400 <= error.code < 600 else None
        if not conversation.about_recipient or code == _LOGIN_WANTED:
            return MailNotSentError(reason)
        return MailRefusedError(reason, code=code, for_good=code is not None and code >= 500)


async def _introduce(smtp: SMTP) -> None:
    """EHLO, or HELO to a server that knows no other, unless connecting has done it."""
    if not smtp.is_ehlo_or_helo_needed:
        return
    try:
        await smtp.ehlo()
    except SMTPHeloError:
        await smtp.helo()


def _with_final_dot(content: bytes) -> bytes:
    """The content with the dots of RFC 5321 4.5.2: a line that begins with one gets another, the last line is one."""
    stuffed = (b"\r\n" + content.removesuffix(b"\r\n")).replace(b"\r\n.", b"\r\n..")
    return stuffed.removeprefix(b"\r\n") + b"\r\n.\r\n"


def _own_name() -> str:
    """What we call ourselves in EHLO. Not getfqdn(): it asks DNS and may hang."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9.-]{1,255}", name) else "localhost"
