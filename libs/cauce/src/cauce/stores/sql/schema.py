"""Cauce's tables examined and brought up to date.

Within a version upgrades only add: a table, a column with a default, an index. So a process of the previous build keeps
working with the tables of the next, and nothing has to be stopped. A new version moves rows (`upgrades`), and is refused
while a process that knows the tables of before holds a lease.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import uuid4
from zlib import crc32

from sqlalchemy import Column, Connection, Dialect, Index, Table, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateSequence, CreateTable

from cauce.errors import ConfigurationError
from cauce.ports.lanes import LANES
from cauce.stores.sql.engine import READ_ONLY
from cauce.stores.sql.tables import SENT_PARTS, metadata, sent_order
from cauce.stores.sql.upgrades import fill_from_1, upgrade_from_1

__all__ = ["DIALECTS", "PROBE", "SCHEMA", "Found", "create_tables", "ddl", "examine", "fill_tables", "upgrade"]

SCHEMA = 2
"""The version of the tables this code works with, kept in `cauce_meta`."""

DIALECTS = ("postgresql", "sqlite")

PROBE = "SELECT 1 FROM cauce_listener LIMIT 1"
"""Fails where Cauce's tables are not there."""

_LOCK = crc32(b"cauce tables")
_FIRST_PART = (
    "INSERT INTO cauce_sent_part (part, first_seq, opened_at) SELECT 0, 1, 0 "
    "WHERE NOT EXISTS (SELECT 1 FROM cauce_sent_part)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The state of Cauce's tables in a database. `version` is None where none is recorded."""

    version: int | None
    missing: Sequence[str]
    """Tables, columns (`table.column`) and indexes that are not there."""

    @property
    def present(self) -> bool:
        """Whether any of Cauce's tables is there."""
        return self.version is not None or len([one for one in self.missing if one in metadata.tables]) < len(
            metadata.tables
        )

    @property
    def current(self) -> bool:
        return self.version == SCHEMA and not self.missing


async def create_tables(engine: AsyncEngine) -> None:
    """Make the missing tables, so that a service can start. Safe to call twice, and by several processes at once.

    Raises ConfigurationError if the tables were made by a later version of Cauce; nothing is changed then.
    """
    async with engine.execution_options(**READ_ONLY).connect() as connection:
        if await _is_of_this_build(connection):
            return
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)


def upgrade(connection: Connection) -> Sequence[str]:
    """Bring the tables up to date, and return what was done. In one transaction of the caller's.

    Raises ConfigurationError if they are of a later version, or of an earlier one that a running process works with;
    nothing is changed then.
    """
    if connection.dialect.name == "postgresql":
        # Two processes that start at once: the second finds everything done.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = examine(connection)
    if found.version is not None and found.version > SCHEMA:
        raise ConfigurationError(
            [f"its tables are of version {found.version}, and this Cauce knows {SCHEMA}. Update Cauce."],
            where="the database",
        )
    moved = upgrade_from_1(connection) if found.version == 1 else []
    metadata.create_all(connection, checkfirst=found.present)
    if not found.present:  # then all of them are new, and need no second look
        fill_tables(connection)
        return [f"made {one}" for one in found.missing]
    added = [_add(connection, table, column) for table, column in _missing_columns(connection)]
    for index in _missing_indexes(connection):
        connection.execute(CreateIndex(index))
    fill_tables(connection)
    if found.version == 1:
        moved += fill_from_1(connection)
    return moved + [f"made {one}" for one in found.missing if "." not in one] + [f"added {one}" for one in added]


def fill_tables(connection: Connection) -> None:
    """Insert the first rows of Cauce's tables, and make the partitions of cauce_sent, in a migration of your own. Safe to
    call again."""
    for statement in _partitions(connection.dialect.name):
        connection.execute(text(statement))
    connection.execute(text(_FIRST_PART))
    connection.execute(
        text("INSERT INTO cauce_lane (lane, epoch) VALUES (:lane, 0) ON CONFLICT DO NOTHING"),
        [{"lane": lane} for lane in range(LANES)],
    )
    insert = "INSERT INTO cauce_meta (name, value) VALUES (:name, :value) ON CONFLICT"
    connection.execute(
        text(f"{insert} DO NOTHING"),
        [{"name": "incarnation", "value": str(uuid4())}, {"name": "lanes", "value": str(LANES)}],
    )
    connection.execute(
        text(f"{insert} (name) DO UPDATE SET value = :value"),
        [{"name": "schema", "value": str(SCHEMA)}, {"name": "build", "value": _build()}],
    )


