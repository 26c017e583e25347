"""Ways in which listeners misbehave, and how an event may end that its listener handles so: the catalogue of the swarm.

Each way is an act that an event asks for (`does`, see shop.py). It happens after the ledger row is written, so that a
row which stays without its event having been handled is seen, and so is an event counted as handled whose row is gone.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from cauce import DomainEvent, EffectNotDoneError, Reject, RetryAfter, Transaction
from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from testsupport.durable.history import happened, read

__all__ = ["WAYS", "Needs", "Situation", "Way", "in_a_thread", "misbehave"]

Needs = Literal["nothing", "loop", "session", "postgresql"]
"""What a way needs of its listener: nothing but being called, the event loop, a session, or one of PostgreSQL."""


class Situation(Struct, frozen=True):
    """The call of a listener that is to misbehave. `session` and `tx` are None for one that has no transaction."""

    no: int
    attempt: int
    session: AsyncSession | None = None
    tx: Transaction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to misbehave. `ends`: how the event may end: "applied", or the reason of its dead letter."""

    does: Callable[[Situation], Awaitable[None] | None]
    needs: Needs = "nothing"
    ends: frozenset[str] = frozenset({"exhausted"})
    on_sqlite: frozenset[str] | None = None
    """How it may end there, where that differs."""
    at_most_once: frozenset[str] | None = None
    """How it may end in an effect at most once, where that differs."""
    deadly: bool = False
    """It ends the process, each time."""

    def may_end(self, kind: str, dialect: str) -> frozenset[str]:
        if kind == "at-most-once":
            doubtful = frozenset({"uncertain"}) if "exhausted" in self.ends else frozenset[str]()
            return self.at_most_once if self.at_most_once is not None else self.ends | doubtful
        return self.on_sqlite if self.on_sqlite is not None and dialect == "sqlite" else self.ends


class _UnsayableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text can be made of it")

    __repr__ = __str__


class _NotEvenAnException(BaseException):
    pass


class _Unpublishable(DomainEvent, name="swarm.unpublishable"):
    pass


def _raising(make: Callable[[], BaseException]) -> Callable[[Situation], None]:
    def act(_: Situation) -> None:
        raise make()

    return act


def _at_first(make: Callable[[], Exception]) -> Callable[[Situation], None]:
    def act(situation: Situation) -> None:
        if situation.attempt == 1:
            raise make()

    return act


def _group(*errors: BaseException) -> Callable[[], BaseException]:
    return lambda: BaseExceptionGroup("several", [BaseExceptionGroup("within", list(errors))])


def _recursing(situation: Situation) -> None:
    _recursing(situation)


def _blocking(seconds: float) -> Callable[[Situation], None]:
    return lambda _: time.sleep(seconds)


def _exiting(_: Situation) -> None:
    os._exit(3)


# On the event loop


async def _hang(_: Situation) -> None:
    await asyncio.Event().wait()


async def _cancelled(_: Situation) -> None:
    gone = asyncio.get_running_loop().create_future()
    gone.cancel()
    await gone


async def _reject_in_a_group(_: Situation) -> None:
    async def reject() -> None:
        raise Reject("one of several is not wanted")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reject())
        tasks.create_task(asyncio.sleep(5))


async def _swallow_the_limit(_: Situation) -> None:
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        return


async def _leave_a_task(_: Situation) -> None:
    async def later() -> None:
        raise ValueError("in a task that nobody waits for")

    asyncio.get_running_loop().create_task(later())  # that is the mistake


async def _connect_elsewhere(_: Situation) -> None:
    other = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    async with other.connect():
        pass


async def _call_nobody(_: Situation) -> None:
    await asyncio.open_connection("127.0.0.1", 1)


# With the session


def _statement(sql: str) -> Callable[[Situation], Awaitable[None]]:
    async def act(situation: Situation) -> None:
        await _session(situation).execute(text(sql))

    return act


def _swallowed(sql: str) -> Callable[[Situation], Awaitable[None]]:
    async def act(situation: Situation) -> None:
        with suppress(DBAPIError):
            await _session(situation).execute(text(sql))

    return act


