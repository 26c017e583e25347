"""Waiting deliveries for operators: found with their cause, made due now, moved to another listener, discarded.

Every action locks the waiting row first, then asks what became of it: one that the running service is handling is
refused or waited for, never lost and never handled twice. A delivery has the id that its dead letter would have.

Tables: cauce_waiting (by position; the others of a key by cauce_waiting_key), cauce_dead_letter and cauce_inbox (by the
unique event of a consumer), cauce_listener, cauce_lane and cauce_member, cauce_audit. A search reads all of
cauce_waiting.
"""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal, get_args

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.errors import DecodeError
from cauce.events.envelope import Envelope
from cauce.events.names import matches
from cauce.formats.cloudevents import from_json
from cauce.ports.description import Description
from cauce.ports.figures import listener_of
from cauce.ports.inbox import letter_id_of
from cauce.stores.sql.audit import write_audit
from cauce.stores.sql.connections import ask, change
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.inbox import REMOVE_WAITING
from cauce.stores.sql.listeners import resolve_listener
from cauce.stores.sql.one_action import in_one_action
from cauce.stores.sql.parked_keys import release_next
from cauce.stores.sql.recorded_attempts import RecordedAttempt, recorded_attempts
from cauce.stores.sql.registry import description_of

__all__ = [
    "STATES",
    "Waiting",
    "WaitingFilter",
    "WaitingState",
    "by_prefix",
    "choose",
    "count_by_listener",
    "discard",
    "move",
    "overview",
    "retry",
    "soonest_failing",
]

WaitingState = Literal["failing", "trouble", "due", "behind", "held", "postponed", "paused", "gone", "dead"]
"""Why a delivery waits:

failing    will be tried again at a time
trouble    the same, after trouble with the database, which costs no attempt
due        to be taken now
behind     an earlier event of its key is first
held       first of its key, and nothing makes it due
postponed  of a newer version than the code that runs
paused     its listener is paused
gone       its listener, or its event's class, is not in the code
dead       a dead letter, whose key waits
"""
STATES: tuple[str, ...] = get_args(WaitingState)

_PORTION = 10_000


class Waiting(Struct, frozen=True, kw_only=True):
    """A delivery that waits, and why. Times are seconds since the epoch, by the database's clock."""

    id: str
    position: int
    consumer: str
    source: str
    event_id: str
    name: str
    lane: int
    key: str | None
    channel: str
    state: WaitingState
    attempts: int
    allowed: int | None
    """Attempts that the listener's policy allows; None if its service does not say."""
    next_at: float | None
    due_in_s: float | None
    created_at: float
    error: str | None
    place: str | None
    in_trouble_since: float | None
    """Since when trouble with the database is why it waits; None if that is not why."""
    tried: tuple[RecordedAttempt, ...]
    paused_because: str | None
    head_id: str | None
    """Of the first delivery of its key, which it waits for; None if it is the first itself."""
    head_error: str | None
    head_dead: bool
    ahead: int
    behind: int
    alike: int
    """How many of the listener wait in the same state and with the same error."""
    message: bytes
    shown: str | None = None
    """What its listener is called now, if that is known."""

    @property
    def listener(self) -> str:
        return self.shown or listener_of(self.consumer)

    @property
    def envelope(self) -> Envelope | None:
        """The decoded message; None if the bytes are no event."""
        return _envelope(self.message)


class WaitingFilter(Struct, frozen=True, kw_only=True):
    """Which deliveries: all given conditions must hold. `name` may be a pattern."""

    listener: str | None = None
    name: str | None = None
    key: str | None = None
    state: str | None = None


