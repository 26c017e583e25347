"""What happens once a transaction is known to be committed, in the order of publishing: listeners here, then others.

This is the volatile way: everything waits in memory and is lost with the process. The queue is bounded; what does
not fit is dropped, said and counted, and so is an event the broker did not take.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from cauce.errors import PublishError, TransportUnavailableError
from cauce.events.envelope import Envelope
from cauce.ports.lanes import lane_of
from cauce.ports.transport import Transport
from cauce.publishing.pending import AfterCommit, Pending

__all__ = ["AfterCommitQueue"]

log = logging.getLogger("cauce.after_commit")

_BOUND = 10_000
_BATCH = 100


class AfterCommitQueue:
    """One worker for the listeners of this process, one for the transport: neither waits for the other."""

    def __init__(
        self,
        *,
        transport: Transport | None,
        run_listeners: Callable[[AfterCommit], Awaitable[None]],
        lost: Callable[[Iterable[Envelope]], None],
        count: Callable[[str], None],
        bound: int = _BOUND,
    ) -> None:
        self._transport = transport
        self._run_listeners = run_listeners
        self._lost = lost
        self._count = count
        self._bound = bound
        self._inside: deque[AfterCommit] = deque()
        self._outside: deque[Envelope] = deque()
        self._wake = asyncio.Event()
        self._wake_outside = asyncio.Event()
        self._busy = 0
        self._open = False
        self._dropped = 0

    def open(self) -> None:
        """From now on what is accepted is worked on: `run` has been started."""
        self._open = True

    @property
    def is_open(self) -> bool:
        return self._open

    def accept(self, pending: Iterable[Pending]) -> None:
        """Never waits, never raises: the transaction is committed, and its caller is done."""
        for item in pending:
            if isinstance(item, AfterCommit):
                if not item.listeners:
                    continue
                if self._open and len(self._inside) < self._bound:
                    self._inside.append(item)
                    self._wake.set()
                else:
                    self._drop()
            elif self._open and len(self._outside) < self._bound:
                self._outside.append(item.envelope)
                self._wake_outside.set()
            else:
                self._lost([item.envelope])

    def close(self) -> None:
        """Nobody works here any more: what is left is lost, and said to be."""
        self._open = False
        for _ in range(len(self._inside)):
            self._inside.popleft()
            self._drop()
        self._lost([self._outside.popleft() for _ in range(len(self._outside))])

    def _drop(self) -> None:
        """Counted each time, said at the first: a full queue means that there is no time for a line per event."""
        self._count("after_commit_dropped")
        self._dropped += 1
        if self._dropped == 1:
            why = f"full ({self._bound} wait)" if self._open else "closed: the service is stopping"
            log.error("the after-commit queue is %s; events are dropped, counted as after_commit_dropped", why)

    @property
    def unfinished(self) -> int:
        return len(self._inside) + len(self._outside) + self._busy

    async def run(self) -> None:
        """Work both queues until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work_inside())
            tasks.create_task(self._work_outside())

    async def _work_inside(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._inside:
                self._busy += 1
                try:
                    await self._run_listeners(self._inside.popleft())
                finally:
                    self._busy -= 1
            if self._dropped:
                log.warning("the after-commit queue has room again; %d events were dropped", self._dropped)
                self._dropped = 0

    async def _work_outside(self) -> None:
        while True:
            await self._wake_outside.wait()
            self._wake_outside.clear()
            while self._outside:
                batch = [self._outside.popleft() for _ in range(min(_BATCH, len(self._outside)))]
                self._busy += len(batch)
                try:
                    await self._send(batch)
                finally:
                    self._busy -= len(batch)

    async def _send(self, batch: list[Envelope]) -> None:
        if self._transport is None:  # refused at publish; here only if a service was put together by hand
            self._lost(batch)
            return
        start = 0
        while start < len(batch):
            lane = lane_of(batch[start])
            end = start + 1
            while end < len(batch) and lane_of(batch[end]) == lane:
                end += 1
            try:
                await self._transport.publish(lane, batch[start:end])
            except TransportUnavailableError:
                self._lost(batch[start:end])
            except PublishError as error:
                if end - start > 1:  # none was sent: one by one, since one event's trouble is not that of the others
                    for one in batch[start:end]:
                        await self._send([one])
                else:
                    log.error("%s", error)
                    self._lost(batch[start:end])
            except Exception as error:  # an adapter's bug must not end the queue
                log.error("the transport failed: %s", error, exc_info=error)
                self._lost(batch[start:end])
            else:
                for _ in range(end - start):
                    self._count("sent")
            start = end
