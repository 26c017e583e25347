"""What the broker has confirmed is never asked for again, not even when it was restarted."""

from collections.abc import Sequence

from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId, Tail
from cauce.transports.redis_streams import RedisStreams


def plant() -> None:
    async def tail(self: RedisStreams, topic: str, lane: Lane, sent: Sequence[BrokerId]) -> Tail:
        return Tail(server="?", lost_from=None)

    RedisStreams.tail = tail