_STATE = (
    "CASE WHEN d.id IS NOT NULL THEN 'dead' WHEN NOT ({known_consumer}) THEN 'gone' "
    "WHEN l.paused_at IS NOT NULL THEN 'paused' WHEN w.reason IS NOT NULL THEN 'postponed' "
    "WHEN NOT ({known_name}) THEN 'gone' WHEN h.position < w.position THEN 'behind' WHEN w.next_at IS NULL THEN 'held' "
    "WHEN w.in_trouble_since IS NOT NULL THEN 'trouble' WHEN w.attempts > 0 OR w.error IS NOT NULL THEN 'failing' "
    "ELSE 'due' END"
)
_STATED = (
    "SELECT w.*, l.name AS shown, l.paused_because, h.event_id AS head_event, h.error AS head_error, "
    f"hd.id AS head_letter, h.position AS head_position, {_STATE} AS state FROM cauce_waiting w "
    "LEFT JOIN cauce_listener l ON l.consumer = w.consumer "
    "LEFT JOIN cauce_dead_letter d ON d.consumer = w.consumer AND d.source = w.source AND d.event_id = w.event_id "
    "LEFT JOIN cauce_waiting h ON h.position = (SELECT min(e.position) FROM cauce_waiting e "
    "WHERE e.consumer = w.consumer AND e.source = w.source AND e.key = w.key) "
    "LEFT JOIN cauce_dead_letter hd ON hd.consumer = h.consumer AND hd.source = h.source AND hd.event_id = h.event_id"
)
_OF_ITS_KEY = (
    "SELECT count(*) FROM cauce_waiting b WHERE b.consumer = s.consumer AND b.source = s.source AND b.key = s.key"
)
_SHOWN = (
    f"s.*, s.next_at - :NOW AS due_in, ({_OF_ITS_KEY} AND b.position < s.position) AS ahead, "
    f"({_OF_ITS_KEY} AND b.position > s.position) AS behind"
)


