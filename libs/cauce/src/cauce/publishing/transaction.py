"""The unit of work: what is written and what is published commit or roll back together.

use case ─▶ publish ─▶ in-transaction listeners, at once ─▶ COMMIT ─▶ after-commit listeners, other services
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from cauce.errors import ConcurrentUseError, PublishError, TransactionEndedError
from cauce.events.envelope import Envelope, current_emission
from cauce.events.event import DomainEvent, Event, IntegrationEvent
from cauce.listeners.calling import call_listener
from cauce.listeners.containment import contained
from cauce.listeners.dependencies import Dependencies
from cauce.listeners.opened import Opened
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import UnitOfWork
from cauce.publishing.pending import AfterCommit, Pending
from cauce.publishing.rules import PublishingRules

if TYPE_CHECKING:
    from types import CoroutineType

    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["Outlet", "Transaction", "check_whole", "end", "end_undone", "leave"]

T = TypeVar("T")


class Outlet(Protocol):
    """Takes on published events once their commit is known."""

    def check(self, event_type: type[Event], /) -> None:
        """Raise PublishError if nothing would take it on, OutboxFullError if too much waits already."""
        ...

    def committed(self, pending: Sequence[Pending], /) -> None:
        """Take on what is known to be committed. Never waits, never raises."""
        ...


class Transaction:
    """One unit of work of a service. Both event buses: the kind of the event decides what `publish` does.

    Created by `service.transaction()`; commits when its block ends, rolls back when an exception leaves it. One task at
    a time: a second task that uses it meanwhile gets ConcurrentUseError.
    """

    def __init__(
        self,
        rules: PublishingRules,
        dependencies: "Dependencies[Transaction]",
        outlet: Callable[[], Outlet],
        work: UnitOfWork,
        savepoints: Savepoints[Pending],
        *,
        read_only: bool,
    ) -> None:
        self._rules = rules
        self._dependencies = dependencies
        self._outlet = outlet
        self._work = work
        self._savepoints = savepoints
        self._read_only = read_only
        self._made: dict[type[Any], object] = {}
        self._unawaited: dict[object, str] = {}
        self._opened = Opened()
        self._user: asyncio.Task[Any] | None = None
        self._ended = False

    @property
    def session(self) -> "AsyncSession":
        """The SQLAlchemy session of this transaction. Do not commit it: the transaction does.

        Raises TransactionEndedError once the block has ended, as the session itself does then.
        """
        if self._ended:
            raise TransactionEndedError(
                "this transaction has ended, and its session with it. Do the work inside its block, or open another one: "
                "async with service.transaction() as tx: …"
            )
        return cast("AsyncSession", self._work.session)

    async def get(self, wanted: type[T], /) -> T:
        """The service's object of this type for this transaction (see `provide`), made once.

        What its factory wrote with `yield` is left when the transaction's block ends, before the commit.
        """
        if wanted not in self._made:
            self._made[wanted] = await self._dependencies.make(wanted, self, self._opened)
        return cast(T, self._made[wanted])

    @overload
    def publish(self, event: DomainEvent, /) -> "CoroutineType[Any, Any, None]": ...
    @overload
    def publish(self, event: IntegrationEvent, /) -> "CoroutineType[Any, Any, Envelope]": ...
    def publish(self, event: Event, /) -> "CoroutineType[Any, Any, Envelope | None]":
        """Publish an event as part of this transaction.

        A domain event: its in-transaction listeners run now, in turn, on this transaction's session; the first error
        stops them and is raised here. Its after-commit listeners run after the commit. An integration event: accepted
        now, handed to the transport after the commit; the envelope returned holds its id. If the transaction (or the
        savepoint around the call) rolls back, neither was ever published.

        Raises PublishError if the event cannot be published here, ConcurrentUseError if another task is publishing. If
        it was not awaited, the end of the block raises PublishError, and nothing is committed. An integration event, and
        a domain event that a durable listener hears, is written and read back first: PublishError with `path` and
        `expectation` for one that its readers would not get as it is. No listener has run then.
        """
        promise = object()
        self._unawaited[promise] = type(event).__name__
        return self._publish(event, promise)

    async def _publish(self, event: Event, promise: object) -> Envelope | None:
        del self._unawaited[promise]
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
            raise self._rules.not_an_event(event)

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """A part that can fail alone: an exception leaving it undoes its changes and its events.

        ConcurrentUseError if another task is publishing, or tries to while this is open.
        """
        with self._used_by_one_task("in a savepoint"):
            async with self._work.savepoint():
                yield

    async def _publish_domain(self, event: DomainEvent) -> None:
        plan = self._rules.plan(type(event))
        if plan.after_commit or plan.durable:
            self._outlet().check(type(event))
        emission, message = self._rules.written(event) if plan.durable else (self._rules.emission(event), None)
        self._work.take_part()
        variables = copy_context() if plan.after_commit else None
        self._savepoints.add(
            AfterCommit(emission, plan.in_transaction, plan.after_commit, plan.durable, message, variables)
        )
        token = current_emission.set(emission)
        try:
            for listener in plan.in_transaction:
                await call_listener(listener, emission, self._dependencies, self)
        finally:
            current_emission.reset(token)

    def _accept(self, event: IntegrationEvent) -> Envelope:
        self._rules.check(type(event))
        self._outlet().check(type(event))
        to_send = self._rules.to_send(event)
        self._work.take_part()
        self._savepoints.add(to_send)
        return to_send.envelope

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


# Functions, not methods: a transaction is ended by the unit of work that opened it, never by the code that was given it.


async def leave(tx: Transaction, error: BaseException | None = None) -> None:
    """Leave what was made for the transaction and has an end, in the task that made it. Raises what leaving it raises.

    It is made again for whoever asks again.
    """
    opened = tx._opened  # pyright: ignore[reportPrivateUsage]
    if opened.is_empty:
        return
    tx._made.clear()  # pyright: ignore[reportPrivateUsage]  # it may hold what is left now
    kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
    await contained(opened.__aexit__(kind, error, trace), "what a listener needed")


def check_whole(tx: Transaction) -> None:
    """Raise what the end of the block would raise now: because of what was done in it, it must not be committed.

    PublishError for an event that was published without `await`; TransactionAbortedError or TransactionEndedError.
    """
    if unawaited := tx._unawaited:  # pyright: ignore[reportPrivateUsage]
        name = next(iter(unawaited.values()))
        raise PublishError(
            f"publish({name}) was not awaited, so it was not published, and the transaction is rolled back. "
            f"Write: await tx.publish({name}(…))"
        )
    tx._work.check()  # pyright: ignore[reportPrivateUsage]


def end(tx: Transaction) -> None:
    """End a transaction before its commit. ConcurrentUseError if a task still works in it: then it must not commit.

    And what `check_whole` raises.
    """
    if tx._user is not None:  # pyright: ignore[reportPrivateUsage]
        raise ConcurrentUseError(
            "the transaction's block ended while another task was still working in it, so it was rolled back. "
            "Await that task inside the block."
        )
    check_whole(tx)
    tx._ended = True  # pyright: ignore[reportPrivateUsage]


def end_undone(tx: Transaction) -> None:
    """End a transaction before its rollback, in any state."""
    tx._ended = True  # pyright: ignore[reportPrivateUsage]