def _partitions(dialect: str) -> Iterator[str]:
    if dialect == "postgresql":
        for part in range(SENT_PARTS):
            yield f"CREATE TABLE IF NOT EXISTS cauce_sent_{part} PARTITION OF cauce_sent FOR VALUES IN ({part})"


def examine(connection: Connection) -> Found:
    """Find out which of Cauce's tables, columns and indexes are there. Changes nothing."""
    there = set(inspect(connection).get_table_names())
    version = None
    if "cauce_meta" in there:
        written = connection.execute(text("SELECT value FROM cauce_meta WHERE name = 'schema'")).scalar_one_or_none()
        version = int(written) if written is not None and str(written).isdecimal() else None
    missing = [name for name in metadata.tables if name not in there]
    if connection.dialect.name == "postgresql" and "cauce_sent" in there:
        missing += [one for part in range(SENT_PARTS) if (one := f"cauce_sent_{part}") not in there]
    missing += [f"{table.name}.{column.name}" for table, column in _missing_columns(connection)]
    missing += [str(index.name) for index in _missing_indexes(connection)]
    return Found(version=version, missing=missing)


def ddl(dialect: str) -> Iterator[str]:
    """Yield the statements that make the tables, to be run by hand. `dialect`: one of DIALECTS."""
    spelling: Dialect = postgresql.dialect() if dialect == "postgresql" else sqlite.dialect()
    if dialect == "postgresql":
        yield _statement(CreateSequence(sent_order).compile(dialect=spelling))
    for table in metadata.sorted_tables:
        yield _statement(CreateTable(table).compile(dialect=spelling))
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            yield _statement(CreateIndex(index).compile(dialect=spelling))
    yield from _partitions(dialect)
    yield _FIRST_PART
    for lane in range(LANES):
        yield f"INSERT INTO cauce_lane (lane, epoch) VALUES ({lane}, 0)"  # a number of ours
    random = "CAST(gen_random_uuid() AS text)" if dialect == "postgresql" else "lower(hex(randomblob(16)))"
    yield f"INSERT INTO cauce_meta (name, value) VALUES ('incarnation', {random})"  # two constants
    for name, value in (("lanes", LANES), ("schema", SCHEMA), ("build", _build())):
        yield f"INSERT INTO cauce_meta (name, value) VALUES ('{name}', '{value}')"  # our own words


async def _is_of_this_build(connection: AsyncConnection) -> bool:
    """Read one row instead of fifty catalog entries, at every start but the first."""
    try:
        found = await connection.execute(text("SELECT name, value FROM cauce_meta WHERE name IN ('schema', 'build')"))
    except SQLAlchemyError:
        return False  # the tables are not there, or the database is not: what comes next tells them apart
    return {str(row.name): str(row.value) for row in found} == {"schema": str(SCHEMA), "build": _build()}


def _build() -> str:
    """Hash the tables of this code, so that a column added without a new version is noticed too."""
    columns = (f"{table.name}.{column.name} {column.type}" for table, column in _columns(metadata.sorted_tables))
    indexes = (str(index.name) for table in metadata.sorted_tables for index in table.indexes)
    return f"{crc32(' '.join(sorted((*columns, *indexes))).encode()):08x}"


def _columns(tables: Iterable[Table]) -> Iterator[tuple[Table, Column[object]]]:
    for table in tables:
        for column in table.columns:
            yield table, column


def _missing_columns(connection: Connection) -> list[tuple[Table, Column[object]]]:
    """Find the missing columns of the tables that are there."""
    seen = inspect(connection)
    there = set(seen.get_table_names())
    tables = [table for table in metadata.sorted_tables if table.name in there]
    names = {table.name: {column["name"] for column in seen.get_columns(table.name)} for table in tables}
    return [(table, column) for table, column in _columns(tables) if column.name not in names[table.name]]


def _missing_indexes(connection: Connection) -> Iterator[Index]:
    seen = inspect(connection)
    there = set(seen.get_table_names())
    for table in metadata.sorted_tables:
        if table.name in there:
            names = {index["name"] for index in seen.get_indexes(table.name)}
            yield from sorted((one for one in table.indexes if one.name not in names), key=lambda one: str(one.name))


def _add(connection: Connection, table: Table, column: Column[object]) -> str:
    spelled = CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {spelled}")
    return f"{table.name}.{column.name}"


def _statement(compiled: object) -> str:
    lines = (line.replace("\t", "    ").rstrip() for line in str(compiled).strip().splitlines())
    return "\n".join(line for line in lines if line)
