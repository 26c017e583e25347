"""The four ways in which FastStream 0.7.8 left an event unhandled on this server (November 2026); here each is handled.

There: a listener that raised was called once, and its message stayed pending; asked not to acknowledge what failed, it
was still called once; after a restart with the same group the pending message was not delivered; after the stream had
been deleted the subscriber had stopped.
"""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO

from cauce import Context, IntegrationEvent, Service, on
from cauce.delivery.pace import Pace
from cauce.hosting import run
from cauce.listeners.retry import Retry
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing.transport_contract import until
from cauce.transports.redis_streams import RedisStreams
from testsupport.redis_under_test import RedisUnderTest

SHOP, STOCK = "shop-ms", "stock-ms"
QUICK = Pace(lease_s=1.5, beat_every_s=0.4)


class Ordered(IntegrationEvent, name="shop.ordered", version=1, key="id", source=SHOP):
    id: str


class Steady(Retry):
    """Without the jitter, so that a delay is a number."""

    def delay_s(self, attempt: int, error: BaseException, *, random: Callable[[], float] = lambda: 1.0) -> float | None:
        return super().delay_s(attempt, error, random=lambda: 1.0)


class Packing:
    """A listener that fails as often as it is told; and when it was called, by order."""

    def __init__(self, retry: Retry, *, failures: float = 0) -> None:
        self.called: dict[str, list[float]] = {}
        self.packed: list[str] = []
        self._failures = failures

        @on(Ordered, name="pack", retry=retry)
        async def pack(event: Ordered, context: Context) -> None:
            self.called.setdefault(event.id, []).append(time.monotonic())
            if context.attempt <= self._failures:
                raise RuntimeError("no hands are free")
            self.packed.append(event.id)

        self.listener = pack


def stock_service(broker_url: str, folder: Path, *listeners: object) -> Service:
    return Service(
        STOCK,
        modules=listeners,
        store=SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{folder}/stock.sqlite")),
        transport=RedisStreams(broker_url),
        start="retained",
        pace=QUICK,
    )


@asynccontextmanager
async def a_shop(broker: RedisUnderTest, folder: Path) -> AsyncGenerator[Service]:
    store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{folder}/shop.sqlite"))
    transport = RedisStreams(broker.server.url)
    async with Service(SHOP, store=store, transport=transport, publishes=[Ordered], pace=QUICK) as shop:
        yield shop


async def order(shop: Service, order_id: str) -> None:
    async with shop.transaction() as tx:
        await tx.publish(Ordered(id=order_id))


async def nothing_is_pending(broker: RedisUnderTest) -> None:
    async with asyncio.timeout(20):
        while await broker.pending(SHOP, STOCK):  # noqa: ASYNC110  # the broker's
            await asyncio.sleep(0.02)


async def test_a_listener_that_raises_is_called_again_and_its_message_does_not_stay_pending(
    broker: RedisUnderTest, tmp_path: Path
) -> None:
    packing = Packing(Retry(attempts=3, base=0.05, cap=0.1), failures=float("inf"))
    async with a_shop(broker, tmp_path) as shop, stock_service(broker.server.url, tmp_path, packing.listener) as stock:
        await order(shop, "1")

        await until(lambda: stock.counters["dead"] == 1, "the dead letter", 20)
        await nothing_is_pending(broker)

    assert len(packing.called["1"]) == 3


async def test_it_is_tried_again_with_growing_delay_until_it_works_and_then_acknowledged(
    broker: RedisUnderTest, tmp_path: Path
) -> None:
    packing = Packing(Steady(attempts=8, base=0.1, cap=60), failures=4)
    async with a_shop(broker, tmp_path) as shop, stock_service(broker.server.url, tmp_path, packing.listener) as stock:
        await order(shop, "1")

        await until(lambda: stock.counters["handled"] == 1, "the one that works", 20)
        await nothing_is_pending(broker)

    waited = [later - earlier for earlier, later in pairwise(packing.called["1"])]
    assert packing.packed == ["1"]
    assert len(waited) == 4
    for seconds, at_least in zip(waited, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert seconds >= at_least


async def test_entries_pending_at_a_kill_are_delivered_to_the_next_process_of_the_group(
    broker: RedisUnderTest, tmp_path: Path
) -> None:
    packing = Packing(Retry())
    async with a_shop(broker, tmp_path) as shop:
        with _hearing_without_end(broker.server.url, tmp_path) as (process, said):
            await order(shop, "1")
            assert await asyncio.to_thread(said.readline) == "called for 1\n"
            process.kill()
            assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
        assert await broker.pending(SHOP, STOCK) == 1

        async with stock_service(broker.server.url, tmp_path, packing.listener) as stock:
            await until(lambda: stock.counters["handled"] == 1, "what the killed one had", 20)
            await nothing_is_pending(broker)

    assert packing.packed == ["1"]


async def test_after_the_stream_was_deleted_new_events_are_consumed_without_a_restart(
    broker: RedisUnderTest, tmp_path: Path
) -> None:
    packing = Packing(Retry())
    async with a_shop(broker, tmp_path) as shop, stock_service(broker.server.url, tmp_path, packing.listener) as stock:
        await order(shop, "1")
        await until(lambda: stock.counters["handled"] == 1, "the first", 20)
        streams = [key async for key in broker.admin.scan_iter(match="*}:*", _type="stream")]
        assert await broker.admin.delete(*streams) == len(streams) > 0

        await order(shop, "2")
        await until(lambda: stock.counters["handled"] == 2, "the one after the deletion", 20)
        await nothing_is_pending(broker)

    assert packing.packed == ["1", "2"]


# --- the process that is killed -----------------------------------------------------------------------------------


@contextmanager
def _hearing_without_end(broker_url: str, folder: Path) -> Generator[tuple[subprocess.Popen[str], IO[str]]]:
    """stock-ms as a process of its own, and what it says: whom its listener was called for. The listener never ends."""
    with subprocess.Popen(
        [sys.executable, __file__, broker_url, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def main(broker_url: str, folder: str) -> int:
    @on(Ordered, name="pack", limit_s=600)
    async def pack(event: Ordered) -> None:
        print(f"called for {event.id}", flush=True)
        await asyncio.Event().wait()

    return run(stock_service(broker_url, Path(folder), pack))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
