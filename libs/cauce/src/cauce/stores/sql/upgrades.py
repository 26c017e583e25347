"""From one version of the tables to the next: rows are moved, in the transaction of the upgrade.

Version 2 (from 1): the outbox is a queue, sent events and those set aside have tables of their own; columns have the names
that the rest of the code uses. A process of version 1 could neither publish nor send with these tables, so none may run.
"""

from collections.abc import Iterator
from math import ceil

from sqlalchemy import Connection, inspect, text

from cauce.errors import ConfigurationError
from cauce.ports.lanes import hash_of_key
from cauce.stores.sql.dialect import Dialect

__all__ = ["fill_from_1", "upgrade_from_1"]

_OLD = "cauce_outbox_1"
_PORTION = 10_000
_RENAMED = {
    "cauce_audit": {"at": "created_at", "who": "actor", "what": "action", "why": "reason"},
    "cauce_waiting": {"tried": "attempt_log"},
    "cauce_dead_letter": {"tried": "attempt_log"},
}
_OF_EVENT = "event_id, topic, key_hash, key, key_seq, name, message, created_at"


def upgrade_from_1(connection: Connection) -> list[str]:
    """Before the tables of version 2 are made; what was done. Raises ConfigurationError while a process works with those of
    version 1."""
    _refuse_beside_running_processes(connection)
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = '20s'"))
    done: list[str] = []
    for table, names in _RENAMED.items():
        there = _columns(connection, table)
        for before, after in names.items():
            if before in there:
                connection.execute(text(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}"))
                done.append(f"renamed {table}.{before} to {after}")
    if _columns(connection, "cauce_outbox"):
        connection.execute(text(f"ALTER TABLE cauce_outbox RENAME TO {_OLD}"))
        if connection.dialect.name == "postgresql":  # the names are for those of the new table
            connection.execute(text(f"ALTER INDEX cauce_outbox_pkey RENAME TO {_OLD}_pkey"))
            connection.execute(text(f"ALTER SEQUENCE cauce_outbox_position_seq RENAME TO {_OLD}_position_seq"))
    return done


def fill_from_1(connection: Connection) -> list[str]:
    """When they are made: move the rows, and go on counting where they end; what was done."""
    columns = _columns(connection, _OLD)
    if not columns:
        return []
    _hash_keys(connection)
    number = "sent_seq" if "sent_seq" in columns else "0"
    for statement in _moves(number, connection.dialect.name):
        connection.execute(text(statement))
    (count,) = connection.execute(
        text(
            "SELECT (SELECT count(*) FROM cauce_outbox) AS waiting, (SELECT count(*) FROM cauce_sent) AS sent, "
            "(SELECT count(*) FROM cauce_set_aside) AS aside"
        )
    )
    return [f"moved {count.waiting:,} events that wait, {count.sent:,} that were sent, {count.aside:,} set aside"]


def _moves(number: str, dialect: str) -> Iterator[str]:
    """`number`: what orders the sent rows; their time decides among equals."""
    old = f"FROM {_OLD} JOIN cauce_hashed USING (position)"
    yield (
        f"INSERT INTO cauce_sent (sent_seq, part, position, {_OF_EVENT}, lane, sent_at, broker_id) "
        f"SELECT row_number() OVER (ORDER BY {number}, sent_at, position), 0, position, {_OF_EVENT}, lane, sent_at, "
        f"COALESCE(broker_id, '') {old} WHERE sent_at IS NOT NULL"
    )
    yield (
        f"INSERT INTO cauce_set_aside (position, {_OF_EVENT}, problem, set_aside_at) "
        f"SELECT position, {_OF_EVENT}, problem, created_at {old} WHERE sent_at IS NULL AND problem IS NOT NULL"
    )
    yield (
        f"INSERT INTO cauce_outbox (position, {_OF_EVENT}) SELECT position, {_OF_EVENT} {old} "
        "WHERE sent_at IS NULL AND problem IS NULL ORDER BY position"
    )
    # No number under a key: an event of another service, or of this one before the bridge.
    yield (
        f"INSERT INTO cauce_adopted (event_id, adopted_at) SELECT event_id, created_at FROM {_OLD} "
        "WHERE topic <> COALESCE((SELECT value FROM cauce_meta WHERE name = 'service'), topic) "
        "OR (key IS NOT NULL AND key_seq IS NULL)"
    )
    yield from _counting_on(dialect)
    yield f"DROP TABLE {_OLD}"
    yield "DROP TABLE cauce_hashed"


def _refuse_beside_running_processes(connection: Connection) -> None:
    (running,) = connection.execute(
        Dialect(connection.dialect.name).sql(
            "SELECT count(*) AS n, max(lease_until) - :NOW AS rest FROM cauce_member "
            "WHERE lease_until BETWEEN :NOW AND :NOW + 3600"
        )
    )
    if running.n:
        problem = (
            f"its tables are of version 1, and {running.n} {'process works' if running.n == 1 else 'processes work'} with "
            f"them. Stop every process of the service; if they were killed, their leases end within "
            f"{ceil(running.rest)} s. Then start again, or run: cauce db upgrade"
        )
        raise ConfigurationError([problem], where="the database")


def _columns(connection: Connection, table: str) -> set[str]:
    seen = inspect(connection)
    return {str(column["name"]) for column in seen.get_columns(table)} if seen.has_table(table) else set()


def _hash_keys(connection: Connection) -> None:
    """Of every row: neither database computes the hash."""
    connection.execute(
        text("CREATE TEMPORARY TABLE cauce_hashed (position bigint PRIMARY KEY, key_hash integer NOT NULL)")
    )
    insert = text("INSERT INTO cauce_hashed (position, key_hash) VALUES (:position, :key_hash)")
    portion = text(
        f"SELECT position, COALESCE(key, event_id) AS key FROM {_OLD} WHERE position > :after ORDER BY position LIMIT :limit"
    )
    after = -1
    while rows := list(connection.execute(portion, {"after": after, "limit": _PORTION})):
        connection.execute(insert, [{"position": row.position, "key_hash": hash_of_key(row.key)} for row in rows])
        after = int(rows[-1].position)


def _counting_on(dialect: str) -> Iterator[str]:
    """Positions and the order of sending."""
    if dialect == "postgresql":
        yield (f"SELECT setval('cauce_outbox_position_seq', last_value, is_called) FROM {_OLD}_position_seq")
        yield "SELECT setval('cauce_sent_order', COALESCE((SELECT max(sent_seq) FROM cauce_sent), 0) + 1)"
    else:
        yield "DELETE FROM sqlite_sequence WHERE name = 'cauce_outbox'"
        yield (
            "INSERT INTO sqlite_sequence (name, seq) "
            f"SELECT 'cauce_outbox', seq FROM sqlite_sequence WHERE name = '{_OLD}'"
        )
