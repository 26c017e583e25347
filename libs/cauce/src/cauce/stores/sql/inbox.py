"""The inbox on a listener's own session: first time or not, position of the key, waiting room, dead letter.

Tables: cauce_inbox, cauce_started and cauce_position (each by its primary key), cauce_waiting (by its position, by its
unique event of a consumer, or by cauce_waiting_key for the events of a key), cauce_dead_letter (by its unique event of
a consumer). All of it commits or rolls back with the listener's own changes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncSession

from cauce.events.envelope import Envelope
from cauce.ports.inbox import FURTHEST, Arrival, Failure, Position, Refused, WaitingDelivery, letter_id, sequence_of
from cauce.ports.registration import Joined
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.erased_keys import kept_name, kept_name_in_postgres
from cauce.stores.sql.parked_keys import lock_by_name, release_next
from cauce.stores.storable import bounded_delivery, storable_failure, storable_line

__all__ = ["REMOVE_WAITING", "SqlInbox"]

REMOVE_WAITING = "DELETE FROM cauce_waiting WHERE consumer = :consumer AND source = :source AND event_id = :event_id"
_LIMITED = (
    "set_config('lock_timeout', '5s', true) IS NOT NULL "
    "AND set_config('idle_in_transaction_session_timeout', :idle, true) IS NOT NULL"
)
"""Limits for a listener's transaction alone: its connection belongs to the user's pool. A process frozen in the middle of
it must not keep the event locked from the lane's next owner. As conditions, they cost no round trip."""
_PAUSED = "EXISTS (SELECT 1 FROM cauce_listener l WHERE l.consumer = :consumer AND l.paused_at IS NOT NULL)"
_MOVE = (
    "ON CONFLICT (consumer, source, key) DO UPDATE SET last_seq = excluded.last_seq, "
    "incarnation = excluded.incarnation, occurred_at = excluded.occurred_at, moved_at = excluded.moved_at "
    "WHERE cauce_position.incarnation <> excluded.incarnation OR cauce_position.last_seq < excluded.last_seq"
)
_LAST_HERE = (
    "(SELECT max(o.last_seq) FROM cauce_position o WHERE o.consumer IN "
    "(SELECT consumer FROM cauce_listener UNION SELECT :consumer) AND o.source = {row}.source AND o.key IN ({row}.key, {erased}) "
    "AND o.incarnation = {row}.incarnation)"
)
"""The last number of a key that any listener of this service has handled, also of one whose traces were erased since; by
the primary key, listener by listener."""


_A_BATCH = """
    SELECT * FROM unnest(
        CAST(:sources AS text[]), CAST(:ids AS text[]), CAST(:keys AS text[]), CAST(:seqs AS bigint[]),
        CAST(:incarnations AS text[]), CAST(:ats AS double precision[])
    ) AS a (source, event_id, key, seq, incarnation, occurred_at)
"""
_ONE = """
    SELECT CAST(:source AS text) AS source, CAST(:event_id AS text) AS event_id, CAST(:key AS text) AS key,
        CAST(:seq AS bigint) AS seq, CAST(:incarnation AS text) AS incarnation,
        CAST(:occurred_at AS double precision) AS occurred_at
"""
"""One value each is quicker to write, to read and to plan for than arrays of one."""