class _Search:
    """One search: what the service says about itself, the conditions and their values."""

    def __init__(self, connection: AsyncConnection, description: Description | None) -> None:
        self._connection = connection
        dialect = Dialect(connection.dialect.name)
        self._dialect = dialect
        self.conditions = ["1 = 1"]
        self.values: dict[str, Any] = {}
        self._allowed: Mapping[str, int] = {}
        known_consumer = known_name = "1 = 1"
        if description is not None:
            self._allowed = {one.consumer: one.attempts for one in description.listeners}
            names = {name for one in description.events for name in (one.name, *one.earlier_names)}
            self.values["known_consumers"] = dialect.many(sorted(self._allowed))
            self.values["known_names"] = dialect.many(sorted(names))
            known_consumer = dialect.among("w.consumer", "known_consumers")
            known_name = f"(w.name IS NULL OR {dialect.among('w.name', 'known_names')})"
        self._stated = _STATED.format(known_consumer=known_consumer, known_name=known_name)

    async def narrow(self, filters: WaitingFilter) -> None:
        """Raises NoSuchListenerError."""
        self._narrow("state <> :dead", dead="dead")
        if filters.listener is not None:
            self._narrow("consumer = :consumer", consumer=await resolve_listener(self._connection, filters.listener))
        if filters.key is not None:
            self._narrow("key = :key", key=filters.key)
        if filters.state is not None:
            self._narrow("state = :state", state=filters.state)
        if filters.name is not None:
            rows = await ask(self._connection, "SELECT DISTINCT name FROM cauce_waiting WHERE name IS NOT NULL")
            meant = [str(row.name) for row in rows if matches(filters.name, str(row.name))]
            self._narrow(self._dialect.among("name", "names"), names=self._dialect.many(meant))

    def at(self, positions: Sequence[int]) -> None:
        self._narrow(
            self._dialect.among("position", "positions", type_="bigint"), positions=self._dialect.many(positions)
        )

    def _narrow(self, condition: str, **values: Any) -> None:
        self.conditions.append(condition)
        self.values |= values

    async def rows(self, *, order: str, limit: int | None = None) -> Sequence[Waiting]:
        statement = f"SELECT {_SHOWN} FROM ({self._stated}) s WHERE {' AND '.join(self.conditions)} ORDER BY {order}"
        if limit is not None:
            statement, self.values["limit"] = f"{statement} LIMIT :limit", limit
        return [self._waiting(row) for row in await ask(self._connection, statement, **self.values)]

    async def of_each_cause(self, *, each: int, limit: int) -> Sequence[Waiting]:
        cause = (
            "PARTITION BY consumer, state, "
            "CASE WHEN state IN ('failing', 'trouble', 'held', 'postponed') THEN error END"
        )
        statement = (
            "SELECT position, alike FROM (SELECT position, consumer, state, error, "
            f"count(*) OVER ({cause}) AS alike, row_number() OVER ({cause} ORDER BY next_at, position) AS place_among "
            f"FROM ({self._stated}) s WHERE {' AND '.join(self.conditions)}) n WHERE place_among <= :each "
            "ORDER BY consumer, CASE state WHEN 'behind' THEN 1 ELSE 0 END, state, alike DESC, error, place_among "
            "LIMIT :limit"
        )
        found = await ask(self._connection, statement, each=each, limit=limit, **self.values)
        alike = {int(row.position): int(row.alike) for row in found}
        self.at(list(alike))
        rows = {one.position: one for one in await self.rows(order="position")}
        return [replace(rows[position], alike=n) for position, n in alike.items() if position in rows]

    async def by_listener(self) -> Mapping[str, int]:
        statement = (
            f"SELECT consumer, count(*) AS n FROM ({self._stated}) s "
            f"WHERE {' AND '.join(self.conditions)} GROUP BY consumer ORDER BY consumer"
        )
        return {str(row.consumer): int(row.n) for row in await ask(self._connection, statement, **self.values)}

    async def count(self) -> int:
        statement = f"SELECT count(*) AS n FROM ({self._stated}) s WHERE {' AND '.join(self.conditions)}"
        return int((await ask(self._connection, statement, **self.values))[0].n)

    def _waiting(self, row: Any) -> Waiting:
        message = bytes(row.message)
        envelope = _envelope(message) if row.name is None else None
        consumer, source = str(row.consumer), str(row.source)
        waits = row.head_position is not None and int(row.head_position) != int(row.position)
        return Waiting(
            id=letter_id_of(consumer, source, str(row.event_id)),
            position=int(row.position),
            consumer=consumer,
            source=source,
            event_id=str(row.event_id),
            name=row.name or (envelope.name if envelope else "?"),
            lane=int(row.lane),
            key=row.key,
            channel=str(row.channel),
            state=row.state,
            shown=row.shown,
            attempts=int(row.attempts),
            allowed=self._allowed.get(consumer),
            next_at=None if row.next_at is None else float(row.next_at),
            due_in_s=None if row.due_in is None else round(float(row.due_in), 3),
            created_at=float(row.created_at),
            error=row.error,
            place=row.place,
            in_trouble_since=None if row.in_trouble_since is None else float(row.in_trouble_since),
            tried=recorded_attempts(row.attempt_log),
            paused_because=row.paused_because,
            head_id=letter_id_of(consumer, source, str(row.head_event)) if waits else None,
            head_error=row.head_error if waits else None,
            head_dead=waits and row.head_letter is not None,
            ahead=int(row.ahead),
            behind=int(row.behind),
            alike=1,
            message=message,
        )


def _envelope(message: bytes) -> Envelope | None:
    try:
        return from_json(message)
    except DecodeError:
        return None


async def overview(
    connection: AsyncConnection, filters: WaitingFilter, *, each: int, limit: int
) -> tuple[Sequence[Waiting], int]:
    """Read the first `each` deliveries of every listener, state and error, `limit` at most; and how many match in all.

    Raises NoSuchListenerError.
    """
    search = _Search(connection, await description_of(connection))
    await search.narrow(filters)
    count = await search.count()
    return await search.of_each_cause(each=each, limit=limit), count


