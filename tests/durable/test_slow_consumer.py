"""H50: who is slower than those who publish holds a bounded part of the backlog; the rest stays with the broker."""

import psutil
from testsupport.durable.harness import World
from testsupport.waiting import eventually

_COUNT = 3000
_HELD_AT_MOST = 1600
"""One read (512 entries), one more of the busy lanes, the queue between reading and handling (512), what is in hand."""


def test_h50_a_slow_consumer_keeps_its_memory_bounded_and_the_backlog_on_the_broker(
    world: World,
) -> None:
    consumer = world.consumer()
    eventually(lambda: "ready" in consumer.said(), what="it is ready")
    before = psutil.Process(consumer.pid).memory_info().rss

    # Forty-five megabytes; eight at once, four of those a second each: a tenth of what the producer does, or less.
    world.producer([(None, "sleep:0.25")] * _COUNT, filler=15_000, per_transaction=50, together=2)
    world.written(_COUNT, within_s=60)
    eventually(lambda: not world.unsent(), within_s=60, what="all is in the broker")
    applied = world.applied()
    world.reached(applied + 50)

    pending, undelivered = world.in_groups()
    assert undelivered > 0, "there is a backlog"
    assert 0 < pending <= _HELD_AT_MOST
    assert psutil.Process(consumer.pid).memory_info().rss - before < 50_000_000
