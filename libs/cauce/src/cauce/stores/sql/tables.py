"""Cauce's own tables, in the service's own database. Add `metadata` to your Alembic target, or `cauce db upgrade`.

Times are seconds since the epoch by the database's own clock, the only clock that is ever compared. It may step, so
no order rests on a time: what was sent is numbered (`sent_seq`), and a lease or a delay says how long it lasts
(`lease_s`, `scheduled_at`), so that one left over from before a step back is recognised.

    cauce_outbox      events for other services that wait to be sent: a queue, which is short
    cauce_set_aside   events that the broker refuses permanently; later events of their keys wait in the queue
    cauce_sent        events that were sent, kept for a window; on PostgreSQL in partitions, which are emptied in turn
    cauce_sent_part   since when each of the partitions has been written to; the one with the highest number is now
    cauce_adopted     ids of events that came over a bridge, so that none is adopted twice
    cauce_key_head    the last sequence number of every key; of one that was erased: under its hash, and the row counts from there
    cauce_member      the running processes of this service, each with a lease
    cauce_lane        which process owns which lane, with a fencing epoch
    cauce_inbox       the events each listener has handled
    cauce_started     deliveries that may have killed a process, while they are handled again
    cauce_position    the last event of every key each listener has handled
    cauce_waiting     deliveries that wait here: durable domain events, retries, parked keys
    cauce_dead_letter deliveries that were given up, with everything needed for another attempt
    cauce_attempt     the attempts of deliveries that failed at least once; not written yet
    cauce_minute      figures of each listener by the minute; not written yet
    cauce_place       how far this service has read each lane of a log; not written yet
    cauce_listener    which listeners there are, since when, and which of them are paused
    cauce_audit       actions of operators: replays, discards, rewinds
    cauce_meta        the incarnation of this database, the number of lanes, the version of these tables

`reason` of a waiting delivery is set while it is postponed without an attempt (`newer version`); `size` and `sha256` of a
dead letter are those of the whole message, set where only its beginning is kept.
Of a waiting delivery, `troubles` counts how often it met trouble with this database while others were handled, which costs
no attempt, and `in_trouble_since` says since when that is why it waits.

The queue has no index but its primary key: every row is inserted and deleted within moments, and each index would be paid
twice. Its rows name the hash of their key and not the lane, so that they stay right when a topic gets more lanes.

A position stands for one row permanently, on SQLite too (AUTOINCREMENT): code that still holds the position of a
deleted row must not reach another one. A sent event that is sent again has the position it had.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = ["SENT_PARTS", "include_name", "metadata", "sent_order"]

metadata = MetaData()

_Counter = BigInteger().with_variant(Integer, "sqlite")
_Id = String(128)
_BUSY: dict[str, float] = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 0,
}
"""PostgreSQL's default waits until a fifth of the rows is dead, and every search passes the dead ones."""
_CHANGED_IN_PLACE = {**_BUSY, "fillfactor": 80}
"""With room in the page, an update that leaves the indexed columns as they are does not touch the indexes."""

meta = Table("cauce_meta", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))


def _event() -> Iterator[Column[Any]]:
    """The columns of an event that is sent or waits to be."""
    yield Column("event_id", _Id, nullable=False)
    yield Column("topic", Text, nullable=False)
    yield Column("key_hash", Integer, nullable=False)  # of the key, or of the id where there is none: `hash_of`
    yield Column("key", Text)
    yield Column("key_seq", BigInteger)
    yield Column("correlation_hash", BigInteger)
    yield Column("name", Text, nullable=False)
    yield Column("message", LargeBinary, nullable=False)
    yield Column("created_at", Float, nullable=False)


key_head = Table(
    "cauce_key_head",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    postgresql_with=_CHANGED_IN_PLACE,
)

outbox = Table(
    "cauce_outbox",
    metadata,
    Column("position", _Counter, primary_key=True, autoincrement=True),
    *_event(),
    sqlite_autoincrement=True,
    postgresql_with=_BUSY,
)

set_aside = Table(
    "cauce_set_aside",
    metadata,
    Column("position", _Counter, primary_key=True, autoincrement=False),
    *_event(),
    Column("problem", Text, nullable=False),
    Column("set_aside_at", Float, nullable=False),
)

Index("cauce_set_aside_key", set_aside.c.topic, set_aside.c.key, set_aside.c.position)

SENT_PARTS = 8
"""The one that is written to and the oldest are not full, so the window is kept by six at least."""

sent_order = Sequence("cauce_sent_order", metadata=metadata)
"""Higher for what is sent later: a lane has one owner, and PostgreSQL gives numbers in the order of asking."""
sent = Table(
    "cauce_sent",
    metadata,
    Column("sent_seq", _Counter, primary_key=True, autoincrement=False),
    Column("part", SmallInteger, primary_key=True, autoincrement=False, server_default=text("0")),
    Column("position", BigInteger, nullable=False),
    *_event(),
    Column("lane", SmallInteger, nullable=False),  # where it was sent: a topic may have had fewer lanes
    Column("sent_at", Float, nullable=False),
    Column("broker_id", Text, nullable=False),
    postgresql_partition_by="LIST (part)",
)
Index("cauce_sent_lane", sent.c.topic, sent.c.lane, sent.c.sent_seq)
Index("cauce_sent_event", sent.c.event_id)
_keyed = sent.c.key.is_not(None)
Index("cauce_sent_key", sent.c.key, postgresql_where=_keyed, sqlite_where=_keyed)
Index("cauce_sent_correlation", sent.c.correlation_hash)