async def choose(connection: AsyncConnection, filters: WaitingFilter) -> Sequence[Waiting]:
    """Read all deliveries that match, in the order of their keys. Raises NoSuchListenerError."""
    search = _Search(connection, await description_of(connection))
    await search.narrow(filters)
    # The bytes are not needed any more, and there may be many.
    return [replace(one, message=b"") for one in await search.rows(order="position")]


async def soonest_failing(connection: AsyncConnection, *, limit: int) -> tuple[Sequence[Waiting], int]:
    """Read the failing deliveries that are tried next, and how many fail in all."""
    search = _Search(connection, await description_of(connection))
    await search.narrow(WaitingFilter(state="failing"))
    count = await search.count()
    return await search.rows(order="next_at, position", limit=limit) if count else [], count


async def count_by_listener(connection: AsyncConnection, state: WaitingState) -> Mapping[str, int]:
    """Count what waits in that state, by consumer."""
    search = _Search(connection, await description_of(connection))
    await search.narrow(WaitingFilter(state=state))
    return await search.by_listener()


async def by_prefix(connection: AsyncConnection, prefix: str) -> Sequence[Waiting]:
    """Read the deliveries whose id begins so, at most twenty; dead letters whose key waits too."""
    if not re.fullmatch(r"[0-9a-f]{1,32}", prefix):
        return []
    search = _Search(connection, await description_of(connection))
    search.at([position async for position in _positions(connection, prefix)][:20])
    return await search.rows(order="position")


async def _positions(connection: AsyncConnection, prefix: str) -> AsyncGenerator[int]:
    """Where they are. An id is not stored: it follows from the rest of the row."""
    after = -1
    while True:
        rows = await ask(
            connection,
            "SELECT position, consumer, source, event_id FROM cauce_waiting WHERE position > :after "
            "ORDER BY position LIMIT :limit",
            after=after,
            limit=_PORTION,
        )
        for row in rows:
            if letter_id_of(str(row.consumer), str(row.source), str(row.event_id)).startswith(prefix):
                yield int(row.position)
        if len(rows) < _PORTION:
            return
        after = int(rows[-1].position)


# --- actions --------------------------------------------------------------------------------------------------


async def retry(engine: AsyncEngine, one: Waiting, *, why: str | None) -> bool | str:
    """Make it due now; the attempts it has had count. False if it is gone: settled, moved or discarded meanwhile."""

    async def act(connection: AsyncConnection) -> bool | str:
        if not await _locked(connection, one):
            return False
        if await change(
            connection,
            "UPDATE cauce_waiting SET next_at = :NOW, scheduled_at = :NOW "
            "WHERE position = :position AND (next_at IS NULL OR next_at > :NOW)",
            position=one.position,
        ):
            await _audit(connection, "retry", one, why)
        return True

    return await in_one_action(engine, act)


async def discard(engine: AsyncEngine, one: Waiting, *, why: str) -> bool | str:
    """Delete it permanently; the next event of its key is due. Returns why not, or False if it is gone."""

    async def act(connection: AsyncConnection) -> bool | str:
        if not await _locked(connection, one):
            return False
        if (refused := await _refused(connection, one)) is not None:
            return refused
        await change(connection, REMOVE_WAITING, **_of(one))
        # Its process died in the middle of an effect: an operator has decided, nobody is in doubt any more.
        await change(
            connection,
            "UPDATE cauce_inbox SET state = NULL "
            "WHERE consumer = :consumer AND source = :source AND event_id = :event_id",
            **_of(one),
        )
        await release_next(connection, consumer=one.consumer, source=one.source, key=one.key)
        await _audit(connection, "discard", one, why)
        return True

    return await in_one_action(engine, act)


