"""A story: publish or call, then say what should have come of it.

    async with story(service) as s:
        await s.publish(UserCreated(id="1", username="ana", email="ana@example.com"))
        await s.handled(welcome)
        mail = await s.published(MailSent, user_id="1")

Nothing here sleeps for luck: every wait ends the moment the awaited thing happens, and fails at its limit with the
whole causal tree of what did happen. A listener that fails unexpectedly fails the story, and so does a story that
expects nothing.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from cauce.errors import did_you_mean
from cauce.events.envelope import Envelope
from cauce.events.event import DomainEvent, Event, IntegrationEvent, describe
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import lane_of
from cauce.ports.transport import DurableTransport
from cauce.service.service import Service
from cauce.telemetry.happenings import Happening

__all__ = ["Story", "StoryError", "story"]

E = TypeVar("E", bound=Event)


class StoryError(AssertionError):
    """What was expected did not happen; the message holds the causal tree of what did."""


def story(*services: Service, limit_s: float = 5.0) -> "Story":
    """Run the services (those that are not running yet) for the length of an `async with` block.

    `limit_s` bounds every single wait.
    """
    if not services:
        raise StoryError("a story needs at least one service: story(service)")
    return Story(services, limit_s=limit_s)


class Story:
    """What happened so far, and ways to wait for more. Made by `story()`."""

    def __init__(self, services: tuple[Service, ...], *, limit_s: float) -> None:
        self._services = services
        self._limit_s = limit_s
        self._stack = AsyncExitStack()
        self._arrived: list[Envelope] = []
        self._happened: list[Happening] = []
        self._expected_failures: list[Happening] = []
        self._news = asyncio.Event()
        self._expectations = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for service in self._services:
                stack.callback(service.observe(self._note))
                if not service.running:
                    await stack.enter_async_context(service)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._settle()
                self._check_failures()
                if not self._expectations:
                    raise StoryError("this story expects nothing: await s.handled(…), s.published(…) or s.until(…)")
        finally:
            await self._stack.aclose()

    # Acting

    async def publish(self, event: Event) -> None:
        """Publish as production code would.

        A domain event, or an integration event of one of the story's services: in a transaction of that service. An
        integration event of another service: it arrives over the transport, as from outside. StoryError if nobody here
        hears it.
        """
        if isinstance(event, IntegrationEvent):
            source = describe(type(event)).source
            owner = next((service for service in self._services if service.name == source), None)
            if owner is None:
                await self._arrive(event)
            else:
                await owner.publish(event, outside=True)
        elif isinstance(event, DomainEvent):
            owner = next((one for one in self._services if _hears(one, type(event))), self._services[0])
            async with owner.transaction() as tx:
                await tx.publish(event)
        else:
            raise StoryError(f"{type(event).__name__} is not an event")

    # Expecting

    async def published(self, event_type: type[E], /, **fields: object) -> E:
        """Wait until an event of this class with these field values was published for good; returns the first."""
        found = await self._wait(
            lambda one: one.what == "published" and _fits(one.envelope, event_type, fields),
            f"{event_type.__name__}{_shown(fields)} to be published",
        )
        return cast(E, found.envelope.payload)

    async def handled(self, listener: Callable[..., object] | str, /, **fields: object) -> Envelope:
        """Wait until this listener has handled an event (with these field values); returns the event's envelope."""
        name = self._name_of(listener)
        found = await self._wait(
            lambda one: one.what == "handled" and one.listener == name and _fits(one.envelope, Event, fields),
            f"{name} to handle {'an event' if not fields else 'an event with ' + _shown(fields)}",
        )
        return found.envelope

    async def failed(self, listener: Callable[..., object] | str, /) -> Exception:
        """Wait until this listener has failed, as the story expects; returns its error."""
        name = self._name_of(listener)
        found = await self._wait(
            lambda one: one.what == "failed" and one.listener == name and one not in self._expected_failures,
            f"{name} to fail",
            failures_matter=False,
        )
        self._expected_failures.append(found)
        if found.error is None:
            raise StoryError(f"{name} failed without an error")
        return found.error

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], /, *, why: str = "") -> None:
        """Wait until a condition on the system's state holds; it is asked after every happening, and now and then."""
        self._expectations += 1
        try:
            async with asyncio.timeout(self._limit_s):
                while True:
                    self._news.clear()
                    answer = condition()
                    if await answer if inspect.isawaitable(answer) else answer:
                        return
                    self._check_failures()
                    await self._news_or(0.01)
        except TimeoutError:
            raise self._missing(why or "the condition to hold") from None

    async def never_published(self, event_type: type[Event], /, **fields: object) -> None:
        """Let everything under way finish, then fail if such an event was published.

        What a real broker has not delivered yet is not seen as under way: wait for what it leads to first.
        """
        self._expectations += 1
        await self._settle()
        for one in self._happened:
            if one.what == "published" and _fits(one.envelope, event_type, fields):
                raise StoryError(f"{event_type.__name__}{_shown(fields)} was published.\n\n{self.tree()}")

    def tree(self) -> str:
        """Everything that happened, each event under the one that caused it."""
        events = {one.id: one for one in (*self._arrived, *(happening.envelope for happening in self._happened))}
        if not events:
            return "Nothing was published, and no listener was called."
        roots = [one for one in events.values() if one.causation_id not in events]
        return "\n".join(line for root in roots for line in self._branch(root, events, ""))

    # Inside

    async def _arrive(self, event: IntegrationEvent) -> None:
        envelope = Envelope.of(event)
        accepted = {name for service in self._services for name in service.accepts}
        if envelope.name not in accepted:
            raise StoryError(
                f"{type(event).__name__} comes from another service ({envelope.source}), and nobody in this story hears "
                f"{envelope.name}.{did_you_mean(envelope.name, accepted)} Heard: {', '.join(sorted(accepted)) or 'nothing'}"
            )
        transport = next(one.transport for one in self._services if one.transport and envelope.name in one.accepts)
        self._arrived.append(envelope)
        if isinstance(transport, DurableTransport):
            await transport.append(envelope.source, lane_of(envelope), [to_json(envelope)])
        else:
            await transport.publish(lane_of(envelope), [envelope])

    def _note(self, happening: Happening) -> None:
        self._happened.append(happening)
        self._news.set()

    async def _wait(self, wanted: Callable[[Happening], bool], what: str, *, failures_matter: bool = True) -> Happening:
        self._expectations += 1
        try:
            async with asyncio.timeout(self._limit_s):
                while True:
                    self._news.clear()
                    for one in self._happened:
                        if wanted(one):
                            return one
                    if failures_matter:
                        self._check_failures()
                    await self._news.wait()
        except TimeoutError:
            raise self._missing(what) from None

    async def _news_or(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        except TimeoutError:
            return

    async def _settle(self) -> None:
        """Until nothing is under way in any service: handling one event may publish the next."""
        try:
            async with asyncio.timeout(self._limit_s):
                while any(service.unfinished for service in self._services):
                    self._news.clear()
                    await self._news_or(0.005)
        except TimeoutError:
            raise self._missing("the services to come to rest") from None

    def _check_failures(self) -> None:
        for one in self._happened:
            if one.what == "failed" and one not in self._expected_failures:
                raise StoryError(f"{one.listener} failed: {one.error!r}\n\n{self.tree()}") from one.error

    def _missing(self, what: str) -> StoryError:
        return StoryError(f"waited {self._limit_s:g} s for {what}.\n\n{self.tree()}")

    def _branch(self, envelope: Envelope, events: dict[str, Envelope], indent: str, mark: str = "") -> list[str]:
        lines = [f"{indent}{mark}{envelope.name} {envelope.id[:8]} from {envelope.source}"]
        indent += " " * len(mark)
        for one in self._happened:
            if one.envelope.id == envelope.id and one.what != "published":
                error = f": {one.error!r}" if one.error is not None else ""
                by = f" by {one.listener} ({one.service})" if one.listener else ""
                lines.append(f"{indent}  · {one.what}{by}{error}")
        for other in events.values():
            if other.causation_id == envelope.id:
                lines += self._branch(other, events, indent + "  ", "└ ")
        return lines

    def _name_of(self, listener: Callable[..., object] | str) -> str:
        names = {one.name: one for service in self._services for one in service.listeners}
        if isinstance(listener, str):
            if listener in names:
                return listener
        else:
            wanted: Any = listener
            key = getattr(wanted, "__func__", wanted)
            for name, one in names.items():
                if getattr(one.call, "__func__", one.call) is key:
                    return name
        raise StoryError(f"{listener!r} is no listener of this story. There are: {', '.join(names) or 'none'}")


def _hears(service: Service, event_type: type[Event]) -> bool:
    return any(listener.hears(event_type) for listener in service.listeners)


def _fits(envelope: Envelope, event_type: type[Event], fields: dict[str, object]) -> bool:
    payload = envelope.payload
    missing = object()
    return isinstance(payload, event_type) and all(
        getattr(payload, name, missing) == value for name, value in fields.items()
    )


def _shown(fields: dict[str, object]) -> str:
    return f"({', '.join(f'{name}={value!r}' for name, value in fields.items())})" if fields else ""
