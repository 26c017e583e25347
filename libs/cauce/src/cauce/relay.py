"""From the outbox to the broker: pending rows of our lanes, in order, verified before anything new.

A row is sent when the broker has confirmed it and the database knows. What happens between the two is a repeat, and
repeats die in the inbox. Nothing is ever skipped: the relay asks for what is not sent, never for what comes after.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import random

from cauce.errors import TransportUnavailableError
from cauce.journal import Journal, OutboxRow
from cauce.lanes import Epoch
from cauce.ownership import Ownership
from cauce.transport import BrokerId, DurableTransport, Lane, Status

__all__ = ["Relay"]

log = logging.getLogger("cauce.relay")

_BATCH = 500
_TAIL = 100
_POLL_FIRST_S = 0.02
_POLL_CAP_S = 1.0
_SIGN_OF_LIFE_S = 1.5
"""After so long without a word from the broker it is asked for one, so that readiness knows before a row waits."""


class Relay:
    """The loop that empties one service's outbox."""

    def __init__(
        self,
        *,
        topics: Sequence[str],
        journal: Journal,
        transport: DurableTransport,
        ownership: Ownership,
        status: Status,
        count: Callable[[str, int], None],
        verify_every_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`topics`: the service's own, then those of others whose events it adopts."""
        self._topics = topics
        self._journal = journal
        self._transport = transport
        self._ownership = ownership
        self._status = status
        self._count = count
        self._verify_every_s = verify_every_s
        self._now = monotonic
        self._wake = asyncio.Event()
        self._verified: dict[tuple[str, Lane], tuple[Epoch, float, str]] = {}
        self._server: str | None = None
        self._troubled = True
        self._heard_at = -math.inf

    def wake(self) -> None:
        """Something was committed: a hint that spares a wait, nothing more."""
        self._wake.set()

    async def run(self) -> None:
        """Relay until cancelled. Polling is the truth: 20 ms after work, up to a second when there is none."""
        pause_s = _POLL_FIRST_S
        while True:
            try:
                worked = await self._round()
                pause_s = _POLL_FIRST_S if worked else min(_POLL_CAP_S, pause_s * 2)
                if self._troubled:
                    self._troubled = False
                    self._status.up()
                if worked:
                    continue
            except TransportUnavailableError as error:
                pause_s = min(_POLL_CAP_S * 2, max(0.1, pause_s * 2))
                self._verified.clear()
                self._troubled = True
                self._heard_at = -math.inf
                self._status.down(str(error), retry_in_s=pause_s)
            except Exception as error:  # the database: nothing is lost, the rows wait there
                pause_s = min(_POLL_CAP_S * 2, max(0.1, pause_s * 2))
                log.warning("the outbox could not be read or marked: %s", type(error).__name__)
            await self._pause(pause_s * (0.8 + 0.4 * random()))

    async def _round(self) -> bool:
        lanes = self._ownership.lanes()
        await self._verify(lanes)
        rows = await self._journal.pending(list(lanes), limit=_BATCH)
        if not rows:
            if self._now() - self._heard_at >= _SIGN_OF_LIFE_S:
                await self._transport.now(self._topics[0])
                self._heard_at = self._now()
            return False
        batches = _by_stream(rows)
        # Lanes are independent of each other, so all of them make one trip.
        answers = await asyncio.gather(
            *(
                self._transport.append(topic, lane, [row.message for row in batch])
                for (topic, lane), batch in batches.items()
            ),
            return_exceptions=True,
        )
        sent: list[tuple[int, BrokerId]] = []
        touched: dict[Lane, Epoch] = {}
        trouble: list[BaseException] = []
        for ((_, lane), batch), ids in zip(batches.items(), answers, strict=True):
            if isinstance(ids, BaseException):
                trouble.append(ids)
                continue
            sent += [(row.position, broker_id) for row, broker_id in zip(batch, ids, strict=True)]
            touched[lane] = lanes[lane]
        if sent:
            if await self._journal.mark_sent(touched, self._ownership.me, sent):
                self._count("sent", len(sent))
            else:
                log.warning("a lane was taken over while its rows were being sent; its new owner sends them again")
        if trouble:
            raise trouble[0]
        self._heard_at = self._now()
        return True

    async def _verify(self, lanes: Mapping[Lane, Epoch]) -> None:
        """Before anything new: does the broker still hold the newest of what it confirmed?"""
        for (lane, epoch), topic in product(lanes.items(), self._topics):
            known = self._verified.get((topic, lane))
            if known is not None and known[0] == epoch and self._now() - known[1] < self._verify_every_s:
                continue
            newest = await self._journal.newest_sent(topic, lane, limit=_TAIL)
            tail = await self._transport.tail(topic, lane, [broker_id for _, broker_id in newest])
            if tail.lost_from is not None:
                first = next(position for position, broker_id in newest if broker_id == tail.lost_from)
                again = await self._journal.unsend(topic, lane, from_position=0 if first == newest[0][0] else first)
                self._count("refed", again)
                log.error("%s, lane %d: the broker lost events it had confirmed; %d are sent again", topic, lane, again)
            self._verified[topic, lane] = (epoch, self._now(), tail.server)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()


def _by_stream(rows: Sequence[OutboxRow]) -> Mapping[tuple[str, Lane], Sequence[OutboxRow]]:
    batches: dict[tuple[str, Lane], list[OutboxRow]] = {}
    for row in rows:
        batches.setdefault((row.topic, row.lane), []).append(row)
    return batches