async def move(engine: AsyncEngine, one: Waiting, *, to: str, why: str | None) -> bool | str:
    """Give it to the listener whose consumer name is `to`, due in the order of the key, with all its attempts.

    Returns why not, or False if it is gone.
    """

    async def act(connection: AsyncConnection) -> bool | str:
        if not await _locked(connection, one):
            return False
        refused = await _refused(connection, one)
        if refused is None and await _in_doubt(connection, one):
            refused = (
                "a process died in the middle of its effect, which may have happened: discard it, or let its listener "
                "decide"
            )
        if refused is None and not await _is_new_to(connection, one, to):
            refused = f"{listener_of(to)} has had this event already: discard it"
        if refused is not None:
            return refused
        await change(
            connection,
            "UPDATE cauce_waiting SET consumer = :to, attempts = 0, first_failed_at = NULL, error = NULL, "
            "place = NULL, attempt_log = NULL, troubles = NULL, in_trouble_since = NULL, scheduled_at = :NOW, "
            "next_at = CASE WHEN key IS NULL THEN :NOW END WHERE position = :position",
            to=to,
            position=one.position,
        )
        for consumer in sorted((one.consumer, to)):
            await release_next(connection, consumer=consumer, source=one.source, key=one.key)
        await _audit(connection, "move", one, why, to=listener_of(to))
        return True

    return await in_one_action(engine, act)


async def _locked(connection: AsyncConnection, one: Waiting) -> bool:
    """Lock its row; whether it is still there. Waits for a transaction that is handling it."""
    rows = await ask(
        connection,
        "SELECT 1 AS there FROM cauce_waiting WHERE position = :position AND consumer = :consumer FOR UPDATE",
        position=one.position,
        consumer=one.consumer,
    )
    return bool(rows)


async def _refused(connection: AsyncConnection, one: Waiting) -> str | None:
    """Why it may not be taken from its listener; its row is locked."""
    dead = "SELECT 1 FROM cauce_dead_letter WHERE consumer = :consumer AND source = :source AND event_id = :event_id"
    if await ask(connection, dead, **_of(one)):
        return f"it is a dead letter: cauce dead show {one.id[:12]}"
    if one.state != "gone" and await _in_doubt(connection, one, owned=True):
        return "its effect is under way, or was when its process died: once more in a moment, when that is settled"
    return None


async def _in_doubt(connection: AsyncConnection, one: Waiting, *, owned: bool = False) -> bool:
    """Whether its effect was begun and not settled. `owned`: and a process that runs has its lane."""
    statement = (
        "SELECT 1 FROM cauce_inbox i WHERE i.consumer = :consumer AND i.source = :source AND i.event_id = :event_id "
        "AND i.state = 'sending'"
    )
    if not owned:
        return bool(await ask(connection, statement, **_of(one)))
    # Any lease that has not ended counts, also one from before the clock was set back: its process may still run.
    statement += (
        " AND EXISTS (SELECT 1 FROM cauce_lane l JOIN cauce_member m ON m.id = l.member AND m.lease_until >= :NOW "
        "WHERE l.lane = :lane)"
    )
    return bool(await ask(connection, statement, **_of(one), lane=one.lane))


async def _is_new_to(connection: AsyncConnection, one: Waiting, to: str) -> bool:
    """Remember the event for the other listener; False if that had it: handled, waiting or dead."""
    values = {**_of(one), "consumer": to}
    for table in ("cauce_waiting", "cauce_dead_letter"):
        statement = f"SELECT 1 FROM {table} WHERE consumer = :consumer AND source = :source AND event_id = :event_id"
        if await ask(connection, statement, **values):
            return False
    return bool(
        await change(
            connection,
            "INSERT INTO cauce_inbox (consumer, source, event_id, received_at) "
            "VALUES (:consumer, :source, :event_id, :NOW) ON CONFLICT DO NOTHING",
            **values,
        )
    )


async def _audit(connection: AsyncConnection, what: str, one: Waiting, why: str | None, **more: str) -> None:
    detail = {"id": one.id, "name": one.name, "key": one.key, "error": one.error, **more}
    await write_audit(connection, what, why=why, detail=detail, **_of(one))


def _of(one: Waiting) -> dict[str, str]:
    return {"consumer": one.consumer, "source": one.source, "event_id": one.event_id}