def _arriving(*, arrived: str, possible: str, elsewhere: str) -> str:
    """The statement for `arrived`. `possible`: whether the number of a row of it may move its key; `elsewhere`: the last
    number of the key of `a` that another listener has handled."""
    return f"""
    WITH arrived AS ({arrived}), first AS (
        INSERT INTO cauce_inbox (consumer, source, event_id, received_at)
        SELECT :consumer, source, event_id, :NOW FROM arrived WHERE {_LIMITED} ORDER BY source, event_id
        ON CONFLICT DO NOTHING RETURNING source, event_id
    ), moved AS (
        INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation, occurred_at, moved_at)
        SELECT :consumer, source, key, seq, incarnation, occurred_at, :NOW
        FROM arrived JOIN first USING (source, event_id)
        WHERE seq IS NOT NULL AND {possible} ORDER BY source, key
        {_MOVE} RETURNING source, key
    )
    SELECT a.source, a.event_id, first.event_id IS NOT NULL AS first, moved.key IS NOT NULL AS moved,
        p.last_seq, p.incarnation, p.occurred_at, :NOW - p.moved_at AS since_s,
        EXISTS (SELECT 1 FROM cauce_waiting w WHERE w.consumer = :consumer AND w.source = a.source AND w.key = a.key)
        AS parked, {_PAUSED} AS paused,
        {elsewhere} AS elsewhere
    FROM arrived a
    LEFT JOIN first USING (source, event_id)
    LEFT JOIN moved USING (source, key)
    LEFT JOIN cauce_position p ON p.consumer = :consumer AND p.source = a.source AND p.key = a.key
""".replace(":consumer", "CAST(:consumer AS text)")


_ARRIVE = _arriving(arrived=_A_BATCH, possible="true", elsewhere="0")
"""One round trip for a whole batch. Rows are locked in one order, so that two processes never deadlock."""
_ARRIVE_ALONE = _arriving(arrived=_ONE, possible="true", elsewhere="0")
_ARRIVE_FAR = _arriving(
    arrived=_A_BATCH,
    possible=f"CASE WHEN seq <= {FURTHEST} THEN true "
    f"ELSE seq <= {FURTHEST} + COALESCE({_LAST_HERE.format(row='arrived', erased=kept_name_in_postgres('arrived.key'))}, 0) END",
    elsewhere=f"CASE WHEN a.seq > {FURTHEST} "
    f"THEN COALESCE({_LAST_HERE.format(row='a', erased=kept_name_in_postgres('a.key'))}, 0) ELSE 0 END",
)
"""For a batch with a number that may be impossible. What is looked up then would cost the planner time for every batch."""
_FIRST_TIMES = (
    "INSERT INTO cauce_inbox (consumer, source, event_id, received_at) "
    "SELECT :consumer, json_extract(value, '$[0]'), json_extract(value, '$[1]'), :NOW FROM json_each(:arrived) "
    "WHERE 1 = 1 ON CONFLICT DO NOTHING RETURNING source, event_id"
)
_PASTS = (
    "SELECT p.last_seq, p.incarnation, p.occurred_at, :NOW - p.moved_at AS since_s, EXISTS (SELECT 1 FROM cauce_waiting w "
    "WHERE w.consumer = :consumer AND w.source = json_extract(a.value, '$[0]') AND w.key = json_extract(a.value, '$[2]')) "
    f"AS parked, {_PAUSED} AS paused FROM json_each(:arrived) a LEFT JOIN cauce_position p ON p.consumer = :consumer "
    "AND p.source = json_extract(a.value, '$[0]') AND p.key = json_extract(a.value, '$[2]') ORDER BY a.key"
)
"""SQLite has no statement that inserts in a part of it: one for all that arrive, one for what is known of them, and one
that moves their keys."""
_MOVE_KEY = (
    "INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation, occurred_at, moved_at) "
    f"VALUES (:consumer, :source, :key, :seq, :incarnation, :at, :NOW) {_MOVE}"
)
_ATTEMPT = "CAST(:NOW AS text) || ' ' || :error || '\n'"
"""A line of `attempt_log`: when an attempt failed, and with what."""
_TRIED_LIMIT = 16_000
_LOCKED_IDLE_S = 5.0
_NOT_PAUSED = (
    "NOT EXISTS (SELECT 1 FROM cauce_listener l WHERE l.consumer = cauce_waiting.consumer AND l.paused_at IS NOT NULL)"
)
_AS_READ = "position = :position AND consumer = :consumer AND attempts = :attempts AND next_at <= :NOW"
"""Of a waiting delivery: there was no attempt to handle it since it was read, and no operator moved it elsewhere."""


