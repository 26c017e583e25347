"""From the outbox to the broker: pending rows of our lanes, in order, verified before anything new.

A row is sent when the broker has confirmed it and the database knows. A crash between the two sends it twice, and the
inbox drops the duplicate. Nothing is ever skipped: the relay reads what is not sent, never what comes after a position.
A failure of one lane, or of one row, stops no other lane and no other key.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cauce.concurrency.backoff import Backoff
from cauce.delivery.lanes.ownership import Ownership
from cauce.delivery.outbox.tail import Stream, TailCheck
from cauce.errors import PublishError, TailUnverifiedError, TransportUnavailableError
from cauce.ports.lanes import Epoch, Lane
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import OutboxRow
from cauce.ports.transport import BrokerId, DurableTransport, Status
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["Relay"]

log = logging.getLogger("cauce.relay")

_POLL_FIRST_S = 0.02
_TURN_CAP_S = 1.0
_POLL_CAP_S = 30.0
"""The table is looked into so seldom when nothing wakes the relay: the Lookout looks each second."""
_RETRY_FIRST_S = 0.1
_RETRY_CAP_S = 2.0
_SIGN_OF_LIFE_S = 1.5
"""A broker that has not answered for so long is asked to, so that readiness knows before a row waits."""
_REST_S = 1.0
_LAST_MARK_S = 1.0

Sent = list[tuple[int, BrokerId]]
"""Positions of rows, and the broker's ids for them."""


@dataclass(slots=True)
class _Portion:
    """The rows that one round sent. `touched`: their lanes, with the epochs at that time."""

    found: bool = False
    sent: Sent = field(default_factory=Sent)
    touched: dict[Lane, Epoch] = field(default_factory=dict[Lane, Epoch])
    troubles: dict[Stream, BaseException] = field(default_factory=dict[Stream, BaseException])


