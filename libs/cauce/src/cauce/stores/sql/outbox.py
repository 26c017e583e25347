"""The message store on PostgreSQL and SQLite: the same statements, the clock and two spellings apart."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

from msgspec.structs import replace
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import number, outgoing_around_number
from cauce.formats.cloudevents import outgoing as message_of
from cauce.ports.inbox import Arrival, Dead, Failure, Position, WaitingDelivery, letter_id, sequence_of
from cauce.ports.lanes import Epoch, Lane, LaneRow, MemberId, lane_of
from cauce.ports.message_store import belongs_to_another
from cauce.ports.outbox import Backlog, OutboxRow, Outgoing
from cauce.ports.transport import BrokerId
from cauce.stores.sql.connections import connected
from cauce.stores.sql.dialect import Dialect

__all__ = ["UNSENT_BY_NAME", "SqlInbox", "SqlMessageStore", "write_outgoing"]

_LIMITS = (
    "SELECT set_config('lock_timeout', '3s', true), set_config('idle_in_transaction_session_timeout', '3s', true), "
    "set_config('statement_timeout', '60s', true)"
)
"""A process that is frozen in the middle of a transaction must not keep the lanes locked from whoever takes them over."""
_LIMITED = (
    "set_config('lock_timeout', '5s', true) IS NOT NULL "
    "AND set_config('idle_in_transaction_session_timeout', :idle, true) IS NOT NULL"
)
"""For a listener's transaction, and only for it: its connection belongs to the user's pool. A process that is frozen in
the middle of it must not keep the event from whoever takes the lane over. As conditions, they cost no trip."""
_READ_ONLY = {"cauce_read_only": True}
_MOVE = (
    "ON CONFLICT (consumer, source, key) DO UPDATE SET last_seq = excluded.last_seq, incarnation = excluded.incarnation "
    "WHERE cauce_position.incarnation <> excluded.incarnation OR cauce_position.last_seq < excluded.last_seq"
)
_ARRIVE = f"""
    WITH arrived AS (
        SELECT * FROM unnest(
            CAST(:sources AS text[]), CAST(:ids AS text[]), CAST(:keys AS text[]), CAST(:seqs AS bigint[]),
            CAST(:incarnations AS text[])
        ) AS a (source, event_id, key, seq, incarnation)
    ), first AS (
        INSERT INTO cauce_inbox (consumer, source, event_id, received_at)
        SELECT :consumer, source, event_id, :NOW FROM arrived WHERE {_LIMITED} ORDER BY source, event_id
        ON CONFLICT DO NOTHING RETURNING source, event_id
    ), moved AS (
        INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation)
        SELECT :consumer, source, key, seq, incarnation FROM arrived JOIN first USING (source, event_id)
        WHERE seq IS NOT NULL ORDER BY source, key
        {_MOVE} RETURNING source, key
    )
    SELECT a.source, a.event_id, first.event_id IS NOT NULL AS first, moved.key IS NOT NULL AS moved,
        p.last_seq, p.incarnation,
        EXISTS (SELECT 1 FROM cauce_waiting w WHERE w.consumer = :consumer AND w.source = a.source AND w.key = a.key)
        AS parked
    FROM arrived a
    LEFT JOIN first USING (source, event_id)
    LEFT JOIN moved USING (source, key)
    LEFT JOIN cauce_position p ON p.consumer = :consumer AND p.source = a.source AND p.key = a.key
""".replace(":consumer", "CAST(:consumer AS text)")
"""One trip for a whole batch. Rows are locked in one order, so that two processes never wait crosswise."""
_COUNT = (
    "INSERT INTO cauce_key_head (topic, key, seq) VALUES (:topic, :key, :count) "
    "ON CONFLICT (topic, key) DO UPDATE SET seq = cauce_key_head.seq + excluded.seq "
    "RETURNING seq, (SELECT value FROM cauce_meta WHERE name = 'incarnation') AS incarnation"
)
_BEHIND = (
    "o.key IS NOT NULL AND EXISTS (SELECT 1 FROM cauce_outbox s WHERE s.problem IS NOT NULL "
    "AND s.sent_at IS NULL AND s.topic = o.topic AND s.key = o.key AND s.position < o.position)"
)
"""Of an unsent row `o`: an earlier one of its key was set aside, so it has to wait."""
UNSENT_BY_NAME = f"""
    SELECT name, min(created_at) AS oldest, min(CASE WHEN stands = 'waiting' THEN created_at END) AS oldest_waiting,
        sum(CASE WHEN stands = 'waiting' THEN 1 ELSE 0 END) AS waiting,
        sum(CASE WHEN stands = 'behind' THEN 1 ELSE 0 END) AS behind,
        sum(CASE WHEN stands = 'set_aside' THEN 1 ELSE 0 END) AS set_aside
    FROM (
        SELECT name, created_at,
            CASE WHEN problem IS NOT NULL THEN 'set_aside' WHEN {_BEHIND} THEN 'behind' ELSE 'waiting' END AS stands
        FROM cauce_outbox o WHERE sent_at IS NULL
    ) u GROUP BY name ORDER BY min(created_at)
