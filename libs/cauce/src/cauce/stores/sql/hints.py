"""Hints between processes on different machines, through PostgreSQL's LISTEN and NOTIFY, on psycopg. No table.

Never in a transaction of the user's: a NOTIFY there takes a lock that all commits of the database take in turn.
"""

import asyncio
from collections.abc import Callable, Collection
from hashlib import sha256
from typing import Any

from cauce.concurrency.cancellation import to_the_end
from cauce.ports.hints import Hint, Woken
from cauce.ports.lanes import MemberId
from cauce.stores.sql.connections import TableGroup

__all__ = ["SqlHints"]

_CHANNEL = "cauce_hint"
_KNOWN = {str(one.value): one for one in (Hint.TO_SEND, Hint.WAITING)}


class SqlHints(TableGroup):
    """The Hints of the ports."""

    async def send(self, hint: Hint, members: Collection[MemberId]) -> None:
        async with self._alone() as connection:
            await self._run(
                connection,
                f"SELECT pg_notify('{_CHANNEL}', payload) FROM unnest(CAST(:payloads AS text[])) AS p(payload)",
                payloads=[f"{hint.value} {_name(member)}" for member in members],
            )

    async def listen(self, me: MemberId, woken: Woken) -> None:
        """Listens on a connection outside the pool, which keeps its size for everybody else."""
        mine = _name(me)

        def heard(payload: str) -> None:
            value, _, member = payload.partition(" ")
            if member == mine and value in _KNOWN:
                woken(_KNOWN[value])

        driver: Any = None
        try:
            async with self._alone() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                await connection.run_sync(lambda one: one.detach())
                await connection.exec_driver_sql(f"LISTEN {_CHANNEL}")
                await _until_lost(driver, heard)
        finally:
            if driver is not None:  # SQLAlchemy closes no connection that has left its pool
                await to_the_end(driver.close())


def _name(member: MemberId) -> str:
    return sha256(member.encode()).hexdigest()[:32]


async def _until_lost(driver: Any, heard: Callable[[str], None]) -> None:
    # `driver.notifies()` looks a hundred times more often than something comes.
    loop, lost = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        try:
            driver.pgconn.consume_input()
        except Exception:  # the connection: it is made anew
            lost.set()
            return
        while (found := driver.pgconn.notifies()) is not None:
            heard(found.extra.decode("utf-8", "replace"))

    descriptor = driver.fileno()
    loop.add_reader(descriptor, read)
    try:
        read()  # what came while LISTEN was answered
        await lost.wait()
    finally:
        loop.remove_reader(descriptor)
