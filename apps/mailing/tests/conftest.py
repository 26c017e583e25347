"""The service's database; a mail server in the test's own event loop, as friendly or as nasty as a test wants it."""

import asyncio
import email.policy
import ssl
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from mailing.main import MIGRATIONS
from seedwork import database


@dataclass(frozen=True)
class Received:
    """One mail as it came over the wire."""

    sender: str
    recipients: list[str]
    content: bytes
    over_tls: bool
    user: bytes | None

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.content, policy=email.policy.default)

    @property
    def to(self) -> list[str]:
        """The addresses of the To header; the parser leaves UTF-8 of SMTPUTF8 undecoded."""
        return [
            address.addr_spec.encode("ascii", "surrogateescape").decode() for address in self.message["To"].addresses
        ]

    def part(self, kind: str) -> str:
        found = self.message.get_body((kind,))
        assert found is not None, f"no {kind} part"
        return str(found.get_content()).replace("\r\n", "\n")  # pyright: ignore[reportAttributeAccessIssue]  # a body is an EmailMessage


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/mailing.sqlite"
    else:
        url = str(request.getfixturevalue("postgres").database())
    database.migrate(url, MIGRATIONS)
    return url


Answer = Callable[[Envelope], Awaitable[str | None]]


@dataclass
class Sink:
    """aiosmtpd's handler; `on_rcpt` and `on_data` may answer instead of taking the mail."""

    host: str = "localhost"
    port: int = 0
    received: list[Received] = field(default_factory=list)
    on_rcpt: Answer | None = None
    on_data: Answer | None = None
    cut_after_dot: Callable[["Received"], bool] | None = None
    """Whether the connection is cut when the mail was taken, before the 250 (RFC 1047)."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        answer = await self.on_rcpt(envelope) if self.on_rcpt else None
        return answer or "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        login: Any = session.auth_data
        self.received.append(
            Received(
                sender=envelope.mail_from or "",
                recipients=list(envelope.rcpt_tos),
                content=envelope.original_content or b"",
                over_tls=bool(server.transport and server.transport.get_extra_info("sslcontext")),
                user=login.login if login else None,
            )
        )
        if self.cut_after_dot is not None and self.cut_after_dot(self.received[-1]):
            transport: Any = server.transport
            transport.abort()
        answer = await self.on_data(envelope) if self.on_data else None
        return answer or "250 OK"

    def never_answer(self) -> asyncio.Event:
        """Take mails and never answer, until `on_data` is set to something else. Set when the first one travels."""
        travelling = asyncio.Event()

        async def hold(_: Envelope) -> None:
            travelling.set()
            await asyncio.Event().wait()

        self.on_data = hold
        return travelling

    def of(self, recipient: str) -> list[Received]:
        return [one for one in self.received if one.recipients == [recipient]]

    def only(self) -> Received:
        assert len(self.received) == 1, f"{len(self.received)} mails"
        return self.received[0]


OpenSink = Callable[..., Awaitable[Sink]]


@asynccontextmanager
async def listening(sink: Sink, *, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncGenerator[Sink]:
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        with warnings.catch_warnings():  # it does not see that the whole connection is TLS
            warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
            return SMTP(sink, hostname="sink.example", loop=loop, **options)

    server = await loop.create_server(connection, "127.0.0.1", 0, ssl=tls)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()


@pytest.fixture
async def open_sink() -> AsyncIterator[OpenSink]:
    """Start a sink with options of aiosmtpd's SMTP; `tls` wraps the whole connection."""
    async with AsyncExitStack() as stack:

        async def open_one(**options: Any) -> Sink:
            options.setdefault("enable_SMTPUTF8", True)
            return await stack.enter_async_context(listening(Sink(), **options))

        yield open_one


@pytest.fixture
async def sink(open_sink: OpenSink) -> Sink:
    return await open_sink()


def only_ana(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
    """An authenticator: user ana, password hunter2."""
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (b"ana", b"hunter2")
    return AuthResult(success=known, handled=False, auth_data=data)
