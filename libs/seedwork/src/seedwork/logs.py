"""Logs of a service: structlog over stdlib logging, so that the libraries' lines obey the same rules.

Nothing personal and nothing secret is meant to be logged at all; this module is the second line of defence.
Fields named like secrets are masked, and so are, in any text (tracebacks included), e-mail addresses,
password hashes, passwords in URLs and the values PostgreSQL quotes when a constraint is broken.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TextIO, cast

import structlog
from cauce import current_envelope
from structlog.types import EventDict, Processor, WrappedLogger

from seedwork.settings import LogSettings

__all__ = ["MASK", "configure", "scrubbed"]

MASK: Final = "••••"

_QUIET: Final[Mapping[str, int]] = {
    # Below these levels they print statements with their values, rows, or a line per request.
    "aiosqlite": logging.WARNING,
    "aiosmtplib": logging.WARNING,
    "alembic": logging.WARNING,
    "argon2": logging.WARNING,
    "asyncio": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "mail": logging.WARNING,
    "psycopg": logging.WARNING,
    "python_multipart": logging.WARNING,
    "redis": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "uvicorn": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
}


def configure(settings: LogSettings, *, out: TextIO | None = None) -> None:
    """From now on everything is logged to `out` (stderr) as `settings` say; a second call replaces the first.

    Both `structlog.get_logger()` and `logging.getLogger()` may be used. While an event is handled, its
    `event_id` and `correlation_id` are on every line.
    """
    stream: TextIO = out or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _event_being_handled,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso" if settings.log_format == "json" else "%H:%M:%S", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    render: Processor
    if settings.log_format == "json":
        render = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        # Not rich's tracebacks: they show local variables.
        render = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _without_other_handlers_traces],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _scrub,
                render,
            ],
        )
    )
    handler.name = _HANDLER
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if other.name != _HANDLER] + [handler]
    root.setLevel(settings.log_level)
    for name, level in _QUIET.items():
        quiet = logging.getLogger(name)
        quiet.setLevel(max(level, root.level))
        if name.startswith("uvicorn"):
            quiet.handlers, quiet.propagate = [], True
    logging.captureWarnings(True)


_HANDLER: Final = "seedwork"


def _without_other_handlers_traces(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Another handler's formatter leaves its work on the record, where it looks like a field."""
    for name in ("message", "asctime"):
        event.pop(name, None)
    return event


def _event_being_handled(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    envelope = current_envelope()
    if envelope is not None:
        event.setdefault("event_id", envelope.id)
        event.setdefault("correlation_id", envelope.correlation_id)
    return event


# --- keeping secrets out ------------------------------------------------------------------------------------

_SECRET_NAME: Final = re.compile(
    r"(^|_)pass(es)?$|passw(or)?d|passphrase|secret|token|authorization|cookie|credential|(api|private)_?key|(^|_)(hash|pwd)$",
    re.IGNORECASE,
)


def _scrub(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last step before a line is made of it, whoever wrote it."""
    return {name: MASK if _SECRET_NAME.search(name) else _clean(value) for name, value in event.items()}


def _clean(value: object) -> object:
    """Plain data without secrets; of anything else only the text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        fields = cast("dict[object, object]", value)
        return {str(name): MASK if _SECRET_NAME.search(str(name)) else _clean(inner) for name, inner in fields.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item) for item in cast("Iterable[object]", value)]
    return scrubbed(value if isinstance(value, str) else repr(value))


def _without_local_part(match: re.Match[str]) -> str:
    """A Message-ID looks like an address, too, and is made from an event's id: it stays."""
    return match[0] if _UUID.search(match[1]) else f"{MASK}@{match[2]}"


_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_PATTERNS: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    # the encoded form of argon2
    (re.compile(r"\$argon2[\w$=,+/.-]*"), MASK),
    # scheme://user:password@host
    (re.compile(r"(\b[a-z][\w+.-]*://[^\s:/@]*:)[^\s@]+(?=@)", re.IGNORECASE), rf"\g<1>{MASK}"),
    # an e-mail address
    (re.compile(r"([\w.!#$%&'*+/=?^`{|}~-]{1,64})@([\w-]+(?:\.[\w-]+)+)"), _without_local_part),
    # PostgreSQL: Key (email)=(…) already exists.  Failing row contains (…).
    (re.compile(r"(Key \([^)\n]*\)=\().*?(?=\) (?:already|is not|is still|conflicts))"), rf"\g<1>{MASK}"),
    (re.compile(r"(Failing row contains \().*?(?=\)\.)"), rf"\g<1>{MASK}"),
    # password='…', "password": "…"
    (
        re.compile(
            r"""(["']?\b(?:password|passwd|secret|token|api_key)["']?\s*[:=]\s*)(["'])(?:(?!\2).)*\2""",
            re.IGNORECASE,
        ),
        rf"\g<1>\g<2>{MASK}\g<2>",
    ),
)


def scrubbed(text: str) -> str:
    """`text` without e-mail addresses, password hashes, passwords of URLs and quoted rows."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
