"""Verify, before anything new is sent, that the broker still holds what it confirmed; mark what it lost as unsent."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product

from cauce.ports.lanes import Epoch, Lane
from cauce.ports.outbox import OutboxTable
from cauce.ports.transport import BrokerId, DurableTransport

__all__ = ["Stream", "TailCheck"]

log = logging.getLogger("cauce.relay")

_TAIL = 100
_COMPARED_EVERY_S = 20.0
"""At least so often is the end of every stream looked at, however else the broker is known to answer."""

Stream = tuple[str, Lane]
"""One lane of one topic."""


class TailCheck:
    """Knows which streams the broker holds to their end, and marks as unsent what it lost."""

    def __init__(
        self,
        topics: Collection[str],
        *,
        outbox: OutboxTable,
        transport: DurableTransport,
        count: Callable[[str, int], None],
        verify_every_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`topics`: the service's own, then those of others whose events it adopts."""
        self._topics = tuple(topics)
        self._outbox = outbox
        self._transport = transport
        self._count = count
        self._verify_every_s = verify_every_s
        self._now = monotonic
        self._verified: dict[Stream, tuple[Epoch, float]] = {}
        self._server: str | None = None
        self._resent: Counter[str] = Counter()

    @property
    def topics(self) -> Collection[str]:
        """The topics that this service sends to."""
        return self._topics

    def is_verified(self, stream: Stream) -> bool:
        return stream in self._verified

    def lanes(self) -> Collection[Lane]:
        """Lanes with a verified stream."""
        return {lane for _, lane in self._verified}

    def doubt(self, stream: Stream) -> None:
        """Have this stream verified before anything is sent to it."""
        self._verified.pop(stream, None)

    def doubt_all(self) -> None:
        self._verified.clear()

    def unverified(self, lanes: Mapping[Lane, Epoch], *, resting: Collection[Stream]) -> Sequence[tuple[Stream, Epoch]]:
        """Streams of these lanes to verify now, those that rest excepted."""
        found: list[tuple[Stream, Epoch]] = []
        for (lane, epoch), topic in product(lanes.items(), self._topics):
            known = self._verified.get((topic, lane))
            fresh = known is not None and known[0] == epoch and self._now() - known[1] < self._verify_every_s
            if not fresh and (topic, lane) not in resting:
                found.append(((topic, lane), epoch))
        return found

    async def verify(self, stream: Stream, epoch: Epoch) -> None:
        """Compare the newest rows that were sent with what the broker holds. Raises TransportUnavailableError."""
        topic, lane = stream
        newest = await self._outbox.newest_sent(topic, lane, limit=_TAIL)
        tail = await self._transport.tail(topic, lane, [broker_id for _, broker_id in newest])
        if tail.server != self._server:
            self._verified.clear()  # they were of a broker that may have lost everything since
            self._server = tail.server
        if tail.lost_from is not None:
            await self._resend(stream, newest, tail.lost_from)
        self._verified[stream] = (epoch, self._now())

    async def sign_of_life(self, lanes: Mapping[Lane, Epoch]) -> bool:
        """Ask whether the broker answers, is still the same, and holds the end of each stream: it may have been restarted
        unnoticed. False if it has to be verified: whatever cost one stream its end may have cost others as much."""
        ours = [stream for stream in self._verified if stream[1] in lanes]
        if not ours:
            await self._transport.now(self._topics[0])
            return True
        if await self._transport.doubtful(ours, kept_s=min(_COMPARED_EVERY_S, self._verify_every_s)):
            self.doubt_all()
            return False
        for stream in ours:
            self._verified[stream] = (self._verified[stream][0], self._now())
        return True

    def log_resent(self) -> None:
        """Log what was lost: one line for a topic, however many lanes it has."""
        for topic, again in self._resent.items():
            log.error("%s: the broker lost events it had confirmed; %d are sent again", topic, again)
        self._resent.clear()

    async def _resend(self, stream: Stream, newest: Sequence[tuple[int, BrokerId]], lost_from: BrokerId) -> None:
        """Resend from the oldest that is missing; if all we asked for are missing, everything that is kept."""
        topic, lane = stream
        first = next(number for number, broker_id in newest if broker_id == lost_from)
        again = await self._outbox.mark_unsent(topic, lane, from_seq=None if first == newest[0][0] else first)
        self._count("refed", again)
        self._resent[topic] += again