"""
"""For people: what is on its way to the broker. Each unsent event is one of the three."""
_WRITE = f"""
    WITH counted AS (
        INSERT INTO cauce_key_head (topic, key, seq)
        SELECT topic, key, count FROM unnest(
            CAST(:head_topics AS text[]), CAST(:head_keys AS text[]), CAST(:counts AS bigint[])
        ) WITH ORDINALITY AS c (topic, key, count, n) ORDER BY n
        ON CONFLICT (topic, key) DO UPDATE SET seq = cauce_key_head.seq + excluded.seq RETURNING topic, key, seq
    ), written AS (
        SELECT o.*, counted.seq - later AS key_seq, before || CASE WHEN counted.seq IS NULL THEN '' ELSE convert_to(
            '{number("' || counted.seq - later || '", "' || m.value || '")}', 'UTF8'
        ) END || after AS message
        FROM unnest(
            CAST(:ids AS text[]), CAST(:topics AS text[]), CAST(:lanes AS smallint[]), CAST(:keys AS text[]),
            CAST(:laters AS bigint[]), CAST(:names AS text[]), CAST(:consumers AS text[]),
            CAST(:befores AS bytea[]), CAST(:afters AS bytea[])
        ) WITH ORDINALITY AS o (event_id, topic, lane, key, later, name, consumer, before, after, n)
        LEFT JOIN counted USING (topic, key)
        LEFT JOIN (SELECT value FROM cauce_meta WHERE name = 'incarnation') AS m ON true
    ), here AS (
        INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, next_at, created_at)
        SELECT consumer, topic, event_id, lane, key, '', message, :NOW, :NOW FROM written
        WHERE consumer IS NOT NULL ORDER BY n
    )
    INSERT INTO cauce_outbox (event_id, topic, lane, key, key_seq, name, message, created_at)
    SELECT event_id, topic, lane, key, key_seq, name, message, :NOW FROM written WHERE consumer IS NULL ORDER BY n