async def _swallowed_in_a_savepoint(situation: Situation) -> None:
    with suppress(DBAPIError):
        async with _session(situation).begin_nested():
            await _session(situation).execute(text("INSERT INTO nowhere VALUES (1)"))


async def _commit(situation: Situation) -> None:
    await _session(situation).commit()


async def _commit_and_raise(situation: Situation) -> None:
    await _session(situation).commit()
    raise ValueError("after its own commit")


async def _swallowed_commit(situation: Situation) -> None:
    with suppress(Exception):
        await _session(situation).commit()


async def _roll_back(situation: Situation) -> None:
    await _session(situation).rollback()


async def _roll_back_and_write(situation: Situation) -> None:
    await _session(situation).rollback()
    await _session(situation).execute(text("DELETE FROM ledger WHERE 1 = 0"))


async def _close(situation: Situation) -> None:
    await _session(situation).close()


async def _use_it_later(situation: Situation) -> None:
    session = _session(situation)

    async def later() -> None:
        await asyncio.sleep(0.3)
        await session.execute(text("DELETE FROM ledger"))
        await session.commit()

    asyncio.get_running_loop().create_task(later())  # that is the mistake


async def _forget_to_await(situation: Situation) -> None:
    assert situation.tx is not None
    situation.tx.publish(_Unpublishable())  # pyright: ignore[reportUnusedCoroutine]  # that is the mistake


async def _publish_no_event(situation: Situation) -> None:
    assert situation.tx is not None
    nothing: Any = object()
    await situation.tx.publish(nothing)


async def _end_the_connection_once(situation: Situation) -> None:
    ended = [one for one in read(os.environ["HISTORY"], "connection ended") if one["no"] == situation.no]
    if not ended:
        happened("connection ended", no=situation.no)
        await _session(situation).execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def _session(situation: Situation) -> AsyncSession:
    assert situation.session is not None
    return situation.session


_APPLIED = frozenset({"applied"})
_REJECTED = frozenset({"rejected"})
_EITHER = frozenset({"applied", "exhausted"})
_DUPLICATE = "INSERT INTO cauce_meta (name, value) VALUES ('schema', 'again')"

