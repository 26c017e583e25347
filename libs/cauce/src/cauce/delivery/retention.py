"""How long Cauce's own rows are kept, and the loop that prunes them: in small batches, oldest first."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from cauce.delivery.lanes.ownership import Ownership
from cauce.errors import TransportUnavailableError
from cauce.ports.message_store import MessageStore
from cauce.ports.outbox import BATCH, KeepSent
from cauce.ports.transport import DurableTransport
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["Keep", "Pruning"]

log = logging.getLogger("cauce.retention")

_EVERY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long what is kept, in seconds, rows and bytes.

    Sent rows are resent to a broker that lost its data; the inbox recognises duplicates. Both cost disk. `dead_s`: dead
    letters that hold no key, never shorter than `inbox_s`; those that hold one stay until an operator replays or discards
    them, because the key's next event would pass.
    """

    sent_s: float = 24 * 3600.0
    sent_rows: int = 1_000_000
    sent_bytes: int = 1024 * 1024 * 1024
    inbox_s: float = 7 * 24 * 3600.0
    broker_s: float = 24 * 3600.0
    dead_s: float = 90 * 24 * 3600.0


class Pruning:
    """Deletes what is older than `keep` allows. Only the owner of lane 0 deletes rows: one process of a service."""

    def __init__(
        self,
        *,
        topics: Sequence[str],
        message_store: MessageStore,
        transport: DurableTransport | None,
        ownership: Ownership,
        keep: Keep,
        trouble: DatabaseStatus,
        count: Callable[[str, int], None],
        every_s: float = _EVERY_S,
    ) -> None:
        self._topics = topics
        self._message_store = message_store
        self._transport = transport
        self._ownership = ownership
        self._keep = keep
        self._trouble = trouble
        self._count = count
        self._every_s = every_s
        self._said_until = -math.inf

    async def run(self) -> None:
        """Prune until cancelled. Errors are logged and retried; pruning is never urgent."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._round()
            except TransportUnavailableError:
                continue  # the relay reports it
            except Exception as error:
                self._trouble.down(error, retry_in_s=self._every_s)

    async def _round(self) -> None:
        store, lanes = self._message_store, self._ownership.lanes()
        if 0 in lanes:
            keep, clock = self._keep, self._ownership.database_clock()
            while await store.prune_inbox(older_than_s=keep.inbox_s, clock=clock, limit=BATCH) == BATCH:
                await asyncio.sleep(0)
            await self._prune_sent(clock)
            await self._forget_dead(max(keep.dead_s, keep.inbox_s), clock)
        if self._transport is not None:
            for topic, lane in product(self._topics, lanes):
                trimmed = await self._transport.trim(topic, lane, older_than_s=self._keep.broker_s)
                if trimmed:
                    self._count("trimmed", trimmed)

    async def _forget_dead(self, older_than_s: float, clock: float | None) -> None:
        forgotten, batch = 0, BATCH
        while batch == BATCH:
            batch = await self._message_store.prune_dead(older_than_s=older_than_s, clock=clock, limit=BATCH)
            forgotten += batch
            await asyncio.sleep(0)
        if forgotten:
            self._count("dead_forgotten", forgotten)
            log.warning("%d dead letters without a waiting key were kept for %.0f days and are forgotten now",
                        forgotten, older_than_s / 86400)  # fmt: skip

    async def _prune_sent(self, clock: float | None) -> None:
        """By age, rows and bytes. The last two keep less than `sent_s` promises, so they are counted and logged."""
        keep = KeepSent(seconds=self._keep.sent_s, rows=self._keep.sent_rows, bytes=self._keep.sent_bytes)
        capped, more = False, True
        while more:
            pruned = await self._message_store.prune_sent(keep, clock=clock)
            capped, more = capped or pruned.capped, pruned.more
            await asyncio.sleep(0)
        if capped:
            self._count("window_shortened", 1)
        if capped and time.monotonic() >= self._said_until:  # once in a window: it happens whenever rows are let go
            self._said_until = time.monotonic() + keep.seconds
            log.error(
                "more events are sent than kept rows allow (%d rows, %d bytes): a broker that loses its data can be fed "
                "less than %.0f h back",
                keep.rows, keep.bytes, keep.seconds / 3600,
            )  # fmt: skip
