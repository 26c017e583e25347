"""A service that publishes at a pace and one that hears it, in one process: how long each event is under way."""

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

from cauce import Retry, Transaction, on
from cauce.ports.lanes import Lane, lane_of

from durability.events import KeyedRenamed
from durability.place import Place
from durability.tables import effect_of
from durability.waiting import until
from durability.with_cauce import consumer, producer

__all__ = ["PacedServices"]


class PacedServices:
    """The two services. The listener refuses the key `bad` while there is a `cause`."""

    def __init__(self, producing: Place, consuming: Place) -> None:
        self.cause = False
        self.bad = ""
        self._service = producer(producing)
        self._committed: dict[str, float] = {}
        self._applied: dict[str, float] = {}
        self._lanes: dict[str, Lane] = {}
        self._order: dict[str, list[int]] = {}
        self._number = 0

        @on(KeyedRenamed, name="effect", retry=Retry(attempts=10_000, base=0.05, cap=0.5))
        async def effect(event: KeyedRenamed, tx: Transaction) -> None:
            if self.cause and event.user_id == self.bad:
                raise RuntimeError("not yet")
            tx.session.add(effect_of(event.user_id, event.text))

        self._consumer = consumer(consuming, effect)
        self._consumer.observe(self._happened)

    def _happened(self, happening: Any) -> None:
        if happening.what == "handled":
            event = happening.envelope.payload
            self._applied[happening.envelope.id] = time.perf_counter()
            self._order.setdefault(event.user_id, []).append(int(event.text))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with self._consumer, self._service:
            await self.at_pace(50, 0.01, keys=50)  # warming up
            await self.everything_applied()
            yield

    async def at_pace(self, count: int, every_s: float, *, keys: int) -> tuple[Sequence[str], float]:
        """Publish; the ids of the events whose key is not `bad`, and how many ms a committing transaction took."""
        ids: list[str] = []
        commits: list[float] = []
        due = time.perf_counter()
        for _ in range(count):
            self._number += 1
            user_id = f"user-{self._number % keys}"
            began = time.perf_counter()
            async with self._service.transaction() as tx:
                envelope = await tx.publish(KeyedRenamed(user_id=user_id, text=str(self._number)))
            self._committed[envelope.id] = time.perf_counter()
            self._lanes[envelope.id] = lane_of(envelope)
            commits.append(self._committed[envelope.id] - began)
            if user_id != self.bad:
                ids.append(envelope.id)
            due += every_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return ids, median(commits) * 1000

    async def typical_ms(self, ids: Sequence[str]) -> float:
        """From the commit of the change to the commit of its effect: the median."""
        await until(lambda: all(one in self._applied for one in ids))
        return median(self._applied[one] - self._committed[one] for one in ids) * 1000

    async def taken_ms(self, ids: Sequence[str]) -> Sequence[float]:
        """From the commit of the change to the commit of its effect: of each, the quickest first."""
        await until(lambda: all(one in self._applied for one in ids))
        return sorted((self._applied[one] - self._committed[one]) * 1000 for one in ids)

    async def times_of(self, one: str) -> tuple[float, float]:
        """When the change was committed, and when its effect."""
        while one not in self._applied:  # noqa: ASYNC110  # nothing else may run meanwhile
            await asyncio.sleep(0.001)
        return self._committed[one], self._applied[one]

    def lanes(self) -> Collection[Lane]:
        """Those of the process that hears here."""
        run = self._consumer._run  # pyright: ignore[reportPrivateUsage]
        return run.lanes() if run is not None else ()

    def lanes_to_send(self) -> Collection[Lane]:
        """Those of the process that publishes here."""
        run = self._service._run  # pyright: ignore[reportPrivateUsage]
        return run.lanes() if run is not None else ()

    def of_lanes(self, ids: Sequence[str], lanes: Collection[Lane]) -> Sequence[str]:
        return [one for one in ids if self._lanes[one] in lanes]

    async def slowest_s(self, ids: Sequence[str]) -> float:
        """From the commit of the change to the commit of its effect, of the one that took longest."""
        await until(lambda: all(one in self._applied for one in ids))
        return max(self._applied[one] - self._committed[one] for one in ids)

    async def everything_applied(self) -> None:
        await until(lambda: len(self._applied) == len(self._committed))
        assert all(numbers == sorted(numbers) for numbers in self._order.values()), "not in the order of the keys"
