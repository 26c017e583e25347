"""Call listeners with what each needs, in a transaction of their own or the inbox's."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from cauce.errors import ListenersFailedError
from cauce.events.envelope import Emission, current_emission
from cauce.events.event import DomainEvent, describe
from cauce.listeners.calling import call_listener, log_failure
from cauce.listeners.listener import Listener
from cauce.ports.transport import Delivery
from cauce.publishing.pending import AfterCommit
from cauce.publishing.transaction import Transaction, check_whole, leave
from cauce.publishing.units_of_work import UnitsOfWork

__all__ = ["Dispatcher"]

log = logging.getLogger("cauce.service")


class Dispatcher:
    """Calls the listeners of one service and tells its observers how that went."""

    def __init__(self, units_of_work: UnitsOfWork) -> None:
        self._units_of_work = units_of_work
        self._rules = units_of_work.rules
        self._dependencies = units_of_work.dependencies
        self._happenings = units_of_work.happenings

    async def publish_outside(self, event: DomainEvent) -> None:
        """Publish without a transaction of the caller's: every listener runs, in a transaction of its own.

        Their errors are raised together, as ListenersFailedError.
        """
        plan = self._rules.plan(type(event))
        emission = self._rules.written(event)[0] if plan.durable else self._rules.emission(event)
        self._happenings.count("published")
        self._happenings.tell("published", emission)
        errors: list[Exception] = []
        token = current_emission.set(emission)
        try:
            for listener in (*plan.in_transaction, *plan.after_commit, *plan.durable):
                try:
                    await self._call(listener, emission)
                except Exception as error:  # independent listeners: the rest still run
                    errors.append(error)
        finally:
            current_emission.reset(token)
        if errors:
            raise ListenersFailedError(describe(type(event)).name, errors)

    async def call_after_commit(self, due: AfterCommit) -> None:
        """Call the after-commit listeners of an event, with its publisher's context variables.

        Their errors are logged and counted: nobody waits for them.
        """
        loop = asyncio.get_running_loop()
        await loop.create_task(self._call_after_commit(due), context=due.variables)

    async def _call_after_commit(self, due: AfterCommit) -> None:
        token = current_emission.set(due.emission)
        try:
            for listener in due.listeners:
                try:
                    await self._call(listener, due.emission, apart=True)
                except Exception as error:
                    self._happenings.count("failed")
                    log_failure(log, self._rules.service, listener, due.emission.envelope, error)
                else:
                    self._happenings.count("handled")
        finally:
            current_emission.reset(token)

    async def call_once(self, listener: Listener, emission: Emission, delivery: Delivery) -> None:
        """Call one listener with a delivery that will not be repeated. Raises what it raises."""
        await self._call(listener, emission, apart=True, channel=delivery.channel, headers=delivery.headers)

    async def call_in(
        self,
        listener: Listener,
        emission: Emission,
        tx: Transaction | None,
        attempt: int,
        replayed: bool,
        channel: str,
    ) -> None:
        """Make one attempt at a durable delivery, in the transaction of its inbox row or in none.

        Raises what the listener raises, TimeoutError past its limit, and what `check_whole` says of its transaction.
        That it was handled is told once its transaction is committed, by whoever commits it.
        """
        circumstances: dict[str, Any] = {"attempt": attempt, "replayed": replayed, "channel": channel}
        limit_s = listener.registration.limit_s
        limit = asyncio.timeout(limit_s)
        token = current_emission.set(emission)
        try:
            async with limit:
                await self._call_and_leave(listener, emission, tx, circumstances)
            if tx is not None:
                check_whole(tx)  # here, because others may share the transaction
        except Exception as error:
            if limit.expired() and isinstance(error, TimeoutError) and not error.args:
                error.args = (f"it took longer than its limit_s of {limit_s:g} s",)
            self._happenings.tell("failed", emission, listener.name, error)
            raise
        finally:
            current_emission.reset(token)

    async def _call_and_leave(
        self, listener: Listener, emission: Emission, tx: Transaction | None, circumstances: Mapping[str, Any]
    ) -> None:
        """Call it, and leave what it needed: an error of that is the listener's, and not the transaction's."""
        try:
            await call_listener(listener, emission, self._dependencies, tx, apart=True, **circumstances)
        except BaseException as error:
            if tx is not None:
                await leave(tx, error)
            raise
        if tx is not None:
            await leave(tx)

    async def _call(self, listener: Listener, emission: Emission, *, apart: bool = False, **circumstances: Any) -> None:
        """Call one listener in a transaction of its own, opened only if it needs one."""
        try:
            if self._dependencies.needs_transaction(listener):
                async with self._units_of_work.transaction() as tx:
                    await call_listener(listener, emission, self._dependencies, tx, apart=apart, **circumstances)
            else:
                await call_listener(listener, emission, self._dependencies, None, apart=apart, **circumstances)
        except Exception as error:
            self._happenings.tell("failed", emission, listener.name, error)
            raise
        self._happenings.tell("handled", emission, listener.name)
