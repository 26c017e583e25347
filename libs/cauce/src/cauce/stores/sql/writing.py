"""Events written in the transaction that publishes them: numbered by key, then outbox rows and waiting deliveries.

Tables: cauce_key_head (counted by its primary key, topic and key), cauce_outbox and cauce_waiting (inserts only),
cauce_meta (the incarnation). Runs on the user's connection, just before the commit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from cauce.formats.cloudevents import number, numbered, outgoing_around_number
from cauce.ports.lanes import hash_of, lane_of
from cauce.ports.outbox import Outgoing
from cauce.stores.sql.correlation import correlation_hash
from cauce.stores.sql.dialect import Dialect
from cauce.stores.sql.erased_keys import kept_name, kept_name_in_postgres
from cauce.stores.sql.events_with_commit import take_along

__all__ = ["write_outgoing"]

_BEFORE = "COALESCE((SELECT e.seq FROM cauce_key_head e WHERE e.topic = cauce_key_head.topic AND e.key = {erased}), 0)"
"""How many events a key had before its traces were erased: its row counts those since. Asked in RETURNING, once for a key
and by the primary key: the planner counts nothing for it there, and so keeps a plan for any number of keys."""
_COUNT = (
    "INSERT INTO cauce_key_head (topic, key, seq) VALUES (:topic, :key, :count) "
    "ON CONFLICT (topic, key) DO UPDATE SET seq = cauce_key_head.seq + excluded.seq "
    f"RETURNING seq + {_BEFORE.format(erased=':erased')} AS seq, "
    "(SELECT value FROM cauce_meta WHERE name = 'incarnation') AS incarnation"
)
_WRITE = f"""
    WITH counted AS (
        INSERT INTO cauce_key_head (topic, key, seq)
        SELECT topic, key, count FROM unnest(
            CAST(:head_topics AS text[]), CAST(:head_keys AS text[]), CAST(:counts AS bigint[])
        ) WITH ORDINALITY AS c (topic, key, count, n) ORDER BY n
        ON CONFLICT (topic, key) DO UPDATE SET seq = cauce_key_head.seq + excluded.seq
        RETURNING topic, key, seq + {_BEFORE.format(erased=kept_name_in_postgres("cauce_key_head.key"))} AS seq
    ), written AS (
        SELECT o.*, counted.seq - later AS key_seq, before || CASE WHEN counted.seq IS NULL THEN '' ELSE convert_to(
            '{number("' || counted.seq - later || '", "' || m.value || '")}', 'UTF8'
        ) END || after AS message
        FROM unnest(
            CAST(:ids AS text[]), CAST(:topics AS text[]), CAST(:hashes AS integer[]), CAST(:lanes AS smallint[]),
            CAST(:keys AS text[]), CAST(:laters AS bigint[]), CAST(:correlations AS bigint[]), CAST(:names AS text[]),
            CAST(:consumers AS text[]), CAST(:befores AS bytea[]), CAST(:afters AS bytea[])
        ) WITH ORDINALITY AS o (
            event_id, topic, key_hash, lane, key, later, correlation_hash, name, consumer, before, after, n
        )
        LEFT JOIN counted USING (topic, key)
        LEFT JOIN (SELECT value FROM cauce_meta WHERE name = 'incarnation') AS m ON true
    ), here AS (
        INSERT INTO cauce_waiting (consumer, source, event_id, name, lane, key, channel, message, next_at, scheduled_at,
            created_at)
        SELECT consumer, topic, event_id, name, lane, key, '', message, :NOW, :NOW, :NOW FROM written
        WHERE consumer IS NOT NULL ORDER BY n
    )
    INSERT INTO cauce_outbox (event_id, topic, key_hash, key, key_seq, correlation_hash, name, message, created_at)
    SELECT event_id, topic, key_hash, key, key_seq, correlation_hash, name, message, :NOW FROM written
    WHERE consumer IS NULL ORDER BY n
"""
"""Everything a transaction published, in one round trip: the database adds numbers and incarnation to messages."""


_NUMBER = number("' || counted.seq || '", "' || (SELECT value FROM cauce_meta WHERE name = 'incarnation') || '")
_WRITE_ONE = f"""
    WITH counted AS (
        INSERT INTO cauce_key_head (topic, key, seq) VALUES (:topic, :key, 1)
        ON CONFLICT (topic, key) DO UPDATE SET seq = cauce_key_head.seq + 1
        RETURNING seq + {_BEFORE.format(erased=":erased")} AS seq
    )
    INSERT INTO cauce_outbox (event_id, topic, key_hash, key, key_seq, correlation_hash, name, message, created_at)
    SELECT CAST(:event_id AS text), CAST(:topic AS text), CAST(:key_hash AS integer), CAST(:key AS text), counted.seq,
        CAST(:correlation_hash AS bigint), CAST(:name AS text), CAST(:before AS bytea) || convert_to('{_NUMBER}', 'UTF8') || CAST(:after AS bytea), :NOW
    FROM counted
"""
"""The same for exactly one event with a key, which goes to the broker: half the database's work."""
_WRITE_SENT = (
    "INSERT INTO cauce_outbox (event_id, topic, key_hash, key, key_seq, correlation_hash, name, message, created_at) "
    "VALUES (:event_id, :topic, :key_hash, :key, :key_seq, :correlation_hash, :name, :message, :NOW)"
)
_WRITE_HERE = (
    "INSERT INTO cauce_waiting (consumer, source, event_id, name, lane, key, channel, message, next_at, scheduled_at, "
    "created_at) VALUES (:consumer, :topic, :event_id, :name, :lane, :key, '', :message, :NOW, :NOW, :NOW)"
)


