"""The unit of work: what is written and what is published stand or fall together.

use case ─▶ publish ─▶ in-transaction listeners, at once ─▶ COMMIT ─▶ after-commit listeners, other services
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from cauce.errors import ConcurrentUseError, PublishError
from cauce.events.envelope import Clock, Emission, Envelope, NewId, current_emission, current_envelope
from cauce.events.event import DomainEvent, Event, IntegrationEvent
from cauce.listeners.calling import call_listener
from cauce.listeners.dependencies import Dependencies
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import UnitOfWork
from cauce.publishing.bus import not_an_event
from cauce.publishing.pending import AfterCommit, Pending, Plan

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["Rules", "Transaction"]

T = TypeVar("T")


class Rules(Protocol):
    """What a transaction needs to know of its service."""

    name: str
    version: str | None
    dependencies: "Dependencies[Transaction]"
    clock: Clock
    new_id: NewId

    @property
    def publishable(self) -> Sequence[type[Event]]: ...
    def plan(self, event_type: type[DomainEvent]) -> Plan: ...
    def check_publishable(self, event_type: type[IntegrationEvent]) -> None: ...
    def check_running(self, event_type: type[Event]) -> None: ...


class Transaction:
    """One unit of work of a service. Both event buses: the kind of the event decides what `publish` does.

    Made by `service.transaction()`; commits when its block ends, rolls back when an exception leaves it. For one task
    at a time: a second one that uses it meanwhile gets ConcurrentUseError.
    """

    def __init__(self, rules: Rules, work: UnitOfWork, levels: Savepoints[Pending], *, read_only: bool) -> None:
        self._rules = rules
        self._work = work
        self._levels = levels
        self._read_only = read_only
        self._made: dict[type[Any], object] = {}
        self._user: asyncio.Task[Any] | None = None
        self._ended = False

    @property
    def session(self) -> "AsyncSession":
        """The SQLAlchemy session of this transaction. Do not commit it: the transaction does."""
        return cast("AsyncSession", self._work.session)

    async def get(self, wanted: type[T], /) -> T:
        """The service's object of this type for this transaction (see `provide`), made once."""
        if wanted not in self._made:
            self._made[wanted] = await self._rules.dependencies.make(wanted, self)
        return cast(T, self._made[wanted])

    @overload
    async def publish(self, event: DomainEvent, /) -> None: ...
    @overload
    async def publish(self, event: IntegrationEvent, /) -> Envelope: ...
    async def publish(self, event: Event, /) -> Envelope | None:
        """Say that something happened, as part of this transaction.

        A domain event: its in-transaction listeners run now, in turn, on this transaction's session; the first error
        stops them and is raised here. Its after-commit listeners run after the commit. An integration event: accepted
        now, handed to the transport after the commit; the envelope returned holds its id. If the transaction (or the
        savepoint around the call) rolls back, neither was ever published.

        Raises PublishError if the event cannot be published here, ConcurrentUseError if another task is publishing.
        """
        if self._ended:
            raise PublishError("this transaction has ended; publish inside its block")
        if self._read_only:
            raise PublishError("this transaction is read-only; open it with service.transaction() to publish")
        with self._used_by_one_task("publishing"):
            if isinstance(event, DomainEvent):
                await self._publish_domain(event)
                return None
            if isinstance(event, IntegrationEvent):
                return self._accept(event)
            raise PublishError(not_an_event(event, self._rules.publishable))

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """A part that can fail alone: an exception leaving it undoes its changes and its events.

        ConcurrentUseError if another task is publishing, or tries to while this is open.
        """
        with self._used_by_one_task("in a savepoint"):
            async with self._work.savepoint():
                yield

    async def _publish_domain(self, event: DomainEvent) -> None:
        rules = self._rules
        plan = rules.plan(type(event))
        if plan.after_commit or plan.durable:
            rules.check_running(type(event))
        envelope = Envelope.of(
            event, source=rules.name, cause=current_envelope(), id=rules.new_id(), occurred_on=rules.clock()
        )
        emission = Emission(event, None, rules.name, envelope)
        self._work.take_part()
        self._levels.add(AfterCommit(emission, plan.in_transaction, plan.after_commit, plan.durable))
        token = current_emission.set(emission)
        try:
            for listener in plan.in_transaction:
                await call_listener(listener, emission, rules.dependencies, self)
        finally:
            current_emission.reset(token)

    def _accept(self, event: IntegrationEvent) -> Envelope:
        rules = self._rules
        rules.check_publishable(type(event))
        rules.check_running(type(event))
        self._work.take_part()
        envelope = Envelope.of(
            event,
            source_version=rules.version,
            cause=current_envelope(),
            id=rules.new_id(),
            occurred_on=rules.clock(),
        )
        self._levels.add(envelope)
        return envelope

    @contextmanager
    def _used_by_one_task(self, doing: str) -> Generator[None]:
        task = asyncio.current_task()
        before = self._user
        if before is not None and before is not task:
            raise ConcurrentUseError(
                f"another task is using this transaction ({doing} needs it alone), and a session serves one at a time. "
                "Await one after the other, or give each task a transaction of its own."
            )
        self._user = task
        try:
            yield
        finally:
            self._user = before

    # What follows is for the service that made the transaction.

    @property
    def work(self) -> UnitOfWork:
        return self._work

    @property
    def joined(self) -> bool:
        return self._work.joined

    async def commit(self) -> None:
        """Commit; see UnitOfWork.commit. ConcurrentUseError (and no commit) if a task still works in it."""
        if self._user is not None:
            raise ConcurrentUseError(
                "the transaction's block ended while another task was still working in it, so it was rolled back. "
                "Await that task inside the block."
            )
        self._ended = True
        await self._work.commit()

    async def rollback(self) -> None:
        self._ended = True
        await self._work.rollback()

    def take_committed(self) -> Sequence[Pending]:
        return self._levels.take()
