"""Logs of a service: structlog over stdlib logging, so that the libraries' lines obey the same rules.

While an event is handled, its ids are on every line; secrets are masked, whoever logged them.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import structlog
from cauce import current_envelope
from structlog.types import EventDict, Processor, WrappedLogger

from seedwork.masking import masked
from seedwork.settings import LogSettings

__all__ = ["configure"]

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
                _mask,
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


def _mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last step before a line is made of it."""
    return masked(event)