"""
"""All that a transaction published, in one trip: numbers and incarnation go into the messages in the database."""
_ATTEMPT = "CAST(:NOW AS text) || ' ' || :error || '\n'"
"""A line of `tried`: when an attempt failed, and with what."""
_TRIED_LIMIT = 16_000
_AS_READ = "position = :position AND attempts = :attempts AND next_at <= :NOW"
"""Of a waiting delivery: nobody has handled it, nor tried to, since it was read."""


def write_outgoing(connection: Connection, outgoing: Sequence[Outgoing]) -> None:
    """Write what a transaction published, in that transaction, just before its commit.

    Keys are counted first, in sorted order, so that two transactions never wait for each other crosswise; the row of
    a key stays locked until the commit, so numbers are given in the order of commits, without holes.
    """
    dialect = Dialect(connection.dialect.name)
    plain = len(outgoing) == 1 and outgoing[0].envelope.key is None  # one short statement is quicker than one long one
    (_write_at_once if dialect.postgres and not plain else _write_in_turn)(connection, dialect, outgoing)


def _write_at_once(connection: Connection, dialect: Dialect, outgoing: Sequence[Outgoing]) -> None:
    counts = _events_by_key(outgoing)
    heads = sorted(counts)
    later = {(topic, key, event_id): left for (topic, key), ids in counts.items() for event_id, left in _later(ids)}
    rows = [(one.envelope, one.consumer, *outgoing_around_number(one.envelope)) for one in outgoing]
    connection.execute(
        dialect.sql(_WRITE),
        {
            "head_topics": [topic for topic, _ in heads],
            "head_keys": [key for _, key in heads],
            "counts": [len(counts[head]) for head in heads],
            "ids": [one.id for one, *_ in rows],
            "topics": [one.source for one, *_ in rows],
            "lanes": [int(lane_of(one)) for one, *_ in rows],
            "keys": [one.key for one, *_ in rows],
            "laters": [later.get((one.source, one.key or "", one.id)) for one, *_ in rows],
            "names": [one.name for one, *_ in rows],
            "consumers": [consumer for _, consumer, *_ in rows],
            "befores": [before for *_, before, _ in rows],
            "afters": [after for *_, after in rows],
        },
    )


def _write_in_turn(connection: Connection, dialect: Dialect, outgoing: Sequence[Outgoing]) -> None:
    numbers: dict[str, int] = {}
    incarnation = None
    for (topic, key), ids in sorted(_events_by_key(outgoing).items()):
        head = connection.execute(dialect.sql(_COUNT), {"topic": topic, "key": key, "count": len(ids)}).one()
        numbers |= {event_id: int(head.seq) - left for event_id, left in _later(ids)}
        incarnation = str(head.incarnation)
    sent: list[dict[str, Any]] = []
    here: list[dict[str, Any]] = []
    for one in outgoing:
        envelope = one.envelope
        if envelope.key is not None:
            envelope = replace(envelope, key_seq=numbers[envelope.id], incarnation=incarnation)
        row = {
            "event_id": envelope.id,
            "topic": envelope.source,
            "lane": int(lane_of(envelope)),
            "key": envelope.key,
            "key_seq": envelope.key_seq,
            "name": envelope.name,
            "message": message_of(envelope),
            "consumer": one.consumer,
        }
        (sent if one.consumer is None else here).append(row)
    if sent:
        connection.execute(
            dialect.sql(
                "INSERT INTO cauce_outbox (event_id, topic, lane, key, key_seq, name, message, created_at) "
                "VALUES (:event_id, :topic, :lane, :key, :key_seq, :name, :message, :NOW)"
            ),
            sent if len(sent) > 1 else sent[0],
        )
    if here:
        connection.execute(
            dialect.sql(
                "INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, next_at, created_at) "
                "VALUES (:consumer, :topic, :event_id, :lane, :key, '', :message, :NOW, :NOW)"
            ),
            here if len(here) > 1 else here[0],
        )


def _events_by_key(outgoing: Sequence[Outgoing]) -> Mapping[tuple[str, str], Sequence[str]]:
    """By topic and key, the ids of the events that get a number, each once, in the order of publishing."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for one in outgoing:
        if one.envelope.key is not None:
            found.setdefault((one.envelope.source, one.envelope.key), {})[one.envelope.id] = None
    return {head: list(ids) for head, ids in found.items()}


def _later(ids: Sequence[str]) -> Sequence[tuple[str, int]]:
    """Each id with how many follow it."""
    return [(event_id, len(ids) - 1 - at) for at, event_id in enumerate(ids)]


