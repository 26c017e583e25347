"""Faults at exact places: wrappers around the ports, for test processes only.

FAULT=point:n[:how]   at the n-th time `point` is reached, SIGKILL (how: kill, the default) or SIGSTOP (how: stop) hits
this very process; it is written to the history first, so that a run in which nothing happened is not taken for proof.
Several are separated by commas. The points:

    before_insert, after_insert      of the outbox row               before_mark, after_mark   of a sent row
    before_commit                    of a transaction that writes    before_append             to the broker
    commit_sent                      COMMIT is on the wire           after_append              confirmed by it
    after_commit                     the database has confirmed      before_ack, after_ack     of a delivery
    before_reply                     of the HTTP door                before_read           of the broker, lanes chosen

No event has the commit of its handling struck more than twice, in all processes together: such a commit does not count.
A third death would be its own, as far as anybody can see, and the event a crash loop.
"""

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from cauce.ports.lanes import Epoch, Lane, MemberId
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import Outgoing
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound
from cauce.ports.transport import BrokerId, Deliver, Delivery, LanesOwned, Status, Subscription
from cauce.stores.sql.events_with_commit import PARAMETER
from cauce.stores.sql.message_store import SqlMessageStore
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.transports.redis_streams import RedisStreams
from msgspec.structs import replace
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine

from testsupport.durable.history import happened, read

__all__ = ["FaultyStore", "FaultyStreams", "reached", "watch"]

_STRIKES_PER_EVENT = 2
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_reached: Counter[str] = Counter()


def _wanted() -> dict[str, tuple[int, str]]:
    wanted: dict[str, tuple[int, str]] = {}
    for one in filter(None, os.environ.get("FAULT", "").split(",")):
        point, times, *how = one.split(":")
        wanted[point] = (int(times), how[0] if how else "kill")
    return wanted


def due(point: str, event_no: int | None = None) -> str | None:
    """Count that `point` was reached; how to fail if this is the time for it."""
    if point not in _wanted() or (event_no is not None and _strikes(event_no) >= _STRIKES_PER_EVENT):
        return None
    _reached[point] += 1
    times, how = _wanted()[point]
    return how if _reached[point] == times else None


def _strikes(event_no: int) -> int:
    return sum(1 for fact in read(os.environ["HISTORY"], "fault") if fact["no"] == event_no)


def strike(point: str, how: str, event_no: int | None = None) -> None:
    happened("fault", point=point, how=how, no=event_no)
    os.kill(os.getpid(), _SIGNALS[how])


def reached(point: str, event_no: int | None = None) -> None:
    if how := due(point, event_no):
        strike(point, how, event_no)


def _goes_to_the_outbox(statement: str, values: Mapping[str, Any]) -> bool:
    """PostgreSQL has one statement for what goes to the broker and what waits here; perhaps nothing of it goes."""
    return "INSERT INTO cauce_outbox" in statement and None in values.get("consumers", [None])


def _values(context: Any) -> Mapping[str, Any]:
    """A statement of the driver's own has none."""
    found: Sequence[Mapping[str, Any]] = getattr(context, "compiled_parameters", ())
    return found[0] if found else {}


def _meet_what_is_carried(connection: Connection) -> None:
    """The points around a row that COMMIT takes along. Between it and COMMIT nobody can stand but the server, so for a point
    in between it is executed on its own."""
    driver: Any = connection.connection.driver_connection
    if not any(_goes_to_the_outbox(*one) for one in getattr(driver, "carried", ())):
        return
    reached("before_insert")
    connection.info["writes"] = True
    if _wanted().keys() & {"after_insert", "before_commit"}:
        pooled: Any = connection.connection.dbapi_connection
        pooled.run_async(_execute_carried)
        reached("after_insert")