def write_outgoing(connection: Connection, outgoing: Sequence[Outgoing], *, with_commit: bool = False) -> None:
    """Write the events that a transaction published, in that transaction, just before its commit.

    `with_commit`: a COMMIT of the connection follows. Where it can, it takes the rows along, and an error of theirs is
    then one of the COMMIT.

    Keys are counted first, in sorted order, so that two transactions never deadlock; the row of a key stays locked
    until the commit, so numbers are given in the order of commits, without holes.
    """
    dialect = Dialect(connection.dialect.name)
    if not dialect.postgres:
        _write_in_turn(connection, dialect, outgoing)
        return
    statement, values = _one(outgoing[0]) if len(outgoing) == 1 else _all(outgoing)
    clause = dialect.sql(statement)
    if not (with_commit and take_along(connection, clause, values)):
        connection.execute(clause, values)


def _one(one: Outgoing) -> tuple[str, dict[str, Any]]:
    """One short statement is quicker than one that could write any number."""
    envelope = one.envelope
    if envelope.key is None:
        return (_WRITE_SENT if one.consumer is None else _WRITE_HERE), _row(one, None, None)
    if one.consumer is not None:
        return _all([one])
    before, after = _message(one)
    return _WRITE_ONE, {
        "event_id": envelope.id,
        "topic": envelope.source,
        "key_hash": hash_of(envelope),
        "correlation_hash": correlation_hash(envelope),
        "key": envelope.key,
        "erased": kept_name(envelope.key),
        "name": envelope.name,
        "before": before,
        "after": after,
    }


def _all(outgoing: Sequence[Outgoing]) -> tuple[str, dict[str, Any]]:
    counts = _events_by_key(outgoing)
    heads = sorted(counts)
    later = {(topic, key, event_id): left for (topic, key), ids in counts.items() for event_id, left in _later(ids)}
    rows = [(one.envelope, one.consumer, *_message(one)) for one in outgoing]
    return _WRITE, {
        "head_topics": [topic for topic, _ in heads],
        "head_keys": [key for _, key in heads],
        "counts": [len(counts[head]) for head in heads],
        "ids": [one.id for one, *_ in rows],
        "topics": [one.source for one, *_ in rows],
        "hashes": [hash_of(one) for one, *_ in rows],
        "lanes": [int(lane_of(one)) for one, *_ in rows],
        "keys": [one.key for one, *_ in rows],
        "laters": [later.get((one.source, one.key or "", one.id)) for one, *_ in rows],
        "correlations": [correlation_hash(one) for one, *_ in rows],
        "names": [one.name for one, *_ in rows],
        "consumers": [consumer for _, consumer, *_ in rows],
        "befores": [before for *_, before, _ in rows],
        "afters": [after for *_, after in rows],
    }


def _write_in_turn(connection: Connection, dialect: Dialect, outgoing: Sequence[Outgoing]) -> None:
    numbers: dict[str, int] = {}
    incarnation = None
    for (topic, key), ids in sorted(_events_by_key(outgoing).items()):
        head = connection.execute(
            dialect.sql(_COUNT), {"topic": topic, "key": key, "count": len(ids), "erased": kept_name(key)}
        ).one()
        numbers |= {event_id: int(head.seq) - left for event_id, left in _later(ids)}
        incarnation = str(head.incarnation)
    sent: list[dict[str, Any]] = []
    here: list[dict[str, Any]] = []
    for one in outgoing:
        row = _row(one, numbers.get(one.envelope.id), incarnation)
        (sent if one.consumer is None else here).append(row)
    if sent:
        connection.execute(dialect.sql(_WRITE_SENT), sent if len(sent) > 1 else sent[0])
    if here:
        connection.execute(dialect.sql(_WRITE_HERE), here if len(here) > 1 else here[0])


def _row(one: Outgoing, sequence: int | None, incarnation: str | None) -> dict[str, Any]:
    """`sequence`: the number of its key that was counted for it."""
    envelope = one.envelope
    return {
        "event_id": envelope.id,
        "topic": envelope.source,
        "key_hash": hash_of(envelope),
        "lane": int(lane_of(envelope)),
        "correlation_hash": correlation_hash(envelope),
        "key": envelope.key,
        "key_seq": sequence,
        "name": envelope.name,
        "message": numbered(_message(one), sequence, incarnation),
        "consumer": one.consumer,
    }


def _message(one: Outgoing) -> tuple[bytes, bytes]:
    return one.message or outgoing_around_number(one.envelope)


def _events_by_key(outgoing: Sequence[Outgoing]) -> Mapping[tuple[str, str], Sequence[str]]:
    """Group the ids of keyed events by topic and key, each id once, in the order of publishing."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for one in outgoing:
        if one.envelope.key is not None:
            found.setdefault((one.envelope.source, one.envelope.key), {})[one.envelope.id] = None
    return {head: list(ids) for head, ids in found.items()}


def _later(ids: Sequence[str]) -> Sequence[tuple[str, int]]:
    """Pair each id with the number of ids that follow it."""
    return [(event_id, len(ids) - 1 - at) for at, event_id in enumerate(ids)]
