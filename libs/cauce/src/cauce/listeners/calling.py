"""One call of one listener, and the line that says it failed."""

import asyncio
import logging
from typing import Any

from cauce.events.envelope import Emission, Envelope
from cauce.listeners.context import Context
from cauce.listeners.dependencies import Dependencies, ScopeT
from cauce.listeners.listener import Listener
from cauce.telemetry.log_text import one_line, place_of
from cauce.telemetry.storable import describe_error, loggable

__all__ = ["call_listener", "log_failure"]


def log_failure(log: logging.Logger, service: str, listener: Listener, envelope: Envelope, error: Exception) -> None:
    """One line with who, what, why and where, and the traceback beneath it."""
    place = f" · {found}" if (found := place_of(error)) else ""
    line = f"{service}: {listener.name} failed on {envelope.name} {envelope.id}: {describe_error(error)}{place}"
    log.error("%s", one_line(f"{line} · not tried again"), exc_info=loggable(error))


async def call_listener(
    listener: Listener, emission: Emission, dependencies: Dependencies[ScopeT], tx: ScopeT | None, **circumstances: Any
) -> None:
    """One call of one listener with what it needs; its error is the caller's."""

    def context() -> Context:
        return Context(envelope=emission.envelope, listener=listener.name, **circumstances)

    arguments = await dependencies.arguments(listener, context, tx) if listener.parameters else {}
    if listener.is_async:
        await listener.call(emission.event, **arguments)
    elif listener.registration.blocking:
        await asyncio.to_thread(listener.call, emission.event, **arguments)
    else:
        listener.call(emission.event, **arguments)
