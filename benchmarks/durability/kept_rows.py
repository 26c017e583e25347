"""Goal 13: an outbox and an inbox full of rows that are kept."""

from typing import Any

import redis.asyncio
from cauce.ports.lanes import LANES
from cauce.transports.redis_streams import RedisStreams

from durability.events import CONSUMER, PRODUCER
from durability.place import Place

__all__ = ["fill"]


async def fill(place: Place, rows: int) -> None:
    """So many kept rows in outbox and inbox, as a busy day leaves them."""
    connection = await place.connect()
    await connection.execute(
        "INSERT INTO cauce_sent (sent_seq, part, position, event_id, topic, key_hash, lane, key, key_seq, correlation_hash, "
        "name, message, created_at, sent_at, broker_id) SELECT nextval('cauce_sent_order'), 0, n, 'kept-' || n, $2, n, "
        "n % 16, 'kept-' || n % 1000, n, n, 'com.example.bench.kept', "
        "convert_to(repeat('x', 300), 'UTF8'), extract(epoch FROM now()), extract(epoch FROM now()), '1-' || n "
        "FROM generate_series(1, $1) n",
        rows, PRODUCER,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO cauce_inbox (consumer, source, event_id, received_at) "
        "SELECT $2 || '/effect', $3, 'kept-' || n, extract(epoch FROM now()) FROM generate_series(1, $1::int) n",
        rows, CONSUMER, PRODUCER,
    )  # fmt: skip
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    # The broker need not have them any more: they were trimmed on purpose.
    broker: Any = redis.asyncio.Redis.from_url(place.broker)
    trimmed = {str(lane): "2-0" for lane in range(LANES)}
    await broker.hset(RedisStreams(place.broker).keys.trimmed(PRODUCER), mapping=trimmed)
    await broker.aclose()
