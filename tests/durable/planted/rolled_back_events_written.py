"""Events go to the outbox in a transaction of their own, also when the business transaction is rolled back."""

from cauce.stores.sessions import _FOLLOWING
from cauce.stores.sql_journal import write_outgoing
from cauce.stores.sqlalchemy import _Work
from sqlalchemy.ext.asyncio import AsyncEngine


def plant() -> None:
    rollback = _Work.rollback

    async def rollback_and_write(self: _Work) -> None:
        followers = self.session.sync_session.info[_FOLLOWING].followers
        rows = [row for levels, outgoing in followers if outgoing for row in outgoing(levels.surviving())]
        await rollback(self)
        assert isinstance(self.session.bind, AsyncEngine)
        async with self.session.bind.begin() as connection:
            await connection.run_sync(write_outgoing, rows)

    _Work.rollback = rollback_and_write
