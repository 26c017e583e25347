"""From the outbox to the broker: pending rows of our lanes, in order, verified before anything new.

A row is sent when the broker has confirmed it and the database knows. What happens between the two is a repeat, and
repeats die in the inbox. Nothing is ever skipped: the relay asks for what is not sent, never for what comes after.
What goes wrong in one lane, or with one row, is no other lane's and no other key's trouble.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import random

from cauce.errors import PublishError, TailUnverifiedError, TransportUnavailableError
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
_REST_S = 1.0

Stream = tuple[str, Lane]
Sent = list[tuple[int, BrokerId]]
"""Positions of rows, and the broker's ids for them."""


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
        self._verified: dict[Stream, tuple[Epoch, float]] = {}
        self._server: str | None = None
        self._refed: Counter[str] = Counter()
        self._resting: dict[Stream, float] = {}
        """Streams that the broker would not take while it took others, and until when they are left alone."""
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
                if self._troubled and not self._resting:
                    self._troubled = False
                    self._status.up()
                if worked:
                    continue
            except TransportUnavailableError as error:
                pause_s = min(_POLL_CAP_S * 2, max(0.1, pause_s * 2))
                self._verified.clear()
                self._heard_at = -math.inf
                self._down(error, retry_in_s=pause_s)
            except Exception as error:  # the database: nothing is lost, the rows wait there
                pause_s = min(_POLL_CAP_S * 2, max(0.1, pause_s * 2))
                log.warning("the outbox could not be read or marked: %s", type(error).__name__)
            finally:
                self._tell_refed()
            await self._pause(pause_s * (0.8 + 0.4 * random()))

    async def _round(self) -> bool:
        """One portion of every lane; whether there was any. Raises TransportUnavailableError if nothing could be done."""
        lanes = self._ownership.lanes()
        await self._verify(lanes)
        known = {lane for _, lane in self._verified}
        rows = await self._journal.pending([lane for lane in lanes if lane in known], limit=_BATCH)
        batches = {stream: batch for stream, batch in _by_stream(rows).items() if stream in self._verified}
        if not batches:
            if self._now() - self._heard_at >= _SIGN_OF_LIFE_S:
                await self._sign_of_life(lanes)
                self._heard_at = self._now()
            return False
        # Streams are independent of each other, so all of them make one trip.
        answers = await asyncio.gather(
            *(self._append(stream, batch) for stream, batch in batches.items()), return_exceptions=True
        )
        sent: Sent = []
        touched: dict[Lane, Epoch] = {}
        troubles: dict[Stream, BaseException] = {}
        for stream, answer in zip(batches, answers, strict=True):
            if isinstance(answer, BaseException):
                troubles[stream] = answer
            elif answer:
                sent += answer
                touched[stream[1]] = lanes[stream[1]]
        if sent:
            await self._mark(touched, sent)
        self._settle(troubles, any_sent=bool(sent))
        self._heard_at = self._now()
        return True

    async def _append(self, stream: Stream, batch: Sequence[OutboxRow]) -> Sent:
        """What the broker took. A message it will never take is set aside, with what follows it under its key."""
        topic, lane = stream
        try:
            ids = await self._transport.append(topic, lane, [row.message for row in batch])
            return [(row.position, broker_id) for row, broker_id in zip(batch, ids, strict=True)]
        except PublishError as error:
            if len(batch) == 1:
                await self._set_aside(batch[0], error)
                return []
        sent: Sent = []
        stuck: set[str] = set()
        for row in batch:
            if row.key in stuck:
                continue
            taken = await self._append(stream, [row])
            sent += taken
            if not taken and row.key is not None:
                stuck.add(row.key)
        return sent

    async def _set_aside(self, row: OutboxRow, error: PublishError) -> None:
        await self._journal.set_aside(row.position, str(error))
        self._count("set_aside", 1)
        waits = "" if row.key is None else f" · key {row.key} waits behind it"
        log.error("event %s cannot be sent: %s%s · cauce outbox status", row.event_id, error, waits)

    async def _mark(self, touched: Mapping[Lane, Epoch], sent: Sent) -> None:
        if await self._journal.mark_sent(touched, self._ownership.me, sent):
            self._count("sent", len(sent))
        else:
            log.warning("a lane was taken over while its rows were being sent; its new owner sends them again")

    def _settle(self, troubles: Mapping[Stream, BaseException], *, any_sent: bool) -> None:
        """Trouble with everything is the broker's, and raised; with a part, it is that part's, which rests."""
        refused: dict[Stream, TransportUnavailableError] = {}
        for stream, error in troubles.items():
            if not isinstance(error, TransportUnavailableError):
                raise error
            self._verified.pop(stream, None)
            if not isinstance(error, TailUnverifiedError):  # that is asked for in the next round, which is at once
                refused[stream] = error
        for stream, error in refused.items():
            if not any_sent:
                raise error
            self._rest(stream, error)

    def _rest(self, stream: Stream, error: TransportUnavailableError) -> None:
        self._verified.pop(stream, None)
        self._resting[stream] = self._now() + _REST_S
        self._down(error, retry_in_s=_REST_S)

    def _down(self, error: TransportUnavailableError, *, retry_in_s: float) -> None:
        self._troubled = True
        self._status.down(str(error), retry_in_s=retry_in_s)

    async def _verify(self, lanes: Mapping[Lane, Epoch]) -> None:
        """Before anything new: does the broker still hold the newest of what it confirmed?

        A stream that cannot be asked about rests; raises TransportUnavailableError when a second one cannot either.
        """
        self._resting = {stream: until for stream, until in self._resting.items() if self._now() < until}
        troubled = False
        for (lane, epoch), topic in product(lanes.items(), self._topics):
            stream = (topic, lane)
            known = self._verified.get(stream)
            if stream in self._resting or (
                known is not None and known[0] == epoch and self._now() - known[1] < self._verify_every_s
            ):
                continue
            try:
                await self._verify_one(stream, epoch)
            except TransportUnavailableError as error:
                if troubled:
                    raise
                troubled = True
                self._rest(stream, error)

    async def _sign_of_life(self, lanes: Mapping[Lane, Epoch]) -> None:
        """Does the broker answer, and is it still the one it was? Between two of these it may have been restarted."""
        ours = [stream for stream in self._verified if stream[1] in lanes]
        if ours:
            oldest = min(ours, key=lambda stream: self._verified[stream][1])
            await self._verify_one(oldest, lanes[oldest[1]])
        else:
            await self._transport.now(self._topics[0])

    async def _verify_one(self, stream: Stream, epoch: Epoch) -> None:
        topic, lane = stream
        newest = await self._journal.newest_sent(topic, lane, limit=_TAIL)
        tail = await self._transport.tail(topic, lane, [broker_id for _, broker_id in newest])
        if tail.server != self._server:
            self._verified.clear()  # of a broker that may have lost everything since
            self._server = tail.server
        if tail.lost_from is not None:
            await self._feed_again(stream, newest, tail.lost_from)
        self._verified[stream] = (epoch, self._now())

    async def _feed_again(self, stream: Stream, newest: Sequence[tuple[int, BrokerId]], lost_from: BrokerId) -> None:
        """From the oldest that is missing on; if everything we asked for is missing, all that is kept."""
        topic, lane = stream
        first = next(position for position, broker_id in newest if broker_id == lost_from)
        again = await self._journal.unsend(topic, lane, from_position=None if first == newest[0][0] else first)
        self._count("refed", again)
        self._refed[topic] += again

    def _tell_refed(self) -> None:
        """One line for a topic, however many lanes it has."""
        for topic, again in self._refed.items():
            log.error("%s: the broker lost events it had confirmed; %d are sent again", topic, again)
        self._refed.clear()

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
