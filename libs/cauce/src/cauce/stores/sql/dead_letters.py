"""Dead letters: found, grouped by cause, replayed, discarded.

A replay makes the delivery due in the waiting room of its listener, and nothing else: the running service takes it from
there, and removes the dead letter in the transaction in which the listener succeeds. Two replays of one letter, also at
the same moment, get it handled once.

Tables: cauce_dead_letter (by its id, or by the unique event of a consumer), cauce_waiting (by the same event, and by
cauce_waiting_key for later events of the key), cauce_listener, cauce_audit.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.errors import DecodeError
from cauce.events.envelope import Envelope
from cauce.events.names import matches
from cauce.formats.anybodys_json import payload_of_message
from cauce.formats.cloudevents import from_json
from cauce.ports.figures import listener_of
from cauce.ports.inbox import Whole
from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.connections import ask, change
from cauce.stores.sql.inbox import REMOVE_WAITING
from cauce.stores.sql.listeners import resolve_listener
from cauce.stores.sql.one_action import in_one_action
from cauce.stores.sql.parked_keys import release_next
from cauce.stores.sql.recorded_attempts import RecordedAttempt, recorded_attempts, recorded_lines
from cauce.telemetry.log_text import place_in

__all__ = [
    "DeadLetter",
    "DeadLetterFilter",
    "by_prefix",
    "dead_letter_ids",
    "discard",
    "outcomes",
    "replay",
    "select",
    "siblings",
]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was given up, and its state now. Times are seconds since the epoch, by the database's clock."""

    id: str
    consumer: str
    source: str
    event_id: str
    name: str
    lane: int
    key: str | None
    channel: str
    message: bytes
    reason: str
    error: str
    stack: str | None
    attempts: int
    first_at: float
    last_at: float
    worker: str
    version: str | None
    """Of the code that failed, if its service tells."""
    tried: tuple[RecordedAttempt, ...]
    state: Literal["dead", "being_replayed"]
    behind: int
    """Later events of its key that wait for it."""
    whole: Whole | None = None
    """Of a message of which only the beginning is kept."""

    shown: str | None = None
    """What its listener is called now, if that is known."""

    @property
    def listener(self) -> str:
        return self.shown or listener_of(self.consumer)

    @property
    def reached_a_listener(self) -> bool:
        return "/" in self.consumer

    @property
    def place(self) -> str | None:
        """`mail.py:12 in send`: the innermost line of the traceback that is not of a library."""
        return place_in(self.stack or "")

    @property
    def envelope(self) -> Envelope | None:
        """The decoded message; None if the bytes are no event."""
        try:
            return from_json(self.message)
        except DecodeError:
            return None

    @property
    def payload(self) -> Any:
        """The payload, for people; None if the bytes are no event."""
        return payload_of_message(self.message)


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters: all given conditions must hold. `name` may be a pattern; `since_s` is an age."""

    listener: str | None = None
    name: str | None = None
    reason: str | None = None
    since_s: float | None = None


_COLUMNS = (
    "d.*, w.position AS waits, w.next_at AS due_at, (SELECT count(*) FROM cauce_waiting b WHERE b.consumer = d.consumer "
    "AND b.source = d.source AND b.key = d.key AND b.event_id <> d.event_id) AS behind, "
    "(SELECT l.name FROM cauce_listener l WHERE l.consumer = d.consumer) AS shown "
    "FROM cauce_dead_letter d LEFT JOIN cauce_waiting w "
    "ON w.consumer = d.consumer AND w.source = d.source AND w.event_id = d.event_id"
)


async def select(
    connection: AsyncConnection, filters: DeadLetterFilter, *, limit: int | None = None
) -> Sequence[DeadLetter]:
    """Read the newest `limit` dead letters that match, newest first. Raises NoSuchListenerError."""
    values: dict[str, Any] = {}
    conditions = ["1 = 1"]
    if filters.listener is not None:
        conditions.append("d.consumer = :consumer")
        values["consumer"] = await resolve_listener(connection, filters.listener)
    if filters.reason is not None:
        conditions.append("d.reason = :reason")
        values["reason"] = filters.reason
    if filters.since_s is not None:
        conditions.append("d.last_at >= :NOW - :since")
        values["since"] = filters.since_s
    if filters.name is not None:
        names = [str(row.name) for row in await ask(connection, "SELECT DISTINCT name FROM cauce_dead_letter")]
        meant = {f"name{number}": name for number, name in enumerate(names) if matches(filters.name, name)}
        conditions.append(f"d.name IN ({', '.join(f':{one}' for one in meant)})" if meant else "1 = 0")
        values |= meant
    statement = (
        f"SELECT {_COLUMNS} WHERE {' AND '.join(conditions)} ORDER BY d.last_at DESC, d.id"  # conditions of ours
    )
    if limit is not None:
        statement += " LIMIT :limit"
        values["limit"] = limit
    return [_letter(row) for row in await ask(connection, statement, **values)]


async def by_prefix(connection: AsyncConnection, prefix: str) -> Sequence[DeadLetter]:
    """Read the dead letters whose id begins so, at most twenty. The whole id means one."""
    if not re.fullmatch(r"[0-9a-f]{1,32}", prefix):
        return []
    statement = f"SELECT {_COLUMNS} WHERE d.id LIKE :prefix ORDER BY d.last_at DESC LIMIT 20"
    return [_letter(row) for row in await ask(connection, statement, prefix=f"{prefix}%")]


async def dead_letter_ids(connection: AsyncConnection) -> Sequence[str]:
    """Read the ids of all dead letters here."""
    return [str(row.id) for row in await ask(connection, "SELECT id FROM cauce_dead_letter")]


async def siblings(connection: AsyncConnection, letter: DeadLetter) -> int:
    """Count the other dead letters of the same listener, event, reason and error."""
    found = await ask(
        connection,
        "SELECT count(*) AS n FROM cauce_dead_letter WHERE consumer = :consumer AND name = :name AND reason = :reason "
        "AND error = :error AND id <> :id",
        consumer=letter.consumer,
        name=letter.name,
        reason=letter.reason,
        error=letter.error,
        id=letter.id,
    )
    return int(found[0].n)


async def outcomes(connection: AsyncConnection, replayed: Sequence[DeadLetter]) -> dict[str, str]:
    """Read the outcome of replays, by id: `handled`, `dead again`, or the state of the delivery in words."""
    found: dict[str, str] = {}
    for letter in replayed:
        (row,) = await ask(
            connection,
            "SELECT (SELECT d.last_at FROM cauce_dead_letter d WHERE d.consumer = :consumer AND d.source = :source "
            "AND d.event_id = :event_id) AS died_at, w.attempts AS attempts, w.position AS position, w.error AS error "
            "FROM (SELECT 1 AS one) x LEFT JOIN cauce_waiting w "
            "ON w.consumer = :consumer AND w.source = :source AND w.event_id = :event_id",
            **_of(letter),
        )
        if row.died_at is not None and float(row.died_at) > letter.last_at:
            found[letter.id] = "dead again"
        elif row.position is None:
            found[letter.id] = "handled" if row.died_at is None else "dead again"
        elif row.attempts:
            found[letter.id] = f"failed again {row.attempts} times, and will be tried further: {row.error}"
        else:
            found[letter.id] = "nobody has taken it yet"
    return found


async def replay(engine: AsyncEngine, letter: DeadLetter, *, why: str | None) -> bool | str:
    """Make it due now for its listener, with all its attempts again. False if it is gone: handled, or discarded.

    Returns why not if its row is being handled at this moment.
    """

    async def act(connection: AsyncConnection) -> bool:
        return await _replay(connection, letter) and await _audited(connection, "replay", letter, why)

    return await in_one_action(engine, act)


async def discard(engine: AsyncEngine, letter: DeadLetter, *, why: str) -> bool | str:
    """Delete it permanently; the next event of its key is due. False if it is gone, or why not, as in `replay`."""

    async def act(connection: AsyncConnection) -> bool:
        return await _discard(connection, letter) and await _audited(connection, "discard", letter, why)

    return await in_one_action(engine, act)


async def _audited(connection: AsyncConnection, what: str, letter: DeadLetter, why: str | None) -> bool:
    detail = {"id": letter.id, "name": letter.name, "key": letter.key, "error": letter.error}
    await write_audit(connection, what, why=why, detail=detail, **_of(letter))
    return True


async def _replay(connection: AsyncConnection, letter: DeadLetter) -> bool:
    # The waiting row first, then the dead letter: the order in which a listener's transaction takes them.
    due = await change(
        connection,
        "UPDATE cauce_waiting SET next_at = :NOW, scheduled_at = :NOW, attempts = 0, attempt_log = :attempt_log, troubles = NULL "
        "WHERE consumer = :consumer AND source = :source AND event_id = :event_id "
        "AND EXISTS (SELECT 1 FROM cauce_dead_letter WHERE id = :id)",
        **_of(letter),
        id=letter.id,
        attempt_log=recorded_lines(letter.tried),
    )
    if due:
        return True
    # Without a key, or refused before its listener saw it. Locked, so that it cannot be handled in between and return.
    added = await change(
        connection,
        "INSERT INTO cauce_waiting (consumer, source, event_id, name, lane, key, channel, message, attempts, next_at, "
        "scheduled_at, first_failed_at, error, attempt_log, created_at) "
        "SELECT consumer, source, event_id, name, lane, key, channel, message, 0, "
        ":NOW, :NOW, first_at, error, attempt_log, :NOW FROM cauce_dead_letter WHERE id = :id FOR UPDATE "
        # Another replay of it at this moment was faster.
        "ON CONFLICT (consumer, source, event_id) DO UPDATE SET next_at = :NOW, scheduled_at = :NOW, attempts = 0",
        id=letter.id,
    )
    return bool(added)


async def _discard(connection: AsyncConnection, letter: DeadLetter) -> bool:
    await change(connection, REMOVE_WAITING, **_of(letter))
    if not await change(connection, "DELETE FROM cauce_dead_letter WHERE id = :id", id=letter.id):
        return False
    await release_next(connection, consumer=letter.consumer, source=letter.source, key=letter.key)
    return True


def _of(letter: DeadLetter) -> dict[str, str]:
    return {"consumer": letter.consumer, "source": letter.source, "event_id": letter.event_id}


def _letter(row: Any) -> DeadLetter:
    return DeadLetter(
        id=str(row.id),
        consumer=str(row.consumer),
        source=str(row.source),
        event_id=str(row.event_id),
        name=str(row.name),
        lane=int(row.lane),
        key=row.key,
        channel=str(row.channel),
        message=bytes(row.message),
        reason=str(row.reason),
        error=str(row.error),
        stack=row.stack,
        attempts=int(row.attempts),
        first_at=float(row.first_at),
        last_at=float(row.last_at),
        worker=str(row.worker),
        version=row.version,
        tried=recorded_attempts(row.attempt_log),
        state="being_replayed" if row.waits is not None and row.due_at is not None else "dead",
        behind=int(row.behind),
        whole=None if row.sha256 is None else Whole(int(row.size), str(row.sha256)),
        shown=row.shown,
    )
