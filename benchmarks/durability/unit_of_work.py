"""Goal 10: a unit of work with one event, by every way."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from cauce.delivery.wakeups.datagrams import Datagrams
from cauce.ports.lanes import MemberId
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import async_sessionmaker

from durability import by_hand, with_cauce, with_faststream
from durability.events import KEYS, TEXT, event_of
from durability.peers import missing
from durability.place import Place
from durability.tables import business

__all__ = ["UnitOfWork"]


class UnitOfWork:
    """All ways in one process; a relay elsewhere has the lanes. Cauce has its own engine, the others a plain one."""

    def __init__(self, place: Place, driver: str) -> None:
        self._place = place
        self._service = with_cauce.producer(place, driver)
        self._plain = place.plain_engine(driver)
        self._sessions = async_sessionmaker(self._plain, expire_on_commit=False)
        self._number = 0
        self.ways: dict[str, Callable[[], Awaitable[None]]] = {
            "business insert alone": self.business,
            "with an outbox row by hand": self.by_hand,
            "Cauce, un-keyed": self.unkeyed,
            "Cauce, keyed": self.keyed,
        }
        if not missing():
            self._peer = with_faststream.outbox(self._plain)
            self.ways["faststream-outbox"] = self.peer

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        connection = await self._place.connect()
        await connection.execute("INSERT INTO cauce_member VALUES ('elsewhere', 1e12) ON CONFLICT DO NOTHING")
        await connection.execute("UPDATE cauce_lane SET member = 'elsewhere'")
        owner = Datagrams.open(MemberId("elsewhere"))  # another process of this machine, which is told of each commit
        async with self._service:
            yield
        if owner is not None:
            owner.close()
        await connection.execute("UPDATE cauce_lane SET member = NULL")
        await connection.execute("DELETE FROM cauce_member")
        await connection.execute("DELETE FROM cauce_outbox")
        await connection.close()
        await self._plain.dispose()

    def _row(self) -> Any:
        self._number += 1
        return insert(business).values(user_id=f"user-{self._number % KEYS}", name="John", text=TEXT)

    async def business(self) -> None:
        async with self._sessions() as session, session.begin():
            await session.execute(self._row())

    async def by_hand(self) -> None:
        """The least that a unit of work with an event can do."""
        async with self._sessions() as session, session.begin():
            await session.execute(self._row())
            await by_hand.write_outbox_row(session, self._number)

    async def unkeyed(self) -> None:
        async with self._service.transaction() as tx:
            await tx.session.execute(self._row())
            await tx.publish(event_of(self._number, keyed=False))

    async def keyed(self) -> None:
        async with self._service.transaction() as tx:
            await tx.session.execute(self._row())
            await tx.publish(event_of(self._number, keyed=True))

    async def peer(self) -> None:
        async with self._sessions() as session, session.begin():
            await session.execute(self._row())
            await with_faststream.write_outbox_row(self._peer, session, self._number)

    async def measure(self, way: str, count: int, at_once: int) -> float:
        """Transactions a second."""
        do, left = self.ways[way], count

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await do()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return count / (time.perf_counter() - began)
