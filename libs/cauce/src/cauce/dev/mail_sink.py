"""`python -m cauce.dev.mail_sink`: an SMTP server that keeps every mail, delivers none, and shows them.

    GET /            a page to read the mails in
    GET /mails       the mails as JSON, oldest first (see `cauce.dev.mailbox.Mail.as_json`)
    GET /mails/3     one of them
    DELETE /mails    forget them
    GET /health      {"status": "ok", "pid": …}

No user, no password, no TLS: it listens on the loopback interface only. Runs until SIGTERM or SIGINT.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

import uvicorn
from aiosmtpd.smtp import SMTP

from cauce.dev.mailbox import Mail, Mailbox

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope, Session

__all__ = ["main"]

_LARGEST_MAIL_BYTES = 10 * 1024 * 1024

# The shape of ASGI, as its specification writes it down.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Intake:
    """aiosmtpd's handler: its method names are SMTP's."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_DATA(self, server: SMTP, session: "Session", envelope: "Envelope") -> str:  # noqa: N802
        content = envelope.original_content or b""
        self._mailbox.add(envelope.mail_from or "", list(envelope.rcpt_tos), content, at=datetime.now(UTC))
        return f"250 OK: kept as mail {self._mailbox.received}"


class View:
    """The HTTP side, as an ASGI application."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0]
        if host not in (
            "127.0.0.1",
            "localhost",
        ):  # a page elsewhere must not read mails through a name it controls
            status, kind, body = 403, "text/plain", "This address answers to 127.0.0.1 and localhost only."
        else:
            status, kind, body = self._answer(scope["method"], scope["path"])
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", f"{kind}; charset=utf-8".encode()),
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                    # Mails are shown, never obeyed: no script, nothing fetched from anywhere.
                    (
                        b"content-security-policy",
                        b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-src 'self'",
                    ),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body.encode("utf-8", errors="replace")})

    def _answer(self, method: str, path: str) -> tuple[int, str, str]:
        match method, path:
            case "GET", "/":
                return 200, "text/html", page(list(self._mailbox))
            case "GET", "/health":
                return 200, "application/json", json.dumps({"status": "ok", "pid": os.getpid()})
            case "GET", "/mails":
                return 200, "application/json", json.dumps([mail.as_json() for mail in self._mailbox])
            case "DELETE", "/mails":
                self._mailbox.clear()
                return 200, "application/json", "[]"
            case "GET", _ if path.startswith("/mails/"):
                for mail in self._mailbox:
                    if str(mail.number) == path.removeprefix("/mails/"):
                        return 200, "application/json", json.dumps(mail.as_json())
                return 404, "application/json", json.dumps({"detail": "no such mail"})
            case _:
                return 404, "application/json", json.dumps({"detail": "try /, /mails or /mails/1"})


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
  article {{ border: 1px solid #ccc; border-radius: 6px; padding: 0 1rem 1rem; margin: 1rem 0 }}
  h2 {{ font-size: 1.1rem; margin-bottom: .2rem }}
  dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 0; color: #555 }}
  dd {{ margin: 0; overflow-wrap: anywhere }}
  pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .7rem }}
  iframe {{ width: 100%; height: 22rem; border: 1px solid #ddd; background: #fff }}
  @media (prefers-color-scheme: dark) {{
    body {{ background: #1b1b1b; color: #ddd }} dl {{ color: #aaa }} pre {{ background: #262626 }}
  }}
</style></head><body>
<h1>{title}</h1>
<p>Kept, not delivered; newest first. Reload for more. As JSON: <a href="/mails">/mails</a></p>
{articles}
</body></html>
"""

_ARTICLE = """<article id="mail-{number}"><h2>{subject}</h2>
<dl><dt>from</dt><dd>{sender}</dd><dt>to</dt><dd>{recipients}</dd>
<dt>received</dt><dd>{received_at}</dd><dt>Message-ID</dt><dd>{message_id}</dd></dl>
{text}{html}
<details><summary>source</summary><pre>{raw}</pre></details></article>"""


def page(mails: list[Mail]) -> str:
    """The mails as one HTML page. Whatever they contain is text on it, or locked into a sandboxed frame."""
    articles = "\n".join(_article(mail) for mail in reversed(mails))
    title = "1 mail" if len(mails) == 1 else f"{len(mails)} mails"
    return _PAGE.format(title=title, articles=articles or "<p>None yet.</p>")


def _article(mail: Mail) -> str:
    said = mail.as_json()
    text, html = said["text"], said["html"]
    return _ARTICLE.format(
        number=mail.number,
        subject=escape(str(said["subject"] or "(no subject)")),
        sender=escape(mail.sender or "<>"),
        recipients=escape(", ".join(mail.recipients)),
        received_at=escape(str(said["received_at"])),
        message_id=escape(str(said["message_id"] or "none")),
        text=f"<pre>{escape(str(text))}</pre>" if text is not None else "",
        html=f'<iframe sandbox title="HTML part" srcdoc="{escape(str(html))}"></iframe>' if html is not None else "",
        raw=escape(str(said["raw"])),
    )


async def serve(*, smtp_port: int, http_port: int, host: str = "127.0.0.1") -> None:
    """Take mails and show them until a signal ends the process. Raises OSError when a port is taken."""
    mailbox = Mailbox()
    intake = Intake(mailbox)

    def speak_smtp() -> SMTP:
        return SMTP(
            intake,
            hostname="cauce-mail-sink",
            ident="Cauce mail sink",
            data_size_limit=_LARGEST_MAIL_BYTES,
            enable_SMTPUTF8=True,
        )

    smtp = await asyncio.get_running_loop().create_server(speak_smtp, host, smtp_port)
    async with smtp:
        view = uvicorn.Server(
            uvicorn.Config(
                View(mailbox),
                host=host,
                port=http_port,
                lifespan="off",
                ws="none",
                access_log=False,
                log_level="warning",
                timeout_graceful_shutdown=1,
            )
        )
        await view.serve()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cauce.dev.mail_sink", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smtp-port", type=int, default=1025, metavar="PORT")
    parser.add_argument("--http-port", type=int, default=8025, metavar="PORT")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(smtp_port=arguments.smtp_port, http_port=arguments.http_port))
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