class Relay:
    """The loop that empties one service's outbox."""

    def __init__(
        self,
        tail: TailCheck,
        *,
        message_store: MessageStore,
        transport: DurableTransport,
        ownership: Ownership,
        status: Status,
        trouble: DatabaseStatus,
        count: Callable[[str, int], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tail = tail
        self._message_store = message_store
        self._transport = transport
        self._ownership = ownership
        self._status = status
        self._trouble = trouble
        self._count = count
        self._now = monotonic
        self._backoff = Backoff(_POLL_FIRST_S, _TURN_CAP_S)
        self._woken = True
        self._poll_at = -math.inf
        self._poll_s = _POLL_FIRST_S
        self._resting: dict[Stream, float] = {}
        """Streams that the broker refused while it took others, and until when they are left alone."""
        self._unmarked = _Portion()
        """Rows that the broker has confirmed and the database does not know as sent yet."""
        self._troubled = True
        self.broker_is_down = False
        """Whether the broker refused the last rows; False also before anything was sent."""
        self.sent = 0
        """How many rows this process has sent and marked."""
        self._heard_at = -math.inf

    def wake(self) -> None:
        """Look now: something was committed. A hint that spares a wait, nothing more."""
        self._woken = True
        self._backoff.wake()

    async def run(self) -> None:
        """Relay until cancelled. Polls by itself soon after work, and seldom while there is none: `wake` it then."""
        try:
            await self._relay()
        finally:
            with suppress(Exception):  # what cannot be marked now is sent once more
                async with asyncio.timeout(_LAST_MARK_S):
                    await self._mark_unmarked()

    async def _relay(self) -> None:
        while True:
            try:
                worked = await self._round()
                if worked:
                    self._backoff.reset()
                else:
                    self._backoff.grow()
                if self._troubled and not self._resting:
                    await self._mark_unmarked()  # so that the status can report how many were caught up
                    self._troubled = False
                    self.broker_is_down = False
                    self._status.up()
                if worked:
                    continue
            except TransportUnavailableError as error:
                self._retry_later()
                self._tail.doubt_all()
                self._heard_at = -math.inf
                self._down(error, retry_in_s=self._backoff.pause_s)
            except Exception as error:  # the database: nothing is lost, the rows wait there
                self._retry_later()
                self._trouble.down(error, retry_in_s=self._backoff.pause_s)
            finally:
                self._tail.log_resent()
            await self._backoff.pause()

    def _retry_later(self) -> None:
        self._woken = True
        self._backoff.grow(least_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S)

    async def _round(self) -> bool:
        """Send a portion of every lane while the last one is marked; whether there was any.

        Raises TransportUnavailableError if nothing could be sent. Marking takes the database longer than reading, and
        nothing waits for it: the broker has confirmed those rows already. Reading begins first, since on SQLite the two
        are one after the other.
        """
        lanes = self._ownership.lanes()
        self._resting = {stream: until for stream, until in self._resting.items() if self._now() < until}
        unverified = self._tail.unverified(lanes, resting=self._resting)
        if unverified or self._resting:
            self._woken = True
        if unverified:
            await self._mark_unmarked()  # the broker must still hold what it confirmed last, too
            await self._verify(unverified)
        portion, marked = await asyncio.gather(self._send(lanes), self._mark_unmarked(), return_exceptions=True)
        if isinstance(portion, BaseException):
            raise portion
        self._unmarked = portion
        if marked is not None:
            raise marked
        self._settle(portion.troubles, any_sent=bool(portion.sent))
        return portion.found

    async def _send(self, lanes: Mapping[Lane, Epoch]) -> "_Portion":
        rows = await self._pending(lanes) if self._woken or self._now() >= self._poll_at else ()
        batches = {stream: batch for stream, batch in _by_stream(rows).items() if self._tail.is_verified(stream)}
        if not batches:
            if not self._unmarked.sent and self._now() - self._heard_at >= _SIGN_OF_LIFE_S:
                if not await self._tail.sign_of_life(lanes):
                    self._backoff.wake()  # to verify it at once
                self._heard_at = self._now()
            return _Portion()
        # Streams are independent of each other, so all of them are sent in one round trip.
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

    async def _pending(self, lanes: Mapping[Lane, Epoch]) -> Sequence[OutboxRow]:
        """A portion of what waits in lanes that are verified. When nothing does, the table is left alone for a while."""
        self._woken = False  # before the question: what is committed meanwhile wakes us again
        verified = self._tail.lanes()
        try:
            rows = await self._message_store.pending(
                [lane for lane in lanes if lane in verified],
                limit=self._message_store.portion,
                topics=self._tail.topics,
                besides=[position for position, _ in self._unmarked.sent],
            )
        except BaseException:
            self._woken = True
            raise
        self._poll_s = _POLL_FIRST_S if rows else min(_POLL_CAP_S, 2 * self._poll_s)
        self._poll_at = self._now() + (0.0 if rows else self._poll_s)
        return rows

    async def _append(self, stream: Stream, batch: Sequence[OutboxRow]) -> Sent:
        """Send a batch; return what the broker took. A message it rejects permanently is set aside, and what follows
        it under its key stays unsent."""
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
        """Mark as sent what the broker has confirmed. If that fails, it is sent once more."""
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
            self.sent += len(portion.sent)
            self._count("sent", len(portion.sent))
        else:
            log.warning("a lane was taken over while its rows were being sent; its new owner sends them again")

    def _settle(self, troubles: Mapping[Stream, BaseException], *, any_sent: bool) -> None:
        """Raise if nothing could be sent: the broker is down. Otherwise the streams that failed rest."""
        refused: dict[Stream, TransportUnavailableError] = {}
        for stream, error in troubles.items():
            if not isinstance(error, TransportUnavailableError):
                raise error
            self._tail.doubt(stream)
            if not isinstance(error, TailUnverifiedError):  # the next round verifies it, and follows at once
                refused[stream] = error
        for stream, error in refused.items():
            if not any_sent:
                raise error
            self._rest(stream, error)

    def _rest(self, stream: Stream, error: TransportUnavailableError) -> None:
        self._tail.doubt(stream)
        self._resting[stream] = self._now() + _REST_S
        self._down(error, retry_in_s=_REST_S)

    def _down(self, error: TransportUnavailableError, *, retry_in_s: float) -> None:
        self._troubled = self.broker_is_down = True
        self._status.down(str(error), retry_in_s=retry_in_s)

    async def _verify(self, streams: Sequence[tuple[Stream, Epoch]]) -> None:
        """Verify each stream. One that cannot be verified rests; raises TransportUnavailableError at the second."""
        troubled = False
        for stream, epoch in streams:
            try:
                await self._tail.verify(stream, epoch)
            except TransportUnavailableError as error:
                if troubled:
                    raise
                troubled = True
                self._rest(stream, error)


def _by_stream(rows: Sequence[OutboxRow]) -> Mapping[Stream, Sequence[OutboxRow]]:
    batches: dict[Stream, list[OutboxRow]] = {}
    for row in rows:
        batches.setdefault((row.topic, row.lane), []).append(row)
    return batches
