"""From the commit of a change to the commit of its effect, step by step: where the time goes.

    python benchmarks/where_the_time_goes.py [--events 300] [--every 0.05]

Two services in one process and one event at a time, so that each step is the one of that event. The steps end when: the
relay, woken, asks the database · its answer is there · the broker has confirmed · the consumer has it · the inbox has
answered, in the transaction of the effect · that is committed. Beside it, by hand, the whole.
"""

import argparse
import asyncio
import logging
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from cauce.delivery.inbox.consumer import DurableConsumer
from cauce.dev.servers import PostgresServer, ValkeyServer
from cauce.stores.sql.inbox import SqlInbox
from cauce.stores.sql.outbox import SqlOutbox
from cauce.transports.redis_streams import RedisStreams
from durability.paced_by_hand import PacedByHand
from durability.paced_services import PacedServices
from durability.place import Place

STEPS = ("wake", "read", "send", "receive", "begin", "commit")


class Clock:
    """When the steps of the event under way have ended. The first time counts: later ones are looks that found nothing."""

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}

    def end(self, step: str, *after: str) -> None:
        if step not in self.ended and all(one in self.ended for one in after):
            self.ended[step] = time.perf_counter()

    @contextmanager
    def running(self) -> Generator[None]:
        with ExitStack() as patches:
            for owner, name, before, after in (
                (SqlOutbox, "pending", "wake", "read"),
                (RedisStreams, "append", None, "send"),
                (DurableConsumer, "deliver", "receive", None),
                (SqlInbox, "arrive", None, "begin"),
            ):
                patches.enter_context(patch.object(owner, name, self._stamped(getattr(owner, name), before, after)))
            yield

    def _stamped(self, plain: Callable[..., Any], before: str | None, after: str | None) -> Callable[..., Any]:
        async def stamped(*args: Any, **values: Any) -> Any:
            if before is not None:
                self.end(before)
            answer = await plain(*args, **values)
            if after == "read" and not answer:
                self.ended.pop("wake", None)
            elif after is not None:
                self.end(after)
            return answer

        return stamped


async def measure(postgres: PostgresServer, valkey: ValkeyServer, events: int, every_s: float) -> None:
    async def place(name: str) -> Place:
        made = Place(postgres.create_database(name, role="bench"), valkey.url)
        await made.prepare()
        return made

    calling, hearing = await place("calling"), await place("hearing")
    services, by_hand, clock = PacedServices(calling, hearing), PacedByHand(calling, hearing), Clock()
    steps: dict[str, list[float]] = defaultdict(list)
    whole: list[float] = []
    with clock.running():
        async with services.running(), by_hand.running():
            for _ in range(events):
                clock.ended = {}
                (one,), _ = await services.at_pace(1, 0, keys=1000)
                committed, applied = await services.times_of(one)
                at = committed
                for step in STEPS[:-1]:
                    ended = clock.ended.get(step, at)
                    steps[step].append(max(0.0, ended - at))
                    at = max(at, ended)
                steps["commit"].append(applied - at)
                whole.append(applied - committed)
                await asyncio.sleep(every_s)
            hand = [await by_hand.typical_ms(max(20, events // 5), every_s) for _ in range(3)]
    print("| step | ms, median |\n|---|---:|")
    for step in STEPS:
        print(f"| {step} | {median(steps[step]) * 1000:.2f} |")
    print(f"| **the whole** | **{median(whole) * 1000:.2f}** |")
    print(f"| by hand | {median(hand):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--every", type=float, default=0.05)
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="cauce-durable-") as name:
        os.chmod(name, 0o711)  # PostgreSQL's account has to enter it
        postgres, valkey = PostgresServer(Path(name) / "postgres"), ValkeyServer(Path(name) / "valkey")
        postgres.start()
        valkey.start()
        try:
            asyncio.run(measure(postgres, valkey, arguments.events, arguments.every))
        finally:
            postgres.kill()
            valkey.kill()


if __name__ == "__main__":
    main()
