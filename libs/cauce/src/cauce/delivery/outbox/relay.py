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
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from random import random

from cauce.delivery.lanes.ownership import Ownership
from cauce.errors import PublishError, TailUnverifiedError, TransportUnavailableError
from cauce.ports.lanes import Epoch, Lane
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import OutboxRow
from cauce.ports.transport import BrokerId, DurableTransport, Status
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["Relay"]

log = logging.getLogger("cauce.relay")

_BATCH = 500
_TAIL = 100
_POLL_FIRST_S = 0.02
_POLL_CAP_S = 1.0
_SIGN_OF_LIFE_S = 1.5
"""After so long without a word from the broker it is asked for one, so that readiness knows before a row waits."""
_REST_S = 1.0
_LAST_MARK_S = 1.0

Stream = tuple[str, Lane]
Sent = list[tuple[int, BrokerId]]
"""Positions of rows, and the broker's ids for them."""


@dataclass(slots=True)
class _Portion:
    """What one round sent. `touched`: its lanes, and their epochs when it was sent."""

    found: bool = False
    sent: Sent = field(default_factory=Sent)
    touched: dict[Lane, Epoch] = field(default_factory=dict[Lane, Epoch])
    troubles: dict[Stream, BaseException] = field(default_factory=dict[Stream, BaseException])


class Relay:
    """The loop that empties one service's outbox."""

    def __init__(
        self,
        *,
        topics: Sequence[str],
        message_store: MessageStore,
        transport: DurableTransport,
        ownership: Ownership,
        status: Status,
        trouble: DatabaseStatus,
        count: Callable[[str, int], None],
        verify_every_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`topics`: the service's own, then those of others whose events it adopts."""
        self._topics = topics
        self._message_store = message_store
        self._transport = transport
        self._ownership = ownership
        self._status = status
        self._trouble = trouble
        self._count = count
        self._verify_every_s = verify_every_s
        self._now = monotonic
        self._wake = asyncio.Event()
        self._verified: dict[Stream, tuple[Epoch, float]] = {}
        self._server: str | None = None
        self._refed: Counter[str] = Counter()
        self._resting: dict[Stream, float] = {}
        """Streams that the broker would not take while it took others, and until when they are left alone."""
        self._unmarked = _Portion()
        """What the broker has confirmed and the database does not know yet."""
        self._troubled = True
        self._heard_at = -math.inf

    def wake(self) -> None:
        """Something was committed: a hint that spares a wait, nothing more."""
        self._wake.set()

    async def run(self) -> None:
        """Relay until cancelled. Polling is the truth: 20 ms after work, up to a second when there is none."""
        try:
            await self._relay()
        finally:
            with suppress(Exception):  # who cannot be told now sends it once more
                async with asyncio.timeout(_LAST_MARK_S):
                    await self._mark_unmarked()

    async def _relay(self) -> None:
        pause_s = _POLL_FIRST_S
        while True:
            try:
                worked = await self._round()
                pause_s = _POLL_FIRST_S if worked else min(_POLL_CAP_S, pause_s * 2)
                if self._troubled and not self._resting:
                    await self._mark_unmarked()  # so that it can be said how many were caught up
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
                self._trouble.down(error, retry_in_s=pause_s)
            finally:
                self._tell_refed()
            await self._pause(pause_s * (0.8 + 0.4 * random()))

    async def _round(self) -> bool:
        """Send a portion of every lane while the last one is marked; whether there was any.

        Raises TransportUnavailableError if nothing could be sent. Marking takes the database longer than reading, and
        needs nobody to wait for it: the broker has confirmed those rows already.
        """
        lanes = self._ownership.lanes()
        unverified = self._unverified(lanes)
        if unverified:
            await self._mark_unmarked()  # what the broker confirmed last is part of what it must still hold
            await self._verify(unverified)
        marked, portion = await asyncio.gather(self._mark_unmarked(), self._send(lanes), return_exceptions=True)
        if isinstance(portion, BaseException):
            raise portion
        self._unmarked = portion
        if marked is not None:
            raise marked
        self._settle(portion.troubles, any_sent=bool(portion.sent))
        return portion.found

    async def _send(self, lanes: Mapping[Lane, Epoch]) -> "_Portion":
        known = {lane for _, lane in self._verified}
        rows = await self._message_store.pending(
            [lane for lane in lanes if lane in known],
            limit=_BATCH,
            besides=[position for position, _ in self._unmarked.sent],
        )
        batches = {stream: batch for stream, batch in _by_stream(rows).items() if stream in self._verified}
        if not batches:
            if not self._unmarked.sent and self._now() - self._heard_at >= _SIGN_OF_LIFE_S:
                await self._sign_of_life(lanes)
                self._heard_at = self._now()
            return _Portion()
        # Streams are independent of each other, so all of them make one trip.
        answers = await asyncio.gather(
            *(self._append(stream, batch) for stream, batch in batches.items()), return_exceptions=True
        )
        portion = _Portion(found=True)
        for stream, answer in zip(batches, answers, strict=True):
            if isinstance(answer, BaseException):
                portion.troubles[stream] = answer
            elif answer:
                portion.sent += answer
                portion.touched[stream[1]] = lanes[stream[1]]
        self._heard_at = self._now()
        return portion

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
        await self._message_store.set_aside(row.position, str(error))
        self._count("set_aside", 1)
        waits = "" if row.key is None else f" · key {row.key} waits behind it"
        log.error("event %s cannot be sent: %s%s · cauce outbox status", row.event_id, error, waits)

    async def _mark_unmarked(self) -> None:
        """Tell the database what the broker has confirmed. If that fails, it is sent once more."""
        portion = self._unmarked
        if not portion.sent:
            return
        try:
            marked = await self._message_store.mark_sent(portion.touched, self._ownership.me, portion.sent)
        except Exception:
            self._unmarked = _Portion()
            raise
        self._unmarked = _Portion()
        if marked:
            self._count("sent", len(portion.sent))
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

    def _unverified(self, lanes: Mapping[Lane, Epoch]) -> Sequence[tuple[Stream, Epoch]]:
        """Streams of ours about which the broker is to be asked before anything new goes there."""
        self._resting = {stream: until for stream, until in self._resting.items() if self._now() < until}
        found: list[tuple[Stream, Epoch]] = []
        for (lane, epoch), topic in product(lanes.items(), self._topics):
            known = self._verified.get((topic, lane))
            fresh = known is not None and known[0] == epoch and self._now() - known[1] < self._verify_every_s
            if not fresh and (topic, lane) not in self._resting:
                found.append(((topic, lane), epoch))
        return found

    async def _verify(self, streams: Sequence[tuple[Stream, Epoch]]) -> None:
        """Before anything new: does the broker still hold the newest of what it confirmed?

        A stream that cannot be asked about rests; raises TransportUnavailableError when a second one cannot either.
        """
        troubled = False
        for stream, epoch in streams:
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
        newest = await self._message_store.newest_sent(topic, lane, limit=_TAIL)
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
        again = await self._message_store.mark_unsent(
            topic, lane, from_position=None if first == newest[0][0] else first
        )
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