async def _execute_carried(driver: Any) -> None:
    carried, driver.carried = driver.carried, []
    for statement, values in carried:
        await driver.execute(PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%")), values)


def _send_commit(driver: Any) -> None:
    """With what it takes along, and wait for no answer."""
    if driver.carried:
        next(driver._commit_with_gen(driver.carried))  # as far as its first wait
        return
    driver.pgconn.send_query(b"COMMIT")
    while driver.pgconn.flush():
        pass


def watch(engine: AsyncEngine) -> None:
    """The points inside a transaction, as the engine sees them."""

    def before(_c: Any, _cursor: Any, statement: str, _p: Any, context: Any, *_: Any) -> None:
        if _goes_to_the_outbox(statement, _values(context)):
            reached("before_insert")

    def after(connection: Connection, _cursor: Any, statement: str, _p: Any, context: Any, *_: Any) -> None:
        if _goes_to_the_outbox(statement, _values(context)):
            connection.info["writes"] = True
            reached("after_insert")
        if statement.startswith("INSERT INTO ledger"):
            connection.info["writes"] = True
            connection.info["handles"] = context.compiled_parameters[0]["no"]

    def commit(connection: Connection) -> None:
        _meet_what_is_carried(connection)
        event_no = connection.info.pop("handles", None)
        if not connection.info.pop("writes", False):
            return
        reached("before_commit", event_no)
        if how := due("commit_sent", event_no):
            _send_commit(connection.connection.driver_connection)
            strike("commit_sent", how, event_no)

    def rollback(connection: Connection) -> None:
        if not connection.invalidated:  # then there is nothing left to remember
            connection.info.pop("writes", None)
            connection.info.pop("handles", None)

    event.listen(engine.sync_engine, "rollback", rollback)
    event.listen(engine.sync_engine, "before_cursor_execute", before)
    event.listen(engine.sync_engine, "after_cursor_execute", after)
    event.listen(engine.sync_engine, "commit", commit)


class FaultyStore(SqlAlchemyStore):
    def begin(
        self,
        savepoints: Savepoints[Any],
        *,
        read_only: bool,
        outgoing: Outbound | None = None,
        guarded: bool = False,
    ) -> Any:
        told: list[bool] = []

        def tell(pending: Sequence[Any]) -> Sequence[Outgoing]:
            rows = outgoing(pending) if outgoing is not None else []
            told.extend([True] * len(rows))
            return rows

        told_of = None if outgoing is None else tell
        work = super().begin(savepoints, read_only=read_only, outgoing=told_of, guarded=guarded)
        return _FaultyWork(work, told)

    def message_store(self) -> Any:
        return _FaultyMessageStore(self.engine)


class _FaultyWork:
    def __init__(self, work: Any, told: list[bool]) -> None:
        self._work = work
        self._told = told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        return self._work.savepoint()

    async def commit(self) -> None:
        await self._work.commit()
        if self._told:
            reached("after_commit")


class _FaultyMessageStore(SqlMessageStore):
    async def mark_sent(self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]) -> bool:
        reached("before_mark")
        marked = await super().mark_sent(owned, me, sent)
        reached("after_mark")
        return marked


_: type[MessageStore] = _FaultyMessageStore


class FaultyStreams(RedisStreams):
    async def append(self, topic: str, lane: Lane, messages: Sequence[bytes]) -> Sequence[BrokerId]:
        reached("before_append")
        ids = await super().append(topic, lane, messages)
        reached("after_append")
        return ids

    async def consume(
        self,
        subscription: Subscription,
        deliver: Deliver,
        status: Status,
        *,
        group: str,
        lanes: LanesOwned,
        since: Mapping[str, BrokerId],
    ) -> None:
        async def struck(delivery: Delivery) -> None:
            await deliver(replace(delivery, ack=_struck(delivery.ack)))

        def chosen() -> Mapping[Lane, int]:
            owned = lanes()
            if owned:
                reached("before_read")
            return owned

        await super().consume(subscription, struck, status, group=group, lanes=chosen, since=since)


def _struck(ack: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def acknowledge() -> None:
        reached("before_ack")
        await ack()
        reached("after_ack")

    return acknowledge
