"""The message store on PostgreSQL and SQLite: the four table groups as one class."""

from cauce.stores.sql.lanes import SqlLanes
from cauce.stores.sql.outbox import SqlOutbox
from cauce.stores.sql.registry import SqlRegistry
from cauce.stores.sql.waiting_room import SqlWaitingRoom
from cauce.stores.sql.work import SqlWork

__all__ = ["SqlMessageStore"]


class SqlMessageStore(SqlOutbox, SqlLanes, SqlWaitingRoom, SqlRegistry, SqlWork):
    """The relay's side, on connections of its own: every group of tables that the port asks for."""
