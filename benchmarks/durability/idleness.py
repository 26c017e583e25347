"""Goal 13: what a service costs that has nothing to do."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from cauce import Transaction, on

from durability.events import KeyedRenamed
from durability.place import Place
from durability.with_cauce import consumer, producer

__all__ = ["Idle", "idle"]


@dataclass(frozen=True, slots=True)
class Idle:
    cpu_percent: float
    commits: float
    commands: float


async def idle(producing: Place, consuming: Place, seconds: float) -> Idle:
    """What a service costs that has nothing to do: the average of one that publishes and one that hears."""

    @on(KeyedRenamed, name="effect")
    async def effect(event: KeyedRenamed, tx: Transaction) -> None:
        return

    broker: Any = redis.asyncio.Redis.from_url(producing.broker)
    connection = await producing.connect()

    async def commits() -> int:
        return int(
            await connection.fetchval(
                "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname = ANY($1)",
                [place.database.rpartition("/")[2] for place in (producing, consuming)],
            )
        )

    async with consumer(consuming, effect), producer(producing):
        await asyncio.sleep(3)  # the loops have slowed down by then
        before = await commits(), (await broker.info("stats"))["total_commands_processed"], time.process_time()
        await asyncio.sleep(seconds)
        spent = time.process_time() - before[2]
        commands = (await broker.info("stats"))["total_commands_processed"] - before[1] - 1
        transactions = await commits() - before[0] - 1
    await broker.aclose()
    await connection.close()
    return Idle(spent / seconds / 2 * 100, transactions / seconds / 2, commands / seconds / 2)