sent_part = Table(
    "cauce_sent_part",
    metadata,
    Column("part", SmallInteger, primary_key=True, autoincrement=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("opened_at", Float, nullable=False),
)

adopted = Table(
    "cauce_adopted",
    metadata,
    Column("event_id", _Id, primary_key=True),
    Column("adopted_at", Float, nullable=False, index=True),
)

member = Table(
    "cauce_member",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lease_until", Float, nullable=False),
    Column("lease_s", Float),
)

lane = Table(
    "cauce_lane",
    metadata,
    Column("lane", SmallInteger, primary_key=True, autoincrement=False),
    Column("member", Text),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
)

inbox = Table(
    "cauce_inbox",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("event_id", _Id, primary_key=True),
    Column("received_at", Float, nullable=False, index=True),
    Column("state", Text),
    postgresql_with=_BUSY,
)

started = Table(
    "cauce_started",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("event_id", _Id, primary_key=True),
    Column("marks", Integer, nullable=False),
    Column("marked_at", Float, nullable=False),
)

position = Table(
    "cauce_position",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("last_seq", BigInteger, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("occurred_at", Float),  # by the publisher's clock; what was handled before there were these two has none
    Column("moved_at", Float),
    postgresql_with=_CHANGED_IN_PLACE,
)

waiting = Table(
    "cauce_waiting",
    metadata,
    Column("position", _Counter, primary_key=True, autoincrement=True),
    Column("consumer", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", _Id, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("key", Text),
    Column("channel", Text, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_at", Float),
    Column("scheduled_at", Float),
    Column("first_failed_at", Float),
    Column("error", Text),
    Column("place", Text),
    Column("attempt_log", Text),
    Column("troubles", Integer),
    Column("in_trouble_since", Float),
    Column("created_at", Float, nullable=False),
    Column("name", Text),  # of the event; what was written before there was this column has none
    Column("reason", Text),
    UniqueConstraint("consumer", "source", "event_id"),
    sqlite_autoincrement=True,
    postgresql_with=_BUSY,
)
Index("cauce_waiting_next", waiting.c.lane, waiting.c.next_at)
Index("cauce_waiting_key", waiting.c.consumer, waiting.c.source, waiting.c.key, waiting.c.position)

dead_letter = Table(
    "cauce_dead_letter",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("consumer", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", _Id, nullable=False),
    Column("name", Text, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("key", Text),
    Column("channel", Text, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("stack", Text),
    Column("attempts", Integer, nullable=False),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("worker", Text, nullable=False),
    Column("version", Text),
    Column("attempt_log", Text),
    Column("size", BigInteger),
    Column("sha256", String(64)),
    UniqueConstraint("consumer", "source", "event_id"),
)

attempt = Table(
    "cauce_attempt",
    metadata,
    Column("position", _Counter, primary_key=True, autoincrement=True),
    Column("consumer", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", _Id, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float, nullable=False, index=True),
    Column("outcome", Text, nullable=False),
    Column("error", Text),
    Column("worker", Text, nullable=False),
    Column("trace", Text),
    sqlite_autoincrement=True,
)
Index("cauce_attempt_event", attempt.c.event_id)

minute = Table(
    "cauce_minute",
    metadata,
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("consumer", Text, primary_key=True),
    Column("member", Text, primary_key=True),
    Column("handled", BigInteger, nullable=False, server_default=text("0")),
    Column("failed", BigInteger, nullable=False, server_default=text("0")),
    Column("dead", BigInteger, nullable=False, server_default=text("0")),
    Column("took_s", Float, nullable=False, server_default=text("0")),
    Column("slowest_s", Float, nullable=False, server_default=text("0")),
)

place = Table(
    "cauce_place",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("lane", SmallInteger, primary_key=True, autoincrement=False),
    Column("place", Text, nullable=False),
    Column("event_id", _Id),
    Column("epoch", BigInteger, nullable=False),
    Column("moved_at", Float, nullable=False),
)

listener = Table(
    "cauce_listener",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("first_seen_at", Float, nullable=False),
    Column("last_seen_at", Float, nullable=False),
    Column("paused_at", Float),
    Column("paused_because", Text),
    Column("name", Text),
    Column("events", Text),
    Column("retired_at", Float),
)

audit = Table(
    "cauce_audit",
    metadata,
    Column("position", _Counter, primary_key=True, autoincrement=True),
    Column("created_at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("reason", Text),
    Column("consumer", Text),
    Column("source", Text),
    Column("event_id", _Id),
    Column("detail", Text),
    sqlite_autoincrement=True,
)
Index("cauce_audit_event", audit.c.consumer, audit.c.source, audit.c.event_id)


def include_name(name: str | None, type_: str, _parent_names: object) -> bool:
    """For Alembic's `context.configure(include_name=…)`: everything but the partitions of cauce_sent, which Cauce makes."""
    return not (type_ == "table" and name in {f"{sent.name}_{part}" for part in range(SENT_PARTS)})
