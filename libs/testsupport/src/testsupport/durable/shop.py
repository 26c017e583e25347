"""What the test processes are made of: an event, a business table, and a ledger that would show every double.

The event tells its listener what to do, so that a test is a list of events: see `does`. It exists twice: for a broker,
and as a domain event for durable listeners beside its publisher.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from cauce import Context, DomainEvent, Envelope, IntegrationEvent, Reject, Retry, on
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from testsupport.durable.history import happened, read

__all__ = [
    "LEDGER",
    "SHOP",
    "Counted",
    "Noted",
    "append",
    "durable_listener",
    "keep_in_mind",
    "listener",
    "make_tables",
    "write_business_row",
]

SHOP, LEDGER = "shop", "ledger"


class Counted(IntegrationEvent, name="shop.counted", version=1, key="key", source=SHOP):
    """`does`: nothing more than its ledger row, or also, separated by spaces:

    raise         always fails                        fail:N    fails at the first N attempts
    reject        fails for good                      sleep:S   sleeps so many seconds, its row written
    exit          ends the process without a word     crash:N   the same, the first N times only
    leave         raises SystemExit                   cancel    awaits something that was cancelled
    caused        fails as long as there is a file with the name of the history and `.cause`

    `NAME@` before one of them: only in the listener of that name.
    """

    no: int
    key: str | None = None
    does: str = ""
    filler: str = ""


class Noted(DomainEvent, name="shop.noted", version=1, key="key"):
    """`does`: see Counted."""

    no: int
    key: str | None = None
    does: str = ""
    filler: str = ""


_TABLES = (
    "CREATE TABLE IF NOT EXISTS biz (no INTEGER PRIMARY KEY, event_id VARCHAR(128) NOT NULL, key VARCHAR(100))",
    (
        "CREATE TABLE IF NOT EXISTS ledger (position {serial}, consumer VARCHAR(100) NOT NULL, event_id VARCHAR(128) NOT NULL,"
        " key VARCHAR(100), key_seq INTEGER, incarnation VARCHAR(100), no INTEGER NOT NULL, worker INTEGER NOT NULL, "
        "attempt INTEGER NOT NULL)"
    ),
)


def make_tables(dialect: str) -> list[str]:
    """The statements, for the database at hand. The ledger has no unique constraint on purpose."""
    serial = "INTEGER PRIMARY KEY AUTOINCREMENT" if dialect == "sqlite" else "BIGSERIAL PRIMARY KEY"
    return [statement.format(serial=serial) for statement in _TABLES]


def listener(name: str, retry: Retry, *, limit_s: float) -> Callable[..., Awaitable[None]]:
    """A listener of its own name that appends to the ledger."""

    @on(Counted, name=name, retry=retry, limit_s=limit_s)
    async def apply(event: Counted, session: AsyncSession, context: Context, envelope: Envelope) -> None:
        await append(name, event, session, context, envelope)
        await _act(name, event, context)

    return apply


def durable_listener(name: str, retry: Retry, *, limit_s: float) -> Callable[..., Awaitable[None]]:
    """The same, beside the publisher."""

    @on(Noted, when="durable", name=name, retry=retry, limit_s=limit_s)
    async def apply(event: Noted, session: AsyncSession, context: Context, envelope: Envelope) -> None:
        await append(name, event, session, context, envelope)
        await _act(name, event, context)

    return apply


@on(Noted, name="biz")
async def keep_in_mind(event: Noted, session: AsyncSession, envelope: Envelope) -> None:
    """The business row of a domain event, in its publisher's transaction."""
    await write_business_row(session, event, envelope)


async def write_business_row(session: AsyncSession, event: Counted | Noted, envelope: Envelope) -> None:
    await session.execute(
        text("INSERT INTO biz (no, event_id, key) VALUES (:no, :event_id, :key)"),
        {"no": event.no, "event_id": envelope.id, "key": event.key},
    )


async def append(
    name: str, event: Counted | Noted, session: AsyncSession, context: Context, envelope: Envelope
) -> None:
    happened("called", consumer=name, no=event.no, attempt=context.attempt)
    await session.execute(
        text(
            "INSERT INTO ledger (consumer, event_id, key, key_seq, incarnation, no, worker, attempt) "
            "VALUES (:consumer, :event_id, :key, :key_seq, :incarnation, :no, :worker, :attempt)"
        ),
        {
            "consumer": name,
            "event_id": envelope.id,
            "key": envelope.key,
            "key_seq": envelope.key_seq,
            "incarnation": envelope.incarnation,
            "no": event.no,
            "worker": os.getpid(),
            "attempt": context.attempt,
        },
    )


async def _act(name: str, event: Counted | Noted, context: Context) -> None:
    for act in event.does.split():
        who, _, what = act.rpartition("@")
        if who in ("", name):
            await _do(what, event, context)


async def _do(act: str, event: Counted | Noted, context: Context) -> None:
    what, _, number = act.partition(":")
    match what:
        case "raise":
            raise ValueError(f"no {event.no} never works")
        case "fail":
            if context.attempt <= int(number):
                raise ValueError(f"no {event.no} does not work yet")
        case "caused":
            if _there_is_a_cause():
                raise ValueError(f"no {event.no} has a cause")
        case "reject":
            raise Reject(f"no {event.no} is not wanted")
        case "sleep":
            await asyncio.sleep(float(number))
        case "exit":
            _die(event)
        case "crash":
            deaths = [one for one in read(os.environ["HISTORY"], "died") if one["no"] == event.no]
            if len(deaths) < int(number):
                _die(event)
        case "leave":
            sys.exit(3)
        case "cancel":
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        case _:
            raise AssertionError(f"unknown act {act!r}")


def _there_is_a_cause() -> bool:
    return os.path.exists(os.environ["HISTORY"] + ".cause")


def _die(event: Counted | Noted) -> None:
    happened("died", no=event.no)
    os._exit(3)