class SqlInbox:
    """The user's side, on a listener's own session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        bind = session.get_bind()
        self._dialect = Dialect(bind.dialect.name)

    async def arrive(self, consumer: str, envelopes: Sequence[Envelope], *, idle_s: float) -> Sequence[Arrival]:
        if not self._dialect.postgres:
            return [await self._arrive_alone(consumer, envelope) for envelope in envelopes]
        rows = await self._run(
            _ARRIVE,
            idle=_milliseconds(idle_s),
            consumer=consumer,
            sources=[one.source for one in envelopes],
            ids=[one.id for one in envelopes],
            keys=[one.key for one in envelopes],
            seqs=[sequence_of(one) for one in envelopes],
            incarnations=[one.incarnation for one in envelopes],
        )
        found = {(row.source, row.event_id): row for row in rows}
        return [await self._arrival(consumer, one, found[one.source, one.id]) for one in envelopes]

    async def _arrival(self, consumer: str, envelope: Envelope, row: Any) -> Arrival:
        if not row.first:
            return Arrival(known=True)
        position = None if row.last_seq is None else Position(int(row.last_seq), str(row.incarnation))
        if sequence_of(envelope) is not None and not row.moved:
            # The statement saw the position as it was when it began; if it waited for somebody, that may be old.
            position = await self._position(consumer, envelope.source, envelope.key)
        return Arrival(known=False, position=position, parked=row.parked)

    async def _arrive_alone(self, consumer: str, envelope: Envelope) -> Arrival:
        if not await self.first_time(consumer, envelope.source, envelope.id):
            return Arrival(known=True)
        if envelope.key is None:
            return Arrival(known=False)
        place = {"consumer": consumer, "source": envelope.source, "key": envelope.key}
        position = await self._position(**place)
        if sequence_of(envelope) is not None:
            await self._run(
                "INSERT INTO cauce_position (consumer, source, key, last_seq, incarnation) "
                f"VALUES (:consumer, :source, :key, :seq, :incarnation) {_MOVE}",
                **place,
                seq=envelope.key_seq,
                incarnation=envelope.incarnation,
            )
        parked = await self._run(
            "SELECT EXISTS (SELECT 1 FROM cauce_waiting WHERE consumer = :consumer AND source = :source AND key = :key)",
            **place,
        )
        return Arrival(known=False, position=position, parked=bool(parked.scalar_one()))

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
                "SELECT last_seq, incarnation FROM cauce_position "
                "WHERE consumer = :consumer AND source = :source AND key = :key",
                consumer=consumer,
                source=source,
                key=key,
            )
        ).one_or_none()
        return None if row is None else Position(int(row.last_seq), str(row.incarnation))

    async def keep(self, delivery: WaitingDelivery, *, delay_s: float | None, error: str | None) -> None:
        due = "CASE WHEN :delay IS NULL THEN NULL ELSE :NOW + :delay END"
        if delay_s is None and error is None:
            # Those before it may have gone since somebody saw them; then nobody would wake it.
            due = (
                "CASE WHEN (SELECT min(position) FROM cauce_waiting b WHERE b.consumer = :consumer AND b.source = :source "
                "AND b.key = :key AND b.event_id <> :event_id) IS NULL THEN :NOW END"
            )
        await self._run(
            (
                "INSERT INTO cauce_waiting (consumer, source, event_id, lane, key, channel, message, attempts, next_at, "
                "first_failed_at, error, tried, created_at) VALUES (:consumer, :source, :event_id, :lane, :key, :channel, "
                f":message, :attempts, {due}, "
                "CASE WHEN :error IS NULL THEN NULL ELSE :NOW END, :error, "
                f"CASE WHEN :delay IS NULL THEN NULL ELSE {_ATTEMPT} END, :NOW) "
                "ON CONFLICT (consumer, source, event_id) DO UPDATE SET attempts = :attempts, error = :error, "
                "next_at = CASE WHEN :delay IS NULL THEN NULL ELSE :NOW + :delay END, "
                "first_failed_at = COALESCE(cauce_waiting.first_failed_at, :NOW), "
                f"tried = CASE WHEN :delay IS NULL OR length(cauce_waiting.tried) > {_TRIED_LIMIT} THEN cauce_waiting.tried "
                f"ELSE COALESCE(cauce_waiting.tried, '') || {_ATTEMPT} END"
            )
            .replace(":delay", "CAST(:delay AS double precision)")
            .replace(":error", "CAST(:error AS text)")
            .replace(":event_id", "CAST(:event_id AS text)"),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            lane=int(delivery.lane),
            key=delivery.key,
            channel=delivery.channel,
            message=delivery.message,
            attempts=delivery.attempts,
            delay=delay_s,
            error=error,
        )

    async def claim(self, delivery: WaitingDelivery, *, idle_s: float) -> bool:
        statement, read = f"DELETE FROM cauce_waiting WHERE {_AS_READ}", _as_read(delivery)
        if self._dialect.postgres:
            done = await self._run(f"{statement} AND {_LIMITED}", **read, idle=_milliseconds(idle_s))
        else:
            done = await self._run(statement, **read)
        return done.rowcount == 1

    async def lock(self, delivery: WaitingDelivery) -> bool:
        found = await self._run(f"SELECT 1 FROM cauce_waiting WHERE {_AS_READ} FOR UPDATE", **_as_read(delivery))
        return found.one_or_none() is not None

    async def release_next(self, delivery: WaitingDelivery) -> None:
        if delivery.key is None:
            return
        # A process that lost the lane may still be putting an event behind this one, and does that under this lock.
        await self._run(
            "SELECT 1 FROM cauce_position WHERE consumer = :consumer AND source = :source AND key = :key FOR UPDATE",
            consumer=delivery.consumer,
            source=delivery.source,
            key=delivery.key,
        )
        await self._run(
            "UPDATE cauce_waiting SET next_at = :NOW WHERE next_at IS NULL AND position = (SELECT min(position) FROM "
            "cauce_waiting WHERE consumer = :consumer AND source = :source AND key = :key)",
            consumer=delivery.consumer,
            source=delivery.source,
            key=delivery.key,
        )

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
            "DELETE FROM cauce_waiting WHERE consumer = :consumer AND source = :source AND event_id = :event_id",
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
        )

    async def write_dead_letter(self, delivery: WaitingDelivery, name: str, failure: Failure) -> None:
        await self._run(
            (
                "INSERT INTO cauce_dead_letter (id, consumer, source, event_id, name, lane, key, channel, message, reason, "
                "error, stack, attempts, first_at, last_at, worker, version, tried) VALUES (:id, :consumer, :source, :event_id, "
                ":name, :lane, :key, :channel, :message, :reason, :error, :stack, :attempts, "
                "COALESCE(CAST(:first AS double precision), :NOW), :NOW, :worker, :version, "
                "COALESCE((SELECT w.tried FROM cauce_waiting w WHERE w.consumer = :consumer AND w.source = :source "
                f"AND w.event_id = :event_id), '') || CASE WHEN :attempts = 0 THEN '' ELSE {_ATTEMPT} END) "
                "ON CONFLICT (consumer, source, event_id) DO UPDATE SET reason = excluded.reason, error = excluded.error, "
                "stack = excluded.stack, attempts = excluded.attempts, last_at = excluded.last_at, "
                "worker = excluded.worker, version = excluded.version, tried = excluded.tried"
            )
            .replace(":error", "CAST(:error AS text)")
            .replace(":attempts", "CAST(:attempts AS integer)")
            .replace(":event_id", "CAST(:event_id AS text)"),
            id=letter_id(delivery),
            consumer=delivery.consumer,
            source=delivery.source,
            event_id=delivery.event_id,
            name=name,
            lane=int(delivery.lane),
            key=delivery.key,
            channel=delivery.channel,
            message=delivery.message,
            reason=failure.reason,
            error=failure.error,
            stack=failure.stack,
            attempts=failure.attempts,
            first=delivery.first_failed_at,
            worker=failure.worker,
            version=failure.version,
        )

    async def _run(self, statement: str, **values: Any) -> Any:
        return await self._session.execute(self._dialect.sql(statement), values)


class SqlMessageStore:
    """The relay's side, on connections of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._dialect = Dialect(engine.dialect.name)

    async def incarnation(self) -> str:
        async with self._reading() as connection:
            return str(
                (await self._run(connection, "SELECT value FROM cauce_meta WHERE name = 'incarnation'")).scalar_one()
            )

    async def introduce(self, service: str, description: str, consumers: Sequence[str]) -> None:
        async with self._writing() as connection:
            other = await self._run(
                connection,
                "SELECT value FROM cauce_meta WHERE name = 'service' AND value <> :service "
                "AND EXISTS (SELECT 1 FROM cauce_member WHERE lease_until >= :NOW)",
                service=service,
            )
            if (running := other.scalar_one_or_none()) is not None:
                raise belongs_to_another(running, service)
            for name, value in (("service", service), ("description", description)):
                await self._run(
                    connection,
                    "INSERT INTO cauce_meta (name, value) VALUES (:name, :value) "
                    "ON CONFLICT (name) DO UPDATE SET value = :value",
                    name=name,
                    value=value,
                )
            for consumer in sorted(consumers):
                await self._run(
                    connection,
                    "INSERT INTO cauce_listener (consumer, first_seen_at, last_seen_at) VALUES (:consumer, :NOW, :NOW) "
                    "ON CONFLICT (consumer) DO UPDATE SET last_seen_at = :NOW",
                    consumer=consumer,
                )

    async def beat(self, me: MemberId, *, lease_s: float) -> tuple[Sequence[LaneRow], Collection[MemberId]]:
        async with self._writing() as connection:
            await self._run(
                connection,
                "INSERT INTO cauce_member (id, lease_until) VALUES (:me, :NOW + :lease) "
                "ON CONFLICT (id) DO UPDATE SET lease_until = :NOW + :lease",
                me=me,
                lease=lease_s,
            )
            await self._run(
                connection,
                "DELETE FROM cauce_member WHERE lease_until < :NOW - 3600 AND id NOT IN "
                "(SELECT member FROM cauce_lane WHERE member IS NOT NULL)",
            )
            rows = await self._run(
                connection,
                "SELECT l.lane, l.member, l.epoch, COALESCE(m.lease_until - :NOW, 0) AS left_s FROM cauce_lane l "
                "LEFT JOIN cauce_member m ON m.id = l.member ORDER BY l.lane",
            )
            members = await self._run(connection, "SELECT id FROM cauce_member WHERE lease_until >= :NOW")
            lanes = [
                LaneRow(
                    Lane(int(row.lane)),
                    None if row.member is None else MemberId(str(row.member)),
                    Epoch(int(row.epoch)),
                    float(row.left_s),
                )
                for row in rows
            ]
            return lanes, [MemberId(one) for one in members.scalars()]

    async def take(self, me: MemberId, wanted: Mapping[Lane, Epoch]) -> Mapping[Lane, Epoch]:
        got: dict[Lane, Epoch] = {}
        async with self._writing() as connection:
            for lane, epoch in sorted(wanted.items()):
                done = await self._run(
                    connection,
                    "UPDATE cauce_lane SET member = :me, epoch = epoch + 1 WHERE lane = :lane AND epoch = :epoch",
                    me=me,
                    lane=int(lane),
                    epoch=int(epoch),
                )
                if done.rowcount == 1:
                    got[lane] = Epoch(epoch + 1)
        return got

    async def give_back(self, me: MemberId, lanes: Sequence[Lane]) -> None:
        async with self._writing() as connection:
            for lane in sorted(lanes):
                await self._run(
                    connection,
                    "UPDATE cauce_lane SET member = NULL WHERE lane = :lane AND member = :me",
                    lane=int(lane),
                    me=me,
                )

    async def leave(self, me: MemberId) -> None:
        async with self._writing() as connection:
            await self._run(connection, "UPDATE cauce_lane SET member = NULL WHERE member = :me", me=me)
            await self._run(connection, "DELETE FROM cauce_member WHERE id = :me", me=me)

    async def pending(self, lanes: Sequence[Lane], *, limit: int, besides: Collection[int] = ()) -> Sequence[OutboxRow]:
        if not lanes:
            return []
        without, values = self._without(besides)
        async with self._reading() as connection:
            rows = await self._run(
                connection,
                "WITH aside AS MATERIALIZED (SELECT topic, key, min(position) AS position FROM cauce_outbox "
                "WHERE problem IS NOT NULL AND sent_at IS NULL GROUP BY topic, key) "
                + _first_of_each(
                    lanes,
                    "SELECT position, event_id, topic, lane, key, message FROM cauce_outbox o "
                    "WHERE sent_at IS NULL AND problem IS NULL AND COALESCE(position < "
                    "(SELECT a.position FROM aside a WHERE a.topic = o.topic AND a.key = o.key), 1 = 1) " + without,
                    order="position",
                    limit=limit,
                ),
                **values,
            )
            return [
                OutboxRow(position, event_id, topic, Lane(lane), key, bytes(message))
                for position, event_id, topic, lane, key, message in rows
            ]

    def _without(self, positions: Collection[int]) -> tuple[str, Mapping[str, Any]]:
        if not positions:
            return "", {}
        if self._dialect.postgres:
            return "AND position <> ALL(CAST(:besides AS bigint[]))", {"besides": list(positions)}
        return "AND position NOT IN (SELECT value FROM json_each(:besides))", {"besides": str(list(positions))}

    async def set_aside(self, position: int, problem: str) -> None:
        async with self._writing() as connection:
            await self._run(
                connection,
                "UPDATE cauce_outbox SET problem = :problem WHERE position = :position AND sent_at IS NULL",
                problem=problem,
                position=position,
            )

    async def mark_sent(self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]) -> bool:
        # Whoever lost a lane meanwhile changes nothing: its row says so, and stays locked until the commit.
        if not self._dialect.postgres:
            return await self._mark_sent_in_turn(owned, me, sent)
        positions, broker_ids = zip(*sent, strict=True)
        async with self._alone() as connection:
            done = await self._run(
                connection,
                "WITH held AS MATERIALIZED (SELECT 1 FROM cauce_lane WHERE member = :me AND (lane, epoch) IN "
                "(SELECT * FROM unnest(CAST(:lanes AS smallint[]), CAST(:epochs AS bigint[]))) "
                "ORDER BY lane FOR SHARE) "
                "UPDATE cauce_outbox o SET sent_at = (SELECT :NOW), broker_id = s.broker_id "
                "FROM unnest(CAST(:positions AS bigint[]), CAST(:broker_ids AS text[])) AS s(position, broker_id) "
                "WHERE o.position = s.position AND (SELECT count(*) FROM held) = :count",
                me=me,
                lanes=[int(lane) for lane in owned],
                epochs=[int(epoch) for epoch in owned.values()],
                count=len(owned),
                positions=list(positions),
                broker_ids=list(broker_ids),
            )
            return bool(done.rowcount > 0)

    async def _mark_sent_in_turn(
        self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]
    ) -> bool:
        async with self._writing() as connection:
            held = await self._run(
                connection,
                f"SELECT lane, epoch FROM cauce_lane WHERE member = :me AND lane IN ({_numbers(list(owned))})",
                me=me,
            )
            if {Lane(lane): Epoch(epoch) for lane, epoch in held} != dict(owned):
                return False
            await connection.execute(
                self._dialect.sql(
                    "UPDATE cauce_outbox SET sent_at = :NOW, broker_id = :broker_id WHERE position = :position"
                ),
                [{"position": position, "broker_id": broker_id} for position, broker_id in sent],
            )
            return True

    async def adopt(self, envelope: Envelope, *, known_to: Sequence[str]) -> bool:
        event = {"topic": envelope.source, "event_id": envelope.id}
        consumers = {f"consumer{number}": consumer for number, consumer in enumerate(known_to)}
        async with self._writing() as connection:
            if consumers:
                known = await self._run(
                    connection,
                    f"SELECT 1 FROM cauce_inbox WHERE consumer IN ({', '.join(f':{one}' for one in consumers)}) "
                    "AND source = :topic AND event_id = :event_id LIMIT 1",
                    **event,
                    **consumers,
                )
                if known.one_or_none() is not None:
                    return False
            done = await self._run(
                connection,
                "INSERT INTO cauce_outbox (event_id, topic, lane, key, name, message, created_at) "
                "VALUES (:event_id, :topic, :lane, :key, :name, :message, :NOW) ON CONFLICT (event_id) DO NOTHING",
                **event,
                lane=int(lane_of(envelope)),
                key=envelope.key,
                name=envelope.name,
                message=message_of(envelope),
            )
            return bool(done.rowcount == 1)

    async def newest_sent(self, topic: str, lane: Lane, *, limit: int) -> Sequence[tuple[int, BrokerId]]:
        """The rows of a lane that were sent last, in the order of sending: what the broker must still know.

        Not by position: the row of a transaction that committed late has a low one, and may be the last that was sent.
        """
        async with self._reading() as connection:
            rows = await self._run(
                connection,
                "SELECT position, broker_id FROM cauce_outbox WHERE sent_at IS NOT NULL AND topic = :topic AND lane = :lane "
                "ORDER BY sent_at DESC, position DESC LIMIT :limit",
                topic=topic,
                lane=int(lane),
                limit=limit,
            )
            return [(int(row.position), BrokerId(str(row.broker_id))) for row in reversed(rows.all())]

    async def unsend(self, topic: str, lane: Lane, *, from_position: int | None) -> int:
        """The broker forgot: this row and those sent after it (None: all that are kept) are to be sent again."""
        async with self._writing() as connection:
            done = await self._run(
                connection,
                "UPDATE cauce_outbox SET sent_at = NULL, broker_id = NULL WHERE topic = :topic AND lane = :lane "
                "AND sent_at IS NOT NULL "
                "AND sent_at >= COALESCE((SELECT sent_at FROM cauce_outbox WHERE position = :position), 0)",
                topic=topic,
                lane=int(lane),
                position=-1 if from_position is None else from_position,
            )
            return int(done.rowcount)

    async def since(self, topic: str, start: str) -> str:
        async with self._writing() as connection:
            name = f"since:{topic}"
            await self._run(
                connection,
                "INSERT INTO cauce_meta (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING",
                name=name,
                value=start,
            )
            found = await self._run(connection, "SELECT value FROM cauce_meta WHERE name = :name", name=name)
            return str(found.scalar_one())

    async def prune_sent(self, *, older_than_s: float, limit: int) -> int:
        async with self._writing() as connection:
            done = await self._run(
                connection,
                "DELETE FROM cauce_outbox WHERE position IN (SELECT position FROM cauce_outbox "
                "WHERE sent_at IS NOT NULL AND sent_at < (SELECT :NOW - :age) ORDER BY sent_at LIMIT :limit)",
                age=older_than_s,
                limit=limit,
            )
            return int(done.rowcount)

    async def sent_over(self, *, rows: int, size: int) -> bool:
        async with self._reading() as connection:
            # Positions are nearly dense and sent nearly in order, so those at both ends count well enough.
            found = (
                await self._run(
                    connection,
                    "SELECT (SELECT position FROM cauce_outbox WHERE sent_at IS NOT NULL ORDER BY sent_at DESC LIMIT 1) - "
                    "(SELECT position FROM cauce_outbox WHERE sent_at IS NOT NULL ORDER BY sent_at LIMIT 1) + 1 AS n, "
                    "(SELECT avg(length(message)) FROM (SELECT message FROM cauce_outbox WHERE sent_at IS NOT NULL "
                    "ORDER BY sent_at DESC LIMIT 50) s) AS size",
                )
            ).one()
            if found.n is None:
                return False
            return int(found.n) > rows or int(found.n) * float(found.size) > size

    async def backlog(self) -> Backlog:
        async with self._reading() as connection:
            unsent = await self._run(
                connection,
                "SELECT count(*) AS n, :NOW - min(created_at) AS oldest FROM cauce_outbox "
                "WHERE sent_at IS NULL AND problem IS NULL",
            )
            waiting = await self._run(
                connection,
                "SELECT consumer, key, count(*) AS n FROM cauce_waiting WHERE key IS NOT NULL "
                "GROUP BY consumer, source, key ORDER BY n DESC LIMIT 1",
            )
            row, longest = unsent.one(), waiting.one_or_none()
            return Backlog(
                unsent=int(row.n),
                oldest_unsent_s=None if row.oldest is None else max(0.0, float(row.oldest)),
                longest=int(longest.n) if longest else 0,
                longest_key=longest.key if longest else "",
                longest_consumer=longest.consumer if longest else "",
            )

    async def prune_inbox(self, *, older_than_s: float, limit: int) -> int:
        async with self._writing() as connection:
            done = await self._run(
                connection,
                "DELETE FROM cauce_inbox WHERE state IS NULL AND (consumer, source, event_id) IN "
                "(SELECT consumer, source, event_id FROM cauce_inbox WHERE received_at < (SELECT :NOW - :age) AND state IS NULL "
                "ORDER BY received_at LIMIT :limit)",
                age=older_than_s,
                limit=limit,
            )
            await self._run(connection, "DELETE FROM cauce_started WHERE marked_at < :NOW - :age", age=older_than_s)
            return int(done.rowcount)

    async def due(self, lanes: Sequence[Lane], *, limit: int) -> Sequence[WaitingDelivery]:
        if not lanes:
            return []
        async with self._reading() as connection:
            rows = await self._run(
                connection,
                _first_of_each(
                    lanes,
                    "SELECT * FROM cauce_waiting w WHERE next_at <= (SELECT :NOW) "
                    "AND (key IS NULL OR NOT EXISTS (SELECT 1 FROM cauce_waiting e WHERE e.consumer = w.consumer "
                    "AND e.source = w.source AND e.key = w.key AND e.position < w.position))",
                    order="next_at",
                    limit=limit,
                ),
            )
            return [_waiting(row) for row in rows]

    async def dead(self, *, limit: int = 100) -> Sequence[Dead]:
        async with self._reading() as connection:
            rows = await self._run(
                connection, "SELECT * FROM cauce_dead_letter ORDER BY last_at LIMIT :limit", limit=limit
            )
            return [
                Dead(
                    id=row.id,
                    consumer=row.consumer,
                    source=row.source,
                    event_id=row.event_id,
                    name=row.name,
                    lane=Lane(int(row.lane)),
                    key=row.key,
                    channel=row.channel,
                    message=bytes(row.message),
                    reason=row.reason,
                    error=row.error,
                    stack=row.stack,
                    attempts=int(row.attempts),
                    first_at=float(row.first_at),
                    last_at=float(row.last_at),
                    worker=row.worker,
                )
                for row in rows
            ]

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[AsyncConnection]:
        async with connected(self._engine) as connection, connection.begin():
            if self._dialect.postgres:
                await connection.execute(self._dialect.sql(_LIMITS))
            yield connection

    def _reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._alone() if self._dialect.postgres else connected(self._engine.execution_options(**_READ_ONLY))

    def _alone(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """For one statement that is a transaction by itself: PostgreSQL is spared two more to begin and to end it."""
        return connected(self._engine.execution_options(isolation_level="AUTOCOMMIT"))

    async def _run(self, connection: AsyncConnection, statement: str, **values: Any) -> Any:
        return await connection.execute(self._dialect.sql(statement), values)


def _as_read(delivery: WaitingDelivery) -> Mapping[str, int | None]:
    return {"position": delivery.position, "attempts": delivery.attempts}


def _milliseconds(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"


def _first_of_each(lanes: Sequence[Lane], rows: str, *, order: str, limit: int) -> str:
    """The first rows of these lanes, by an index that has them lane by lane in this order.

    So whatever waits in the lanes of others, or behind what is taken here, is not read. The limit is written out, so
    that PostgreSQL needs to plan it only a few times.
    """
    first = f"ORDER BY {order} LIMIT {limit}"
    each = (f"SELECT * FROM ({rows} AND lane = {int(lane)} {first}) l{int(lane)}" for lane in lanes)
    return f"SELECT * FROM ({' UNION ALL '.join(each)}) every {first}"


def _numbers(lanes: Sequence[Lane]) -> str:
    return ", ".join(str(int(lane)) for lane in lanes)


def _waiting(row: Any) -> WaitingDelivery:
    return WaitingDelivery(
        position=int(row.position),
        consumer=row.consumer,
        source=row.source,
        event_id=row.event_id,
        lane=Lane(int(row.lane)),
        key=row.key,
        channel=row.channel,
        message=bytes(row.message),
        attempts=int(row.attempts),
        first_failed_at=None if row.first_failed_at is None else float(row.first_failed_at),
    )
