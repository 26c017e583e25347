"""One call of one listener, whatever it is written as, and the line that says it failed."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any, cast

from cauce.errors import CauceError
from cauce.events.envelope import Emission, Envelope
from cauce.listeners.containment import as_error, contained, in_a_task_of_its_own
from cauce.listeners.context import Context
from cauce.listeners.dependencies import Dependencies, ScopeT
from cauce.listeners.effects import AtMostOnce, EffectNotDoneError
from cauce.listeners.listener import Listener
from cauce.listeners.opened import Opened
from cauce.listeners.threads import in_thread
from cauce.telemetry.causes import real_cause
from cauce.telemetry.log_text import one_line, place_of
from cauce.telemetry.storable import describe_error, loggable

__all__ = ["call_listener", "finish", "in_a_thread", "log_failure", "refuse_lazy"]

_LAZY = (GeneratorType, AsyncGeneratorType, map, filter)
"""What does nothing until somebody goes through it."""


def log_failure(log: logging.Logger, service: str, listener: Listener, envelope: Envelope, error: Exception) -> None:
    """One line with who, what, why and where, and the traceback beneath it."""
    cause = real_cause(error)
    place = f" · {found}" if (found := place_of(cause)) else ""
    line = f"{service}: {listener.name} failed on {envelope.name} {envelope.id}: {describe_error(cause)}{place}"
    log.error("%s", one_line(f"{line} · not tried again"), exc_info=loggable(error))


async def call_listener(
    listener: Listener,
    emission: Emission,
    dependencies: Dependencies[ScopeT],
    tx: ScopeT | None,
    *,
    apart: bool = False,
    **circumstances: Any,
) -> None:
    """Call a listener with what it needs, and finish what it gives back. Its error is raised, always an Exception.

    `apart`: in a task of its own, for callers that outlive the call. What it needs is made in this task, and left here
    when nothing else keeps it.
    """

    def context() -> Context:
        return Context(envelope=emission.envelope, listener=listener.name, **circumstances)

    async def call() -> None:
        if not listener.parameters:
            await run({})
            return
        async with Opened() as opened:
            arguments = await _arguments(listener, dependencies, context, tx, opened)
            await run(arguments)

    async def run(arguments: dict[str, object]) -> None:
        work = _run(listener, emission, arguments)
        await (in_a_task_of_its_own(work, listener.name) if apart else work)

    await contained(call(), listener.name)


async def _arguments(
    listener: Listener,
    dependencies: Dependencies[ScopeT],
    context: Callable[[], Context],
    tx: ScopeT | None,
    opened: Opened,
) -> dict[str, object]:
    try:
        return await dependencies.arguments(listener, context, tx, opened)
    except Exception as error:
        if isinstance(listener.registration.effect, AtMostOnce):
            raise EffectNotDoneError(f"{listener.name} was not called: what it needs could not be made") from error
        raise


async def _run(listener: Listener, emission: Emission, arguments: dict[str, object]) -> None:
    if listener.registration.blocking:
        call = partial(listener.call, emission.event, **arguments)
        result = await in_a_thread(call, listener.name, purpose=(listener.name, emission.envelope.id))
    else:
        result = listener.call(emission.event, **arguments)
    if result is not None:
        await finish(result, listener.name)


async def in_a_thread(call: Callable[[], object], who: str, *, purpose: Hashable = None) -> object:
    """Make a call in a thread; return what it returns, raise what it raises, always an Exception. `purpose`: see
    in_thread."""

    def outcome() -> tuple[object, Exception | None]:
        # An error crosses as a value: a future takes no StopIteration, and its awaiter would never be resumed.
        try:
            return call(), None
        except BaseException as error:  # signals come to the main thread, so this is no Ctrl-C
            return None, as_error(error, who)

    result, error = cast("tuple[object, Exception | None]", await in_thread(outcome, who, purpose=purpose))
    if isinstance(error, StopIteration):
        stopped = CauceError(f"{who} raised StopIteration: next() found nothing more")
        raise stopped.with_traceback(error.__traceback__) from error
    if error is not None:
        raise error
    return result


async def finish(result: object, who: str) -> None:
    """Await what a listener returned, as long as that gives something to await.

    So it does not matter whether the listener is async, or a plain function that returns a coroutine or a task.
    Raises CauceError for a generator: nothing of it has run.
    """
    while True:
        if isinstance(result, Future):
            result = asyncio.wrap_future(cast("Future[object]", result))
        if not inspect.isawaitable(result):
            break
        result = await cast("Awaitable[object]", result)
    refuse_lazy(result, who)


def refuse_lazy(result: object, who: str) -> None:
    """Raise CauceError if a listener returned what has done nothing yet and never will."""
    if isinstance(result, _LAZY):
        kind: type[object] = type(cast("object", result))
        raise CauceError(
            f"{who} returned a {kind.__name__}, and nothing of it has run: go through it, or remove the yield"
        )
