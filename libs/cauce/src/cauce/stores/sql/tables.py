"""Cauce's own tables, in the service's own database. Add `metadata` to your Alembic target, or `cauce db upgrade`.

Times are seconds since the epoch by the database's own clock, the only clock that is ever compared. It may step, so
no order rests on a time: what was sent is numbered (`sent_seq`), and a lease or a delay says how long it lasts
(`lease_s`, `scheduled_at`), so that one left over from before a step back is recognised.

    cauce_outbox      events for other services: waiting to be sent, then kept for a window
    cauce_key_head    the last sequence number of every key; of one that was erased: under its hash, and the row counts from there
    cauce_member      the running processes of this service, each with a lease
    cauce_lane        which process owns which lane, with a fencing epoch
    cauce_inbox       the events each listener has handled
    cauce_started     deliveries that may have killed a process, while they are handled again
    cauce_position    the last event of every key each listener has handled
    cauce_waiting     deliveries that wait here: durable domain events, retries, parked keys
    cauce_dead_letter deliveries that were given up, with everything needed for another attempt
    cauce_listener    which listeners there are, since when, and which of them are paused
    cauce_audit       actions of operators: replays, discards, rewinds
    cauce_meta        the incarnation of this database, the number of lanes, the version of these tables

`reason` of a waiting delivery is set while it is postponed without an attempt (`newer version`); `size` and `sha256` of a
dead letter are those of the whole message, set where only its beginning is kept.
Of a waiting delivery, `troubles` counts how often it met trouble with this database while others were handled, which costs
no attempt, and `in_trouble_since` says since when that is why it waits.

A position stands for one row permanently, on SQLite too (AUTOINCREMENT): code that still holds the position of a
deleted row must not reach another one.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = ["metadata"]

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
    Column("event_id", _Id, nullable=False, unique=True),
    Column("topic", Text, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("key", Text),
    Column("key_seq", BigInteger),
    Column("name", Text, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("problem", Text),
    Column("sent_at", Float),
    Column("sent_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("broker_id", Text),
    sqlite_autoincrement=True,
    postgresql_with=_BUSY,
)
_pending = outbox.c.sent_at.is_(None)
_sent = outbox.c.sent_at.is_not(None)
Index("cauce_outbox_unsent", outbox.c.lane, outbox.c.position, postgresql_where=_pending, sqlite_where=_pending)
Index(
    "cauce_outbox_sent_seq",
    *(outbox.c.topic, outbox.c.lane, outbox.c.sent_seq, outbox.c.position),
    postgresql_where=_sent,
    sqlite_where=_sent,
)
Index("cauce_outbox_sent_at", outbox.c.sent_at, postgresql_where=_sent, sqlite_where=_sent)
_aside = outbox.c.problem.is_not(None)
Index("cauce_outbox_aside", outbox.c.topic, outbox.c.key, postgresql_where=_aside, sqlite_where=_aside)

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
    Column("tried", Text),
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
    Column("tried", Text),
    Column("size", BigInteger),
    Column("sha256", String(64)),
    UniqueConstraint("consumer", "source", "event_id"),
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
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("why", Text),
    Column("consumer", Text),
    Column("source", Text),
    Column("event_id", _Id),
    Column("detail", Text),
    sqlite_autoincrement=True,
)
Index("cauce_audit_event", audit.c.consumer, audit.c.source, audit.c.event_id)