WAYS: dict[str, Way] = {
    # raises odd errors
    "raises": Way(does=_raising(lambda: ValueError("never works"))),
    "fails-once": Way(
        does=_at_first(lambda: ValueError("not yet")), ends=_APPLIED, at_most_once=frozenset({"uncertain"})
    ),
    "asks-for-later": Way(does=_at_first(lambda: RetryAfter(0.05)), ends=_APPLIED),
    "rejects": Way(does=_raising(lambda: Reject("not wanted")), ends=_REJECTED),
    "nul": Way(does=_raising(lambda: ValueError("a\0b"))),
    "surrogate": Way(does=_raising(lambda: ValueError("a\ud800b"))),
    "unsayable": Way(does=_raising(_UnsayableError)),
    "verbose": Way(does=_raising(lambda: ValueError("x" * 5_000_000))),
    "no-words": Way(does=_raising(ValueError)),
    "group": Way(does=_raising(_group(ValueError("one"), KeyError("two")))),
    "group-rejects": Way(does=_raising(_group(Reject("not wanted"))), ends=_REJECTED),
    "group-exits": Way(does=_raising(_group(SystemExit(4)))),
    "exits-politely": Way(does=lambda _: sys.exit(3)),
    "base-exception": Way(does=_raising(_NotEvenAnException)),
    "stop-iteration": Way(does=_raising(StopIteration)),
    "generator-exit": Way(does=_raising(GeneratorExit)),
    "recursion": Way(does=_recursing),
    "memory": Way(does=_raising(MemoryError)),
    "not-done": Way(does=_raising(lambda: EffectNotDoneError("not done"))),
    "os-error": Way(does=_raising(lambda: ConnectionRefusedError(111, "refused"))),
    "time-out": Way(does=_raising(TimeoutError)),
    # holds on
    "blocks-the-loop": Way(does=_blocking(0.15), needs="loop", ends=_APPLIED),
    "blocks-past-its-limit": Way(does=_blocking(0.8), needs="loop", ends=_EITHER),
    "hangs": Way(does=_hang, needs="loop"),
    "swallows-its-limit": Way(does=_swallow_the_limit, needs="loop", ends=_EITHER),
    "cancelled": Way(does=_cancelled, needs="loop"),
    "group-of-tasks-rejects": Way(does=_reject_in_a_group, needs="loop", ends=_REJECTED),
    "leaves-a-task": Way(does=_leave_a_task, needs="loop", ends=_APPLIED),
    "another-database-is-away": Way(does=_connect_elsewhere, needs="loop"),
    "another-service-is-away": Way(does=_call_nobody, needs="loop"),
    # mistreats its transaction
    "no-such-table": Way(does=_statement("INSERT INTO nowhere VALUES (1)"), needs="session"),
    "syntax": Way(does=_statement("INSRT"), needs="session"),
    "conflict": Way(does=_statement(_DUPLICATE), needs="session"),
    "swallows-a-conflict": Way(does=_swallowed(_DUPLICATE), needs="session", on_sqlite=_APPLIED),
    "swallows-no-such-table": Way(does=_swallowed("SELECT * FROM nowhere"), needs="session", on_sqlite=_APPLIED),
    "swallows-in-a-savepoint": Way(does=_swallowed_in_a_savepoint, needs="session", ends=_APPLIED),
    "commits": Way(does=_commit, needs="session"),
    "commits-and-raises": Way(does=_commit_and_raise, needs="session"),
    "swallows-its-commit": Way(does=_swallowed_commit, needs="session"),
    "rolls-back": Way(does=_roll_back, needs="session"),
    "rolls-back-and-writes": Way(does=_roll_back_and_write, needs="session"),
    "says-commit": Way(does=_statement("COMMIT"), needs="session"),
    "says-rollback": Way(does=_statement("ROLLBACK"), needs="session"),
    "closes": Way(does=_close, needs="session"),
    "uses-it-later": Way(does=_use_it_later, needs="session", ends=_APPLIED),
    "forgets-to-await": Way(does=_forget_to_await, needs="session"),
    "publishes-no-event": Way(does=_publish_no_event, needs="session"),
    "slow-statement": Way(
        does=_statement("SELECT set_config('statement_timeout', '20', true), pg_sleep(0)"),
        needs="postgresql",
        ends=_APPLIED,
    ),
    "statement-time-out": Way(
        does=_statement("DO $$ BEGIN RAISE EXCEPTION 'slow' USING ERRCODE = '57014'; END $$"), needs="postgresql"
    ),
    "system-error": Way(
        does=_statement("DO $$ BEGIN RAISE EXCEPTION 'io' USING ERRCODE = '58000'; END $$"), needs="postgresql"
    ),
    "not-available": Way(
        does=_statement("DO $$ BEGIN RAISE EXCEPTION 'locked' USING ERRCODE = '55P03'; END $$"), needs="postgresql"
    ),
    "begins-again": Way(does=_statement("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), needs="postgresql"),
    "read-only": Way(
        does=_statement("DO $$ BEGIN RAISE EXCEPTION 'ro' USING ERRCODE = '25006'; END $$"), needs="postgresql"
    ),
    "connection-ends-once": Way(does=_end_the_connection_once, needs="postgresql", ends=_APPLIED),
    # dies
    "dies": Way(does=_exiting, ends=frozenset({"crash loop"}), deadly=True),
}


async def misbehave(way: str, situation: Situation) -> None:
    """Do it. Raises whatever belongs to it."""
    doing = WAYS[way].does(situation)
    if doing is not None:
        await doing


def in_a_thread(way: str, situation: Situation) -> None:
    """Do it where no event loop is; only what needs nothing."""
    assert WAYS[way].needs == "nothing"
    WAYS[way].does(situation)