class SqlInbox:
    """The Inbox of the ports, on a listener's own session."""

    def __init__(self, session: AsyncSession, joined: Mapping[str, Joined]) -> None:
        """`joined`: consumers that are new to the service."""
        self._session = session
        self._joined = joined
        bind = session.get_bind()
        self._dialect = Dialect(bind.dialect.name)
        self._locked: set[tuple[str, str, str | None]] = set()
        """Consumer, source and key of the positions that this transaction has locked by moving them."""

    async def arrive(self, consumer: str, envelopes: Sequence[Envelope], *, idle_s: float) -> Sequence[Arrival]:
        if (joined := self._joined.get(consumer)) is not None:
            past = await self._handled_before(joined, envelopes)
            new = iter(await self._arrive(consumer, [one for one in envelopes if one not in past], idle_s=idle_s))
            return [Arrival(known=True) if one in past else next(new) for one in envelopes]
        return await self._arrive(consumer, envelopes, idle_s=idle_s)

    async def _handled_before(self, joined: Joined, envelopes: Sequence[Envelope]) -> Sequence[Envelope]:
        """Those that other listeners had met before this one joined."""
        met = (
            f"SELECT source, event_id FROM cauce_inbox WHERE {self._dialect.among('consumer', 'others')} "
            f"AND {self._dialect.among('source', 'sources')} AND {self._dialect.among('event_id', 'ids')} "
            "AND received_at < :at"
        )
        sources = self._dialect.many(sorted({one.source for one in envelopes}))
        ids = self._dialect.many([one.id for one in envelopes])
        others = self._dialect.many(joined.others)
        rows = await self._run(met, others=others, sources=sources, ids=ids, at=joined.at)
        found = {(str(row.source), str(row.event_id)) for row in rows}
        return [one for one in envelopes if (one.source, one.id) in found]

    async def _arrive(self, consumer: str, envelopes: Sequence[Envelope], *, idle_s: float) -> Sequence[Arrival]:
        if not envelopes:
            return []
        if not self._dialect.postgres:
            return await self._arrive_on_sqlite(consumer, envelopes)
        far = any((sequence_of(one) or 0) > FURTHEST for one in envelopes)
        if len(envelopes) == 1 and not far:
            [alone] = envelopes
            rows = await self._run(
                _ARRIVE_ALONE,
                idle=_milliseconds(idle_s),
                consumer=consumer,
                source=alone.source,
                event_id=alone.id,
                key=alone.key,
                seq=sequence_of(alone),
                incarnation=alone.incarnation,
                occurred_at=alone.occurred_on.timestamp(),
            )
            return [await self._arrival(consumer, alone, rows.one())]
        rows = await self._run(
            _ARRIVE_FAR if far else _ARRIVE,
            idle=_milliseconds(idle_s),
            consumer=consumer,
            sources=[one.source for one in envelopes],
            ids=[one.id for one in envelopes],
            keys=[one.key for one in envelopes],
            seqs=[sequence_of(one) for one in envelopes],
            incarnations=[one.incarnation for one in envelopes],
            ats=[one.occurred_on.timestamp() for one in envelopes],
        )
        found = {(row.source, row.event_id): row for row in rows}
        return [await self._arrival(consumer, one, found[one.source, one.id]) for one in envelopes]

    async def _arrival(self, consumer: str, envelope: Envelope, row: Any) -> Arrival:
        if not row.first:
            return Arrival(known=True)
        position = None if row.last_seq is None else _position_in(row)
        if position is not None and sequence_of(envelope) is not None:
            self._locked.add((consumer, envelope.source, envelope.key))
        if sequence_of(envelope) is not None and not row.moved:
            # The statement saw the position as it was when it began; if it waited for a lock, that may be old.
            position = await self._position(consumer, envelope.source, envelope.key)
        return Arrival(
            known=False, position=position, parked=row.parked, paused=row.paused, elsewhere=int(row.elsewhere)
        )

    async def _arrive_on_sqlite(self, consumer: str, envelopes: Sequence[Envelope]) -> Sequence[Arrival]:
        rows = await self._run(_FIRST_TIMES, consumer=consumer, arrived=_as_json(envelopes))
        first = {(str(row.source), str(row.event_id)) for row in rows}
        new = {(one.source, one.id): one for one in envelopes if (one.source, one.id) in first}
        if not new:
            return [Arrival(known=True)] * len(envelopes)
        pasts = (await self._run(_PASTS, consumer=consumer, arrived=_as_json(new.values()))).all()
        arrivals = {
            event: await self._arrival_on_sqlite(consumer, new[event], past)
            for event, past in zip(new, pasts, strict=True)
        }
        moving = [one for event, one in new.items() if _may_move(one, arrivals[event])]
        if moving:
            await self._session.execute(self._dialect.sql(_MOVE_KEY), [_place_of(consumer, one) for one in moving])
        return [arrivals.pop((one.source, one.id), Arrival(known=True)) for one in envelopes]

    async def _arrival_on_sqlite(self, consumer: str, envelope: Envelope, past: Any) -> Arrival:
        position, elsewhere = None if past.last_seq is None else _position_in(past), 0
        if (sequence_of(envelope) or 0) > _last_of(envelope, position) + FURTHEST:
            place = {"consumer": consumer, "source": envelope.source, "key": str(envelope.key)}
            elsewhere = await self._last_here(place, envelope)
        return Arrival(
            known=False, position=position, parked=bool(past.parked), paused=bool(past.paused), elsewhere=elsewhere
        )

    async def _last_here(self, place: Mapping[str, str], envelope: Envelope) -> int:
        found = await self._run(
            f"SELECT {_LAST_HERE.format(row='a', erased=':erased')} FROM (SELECT :source AS source, :key AS key, "
            ":incarnation AS incarnation) a",
            **place,
            incarnation=envelope.incarnation,
            erased=kept_name(place["key"]),
        )
        return int(found.scalar_one() or 0)

    async def move(self, consumer: str, envelope: Envelope) -> None:
        if sequence_of(envelope) is not None:
            await self._run(_MOVE_KEY, **_place_of(consumer, envelope))

    async def first_time(self, consumer: str, source: str, event_id: str) -> bool:
        done = await self._run(
            "INSERT INTO cauce_inbox (consumer, source, event_id, received_at) "
            "VALUES (:consumer, :source, :event_id, :NOW) ON CONFLICT DO NOTHING",
            consumer=consumer,
            source=source,
            event_id=event_id,
        )
        return done.rowcount == 1

    async def mark_started(self, consumer: str, source: str, event_id: str) -> int:
        done = await self._run(
            "INSERT INTO cauce_started (consumer, source, event_id, marks, marked_at) "
            "VALUES (:consumer, :source, :event_id, 1, :NOW) ON CONFLICT (consumer, source, event_id) "
            "DO UPDATE SET marks = cauce_started.marks + 1, marked_at = :NOW RETURNING marks",
            consumer=consumer,
            source=source,
            event_id=event_id,
        )
        return int(done.scalar_one())

    async def unmark_started(self, consumer: str, source: str, event_id: str) -> None:
        await self._run(
            "DELETE FROM cauce_started WHERE consumer = :consumer AND source = :source AND event_id = :event_id",
            consumer=consumer,
            source=source,
            event_id=event_id,
        )

    async def begin_effect(self, consumer: str, source: str, event_id: str) -> Literal["first", "in_doubt"]:
        if await self.is_in_doubt(consumer, source, event_id):
            return "in_doubt"
        await self._set_state(consumer, source, event_id, "sending")
        return "first"

    async def is_in_doubt(self, consumer: str, source: str, event_id: str) -> bool:
        found = await self._run(
            "SELECT state FROM cauce_inbox WHERE consumer = :consumer AND source = :source AND event_id = :event_id",
            consumer=consumer,
            source=source,
            event_id=event_id,
        )
        return found.scalar_one_or_none() == "sending"

    async def end_effect(self, consumer: str, source: str, event_id: str) -> None:
        await self._set_state(consumer, source, event_id, None)

    async def _set_state(self, consumer: str, source: str, event_id: str, state: str | None) -> None:
        await self._run(
            "INSERT INTO cauce_inbox (consumer, source, event_id, received_at, state) "
            "VALUES (:consumer, :source, :event_id, :NOW, CAST(:state AS text)) "
            "ON CONFLICT (consumer, source, event_id) DO UPDATE SET state = CAST(:state AS text)",
            consumer=consumer,
            source=source,
            event_id=event_id,
            state=state,
        )

    async def _position(self, consumer: str, source: str, key: str | None) -> Position | None:
        row = (
            await self._run(
                "SELECT last_seq, incarnation, occurred_at, :NOW - moved_at AS since_s FROM cauce_position "
                "WHERE consumer = :consumer AND source = :source AND key = :key",
                consumer=consumer,
                source=source,
                key=key,
            )
        ).one_or_none()
        return None if row is None else _position_in(row)

    async def keep(
        self, delivery: WaitingDelivery, *, delay_s: float | None, error: str | None, place: str | None = None
    ) -> None:
        due = "CASE WHEN :delay IS NULL THEN NULL ELSE :NOW + :delay END"
        if delay_s is None and error is None:
            # Earlier deliveries of the key may have left since they were seen; nothing would make this one due.
            parked_at = (delivery.consumer, delivery.source, delivery.key)
            if delivery.key is not None and parked_at not in self._locked:
                await lock_by_name(self._session, consumer=delivery.consumer, source=delivery.source, key=delivery.key)
            due = (
                "CASE WHEN (SELECT min(position) FROM cauce_waiting b WHERE b.consumer = :consumer AND b.source = :source "
                "AND b.key = :key AND b.event_id <> :event_id) IS NULL THEN :NOW END"
            )
        await self._run(
            (
                "INSERT INTO cauce_waiting (consumer, source, event_id, name, lane, key, channel, message, attempts, "
                "next_at, scheduled_at, first_failed_at, error, place, attempt_log, created_at) "
                "VALUES (:consumer, :source, :event_id, :name, :lane, :key, :channel, "
                f":message, :attempts, {due}, :NOW, "
                "CASE WHEN :error IS NULL THEN NULL ELSE :NOW END, :error, CAST(:place AS text), "
                f"CASE WHEN :delay IS NULL THEN NULL ELSE {_ATTEMPT} END, :NOW) "
                "ON CONFLICT (consumer, source, event_id) DO UPDATE SET attempts = :attempts, error = :error, "
                "place = excluded.place, reason = NULL, scheduled_at = :NOW, in_trouble_since = NULL, "
                "next_at = CASE WHEN :delay IS NULL THEN NULL ELSE :NOW + :delay END, "
                "first_failed_at = COALESCE(cauce_waiting.first_failed_at, :NOW), "
                f"attempt_log = CASE WHEN :delay IS NULL OR length(cauce_waiting.attempt_log) > {_TRIED_LIMIT} THEN cauce_waiting.attempt_log "
                f"ELSE COALESCE(cauce_waiting.attempt_log, '') || {_ATTEMPT} END"
            )
            .replace(":delay", "CAST(:delay AS double precision)")
            .replace(":error", "CAST(:error AS text)")
            .replace(":event_id", "CAST(:event_id AS text)"),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            name=delivery.name,
            lane=int(delivery.lane),
            key=delivery.key,
            channel=storable_line(delivery.channel),
            message=delivery.message,
            attempts=delivery.attempts,
            delay=delay_s,
            error=None if error is None else storable_line(error),
            place=None if place is None else storable_line(place),
        )

    async def postpone(self, delivery: WaitingDelivery, *, until_s: float, reason: Refused, error: str) -> None:
        await self._run(
            "INSERT INTO cauce_waiting (consumer, source, event_id, name, lane, key, channel, message, attempts, "
            "next_at, scheduled_at, first_failed_at, error, reason, created_at) VALUES (:consumer, :source, :event_id, "
            ":name, :lane, :key, :channel, :message, :attempts, :NOW + :until, :NOW, :NOW, :error, :reason, :NOW) "
            "ON CONFLICT (consumer, source, event_id) DO UPDATE SET error = excluded.error, reason = excluded.reason, "
            "scheduled_at = :NOW, place = NULL, in_trouble_since = NULL, "
            "next_at = COALESCE(cauce_waiting.first_failed_at, :NOW) + :until, "
            "first_failed_at = COALESCE(cauce_waiting.first_failed_at, :NOW)".replace(
                ":until", "CAST(:until AS double precision)"
            ),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            name=delivery.name,
            lane=int(delivery.lane),
            key=delivery.key,
            channel=storable_line(delivery.channel),
            message=delivery.message,
            attempts=delivery.attempts,
            until=until_s,
            error=storable_line(error),
            reason=reason,
        )

    async def waited_s(self, delivery: WaitingDelivery) -> float:
        found = await self._run(
            "SELECT :NOW - first_failed_at AS age FROM cauce_waiting "
            "WHERE consumer = :consumer AND source = :source AND event_id = :event_id",
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
        )
        return max(0.0, float(found.scalar_one_or_none() or 0.0))

    async def give_back(self, delivery: WaitingDelivery, *, delay_s: float, cause: str) -> None:
        await self._run(
            "INSERT INTO cauce_waiting (consumer, source, event_id, name, lane, key, channel, message, attempts, "
            "next_at, scheduled_at, error, troubles, in_trouble_since, created_at) "
            "VALUES (:consumer, :source, :event_id, :name, :lane, :key, :channel, :message, :attempts, "
            ":NOW + :delay, :NOW, :cause, :troubles, :NOW, :NOW) "
            "ON CONFLICT (consumer, source, event_id) DO UPDATE SET next_at = excluded.next_at, "
            "scheduled_at = excluded.scheduled_at, error = excluded.error, place = NULL, reason = NULL, "
            "troubles = excluded.troubles, "
            "in_trouble_since = COALESCE(cauce_waiting.in_trouble_since, excluded.in_trouble_since)".replace(
                ":delay", "CAST(:delay AS double precision)"
            ),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            name=delivery.name,
            lane=int(delivery.lane),
            key=delivery.key,
            channel=storable_line(delivery.channel),
            message=delivery.message,
            attempts=delivery.attempts,
            delay=delay_s,
            cause=storable_line(cause),
            troubles=delivery.troubles,
        )

    async def claim(self, delivery: WaitingDelivery, *, idle_s: float) -> bool:
        statement, read = f"DELETE FROM cauce_waiting WHERE {_AS_READ} AND {_NOT_PAUSED}", _as_read(delivery)
        if self._dialect.postgres:
            done = await self._run(f"{statement} AND {_LIMITED}", **read, idle=_milliseconds(idle_s))
        else:
            done = await self._run(statement, **read)
        return done.rowcount == 1

    async def lock(self, delivery: WaitingDelivery) -> bool:
        statement, read = f"SELECT 1 FROM cauce_waiting WHERE {_AS_READ}", _as_read(delivery)
        if self._dialect.postgres:
            read = {**read, "idle": _milliseconds(_LOCKED_IDLE_S)}
            statement += f" AND {_LIMITED} FOR UPDATE"
        return (await self._run(statement, **read)).one_or_none() is not None

    async def is_paused(self, consumer: str) -> bool:
        return bool((await self._run(f"SELECT {_PAUSED} AS paused", consumer=consumer)).scalar_one())

    async def release_next(self, delivery: WaitingDelivery) -> None:
        await release_next(self._session, consumer=delivery.consumer, source=delivery.source, key=delivery.key)

    async def remove_dead_letter(self, delivery: WaitingDelivery) -> bool:
        done = await self._run(
            "DELETE FROM cauce_dead_letter WHERE consumer = :consumer AND source = :source AND event_id = :event_id",
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
        )
        return done.rowcount == 1

    async def remove(self, delivery: WaitingDelivery) -> None:
        await self._run(
            REMOVE_WAITING,
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
        )

    async def write_dead_letter(self, delivery: WaitingDelivery, name: str, failure: Failure) -> None:
        failure, delivery = storable_failure(failure), bounded_delivery(delivery)
        await self._run(
            (
                "INSERT INTO cauce_dead_letter (id, consumer, source, event_id, name, lane, key, channel, message, reason, "
                "error, stack, attempts, first_at, last_at, worker, version, size, sha256, attempt_log) "
                "VALUES (:id, :consumer, :source, :event_id, :name, :lane, :key, :channel, :message, :reason, :error, "
                ":stack, :attempts, "
                "COALESCE(CAST(:first AS double precision), :NOW), :NOW, :worker, :version, :size, :sha256, "
                "COALESCE((SELECT w.attempt_log FROM cauce_waiting w WHERE w.consumer = :consumer AND w.source = :source "
                f"AND w.event_id = :event_id), '') || CASE WHEN :attempts = 0 THEN '' ELSE {_ATTEMPT} END) "
                "ON CONFLICT (consumer, source, event_id) DO UPDATE SET reason = excluded.reason, error = excluded.error, "
                "stack = excluded.stack, attempts = excluded.attempts, last_at = excluded.last_at, "
                "worker = excluded.worker, version = excluded.version, attempt_log = excluded.attempt_log"
            )
            .replace(":error", "CAST(:error AS text)")
            .replace(":attempts", "CAST(:attempts AS integer)")
            .replace(":event_id", "CAST(:event_id AS text)"),
            id=letter_id(delivery),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            name=storable_line(name),
            lane=int(delivery.lane),
            key=delivery.key,
            channel=storable_line(delivery.channel),
            message=delivery.message,
            reason=failure.reason,
            error=failure.error,
            stack=failure.stack,
            attempts=failure.attempts,
            first=delivery.first_failed_at,
            worker=failure.worker,
            version=failure.version,
            size=None if delivery.whole is None else delivery.whole.size,
            sha256=None if delivery.whole is None else delivery.whole.sha256,
        )

    async def _run(self, statement: str, **values: Any) -> Any:
        return await self._session.execute(self._dialect.sql(statement), values)


def _as_read(delivery: WaitingDelivery) -> Mapping[str, Any]:
    return {"position": delivery.position, "consumer": delivery.consumer, "attempts": delivery.attempts}


def _as_json(envelopes: Iterable[Envelope]) -> str:
    return json.dumps([(one.source, one.id, one.key) for one in envelopes])


def _place_of(consumer: str, envelope: Envelope) -> Mapping[str, Any]:
    return {
        "consumer": consumer,
        "source": envelope.source,
        "key": envelope.key,
        "seq": envelope.key_seq,
        "incarnation": envelope.incarnation,
        "at": envelope.occurred_on.timestamp(),
    }


def _last_of(envelope: Envelope, position: Position | None) -> int:
    """The last number of its key in its own incarnation."""
    return 0 if position is None or position.incarnation != envelope.incarnation else position.last_seq


def _may_move(envelope: Envelope, arrival: Arrival) -> bool:
    seq = sequence_of(envelope)
    return seq is not None and seq <= max(_last_of(envelope, arrival.position), arrival.elsewhere) + FURTHEST


def _position_in(row: Any) -> Position:
    return Position(int(row.last_seq), str(row.incarnation), row.occurred_at, max(0.0, row.since_s or 0.0))


def _milliseconds(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"
