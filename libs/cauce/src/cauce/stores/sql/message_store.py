"""The message store on PostgreSQL and SQLite: the table groups as one class."""

from cauce.stores.sql.lanes import SqlLanes
from cauce.stores.sql.outbox import SqlOutbox
from cauce.stores.sql.registry import SqlRegistry
from cauce.stores.sql.sent import SqlSent
from cauce.stores.sql.waiting_room import SqlWaitingRoom
from cauce.stores.sql.work import SqlWork

__all__ = ["SqlMessageStore"]

_PORTION = 500
_PORTION_ON_SQLITE = 2_000


class SqlMessageStore(SqlOutbox, SqlSent, SqlLanes, SqlWaitingRoom, SqlRegistry, SqlWork):
    """The relay's side, on connections of its own: every group of tables that the port asks for."""

    @property
    def portion(self) -> int:
        """On SQLite nothing else is written while a commit waits for the disk; so one serves more rows."""
        return _PORTION if self._dialect.postgres else _PORTION_ON_SQLITE
