"""A producer, a consumer, or both in one without a broker, as a real process. PROGRAM holds its settings as JSON; see Settings."""

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgspec
from cauce import Keep, Pace, Retry, Service, Transaction
from cauce.errors import CommitUnknownError
from cauce.fastapi import Tx
from cauce.hosting import run
from cauce.stores.sqlalchemy import create_engine
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from testsupport.durable.faults import FaultyStore, FaultyStreams, reached, watch
from testsupport.durable.history import happened
from testsupport.durable.planted import plant
from testsupport.durable.shop import (
    LEDGER,
    SHOP,
    Counted,
    Noted,
    durable_listener,
    keep_in_mind,
    listener,
    make_tables,
    write_business_row,
)
from testsupport.durable.swarm_listener import swarm_listener

__all__ = ["Settings", "main", "prepare"]


class Settings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything a process is told. Times in seconds."""

    role: Literal["producer", "consumer", "alone"]
    """`alone`: writes the plan as domain events, which its own listeners hear durably."""
    database: str
    redis: str
    service: str = ""
    prefix: str = "cauce"
    pace: tuple[float, float, float, float] = (2.0, 0.5, 60.0, 30.0)
    keep: dict[str, float] = {}
    # Of who writes
    plan: list[tuple[str | None, str]] = []
    """Key and `does` of every event; event number n is plan[n - 1]. What is committed already is not written again."""
    together: int = 1
    """How many transactions are open at once."""
    per_transaction: int = 1
    hold_s: float = 0.0
    """Up to how long a transaction stays open after publishing."""
    rolled_back: float = 0.0
    """The share of transactions that are rolled back once before they are done in earnest."""
    abandoned: float = 0.0
    """The share of transactions in which the same events are first published in a savepoint that is rolled back."""
    every_s: float = 0.0
    filler: int = 0
    port: int = 0
    """With a port: an HTTP door, POST /{no}; nothing is written without being asked."""
    # Of who listens
    listeners: tuple[str, ...] = (LEDGER,)
    swarm: str = ""
    """A kind of swarm.KINDS: a listener of that kind hears too, and misbehaves as the events say."""
    start: Literal["retained", "now"] = "retained"
    retry: tuple[int, float, float] = (8, 0.05, 0.2)
    limit_s: float = 30.0
    grace_s: float = 10.0
    health_port: int = 0


def main() -> int:
    settings = msgspec.json.decode(os.environ["PROGRAM"], type=Settings)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(levelname)s %(message)s", stream=sys.stderr)
    if wanted := os.environ.get("PLANTED"):
        plant(wanted)
    engine = create_engine(settings.database)
    watch(engine)
    service = _service(settings, engine)
    if settings.role == "consumer":
        asyncio.run(prepare(engine))
        return run(service, health_port=settings.health_port or None, grace_s=settings.grace_s)
    if settings.port:
        asyncio.run(prepare(engine))
        return run(service, app=_door(service, settings), port=settings.port, grace_s=settings.grace_s)
    return asyncio.run(_produce(settings, engine, service))


def _service(settings: Settings, engine: AsyncEngine) -> Service:
    lease_s, beat_s, verify_s, prune_s = settings.pace
    attempts, base, cap = settings.retry
    role = settings.role
    retry = Retry(attempts=attempts, base=base, cap=cap)
    hear = {"producer": None, "consumer": listener, "alone": durable_listener}[role]
    heard = [hear(name, retry, limit_s=settings.limit_s) for name in settings.listeners] if hear else []
    if settings.swarm:
        heard.append(swarm_listener(settings.swarm, attempts=attempts, base=base, cap=cap, limit_s=settings.limit_s))
    return Service(
        settings.service or (LEDGER if role == "consumer" else SHOP),
        modules=[*heard, keep_in_mind] if role == "alone" else heard,
        publishes=[Counted] if role == "producer" else [],
        store=FaultyStore(engine),
        transport=None if role == "alone" else FaultyStreams(settings.redis, prefix=settings.prefix),
        start=settings.start if role == "consumer" else None,
        keep=_keep(settings.keep),
        pace=Pace(lease_s=lease_s, beat_every_s=beat_s, verify_every_s=verify_s, prune_every_s=prune_s),
        drain_limit_s=settings.grace_s * 0.7,
    )


async def prepare(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        for statement in make_tables(engine.dialect.name):
            await connection.execute(text(statement))
    await engine.dispose()


async def _write(service: Service, numbers: Sequence[int], settings: Settings, *, give_up: bool) -> None:
    async with service.transaction() as tx:
        if random.random() < settings.abandoned:
            with suppress(_GaveUpError):
                async with tx.savepoint():
                    await _publish(tx, numbers, settings)
                    happened("abandoned", numbers=list(numbers))
                    raise _GaveUpError
        await _publish(tx, numbers, settings)
        await asyncio.sleep(random.uniform(0, settings.hold_s))
        if give_up:
            happened("rolled back", numbers=list(numbers))
            raise _GaveUpError


async def _publish(tx: Transaction, numbers: Sequence[int], settings: Settings) -> None:
    for no in numbers:
        key, does = settings.plan[no - 1] if no <= len(settings.plan) else (None, "")
        fields: dict[str, Any] = {"no": no, "key": key, "does": does, "filler": "x" * settings.filler}
        if settings.role == "alone":
            await tx.publish(Noted(**fields))  # its listener in the transaction writes the business row
        else:
            event = Counted(**fields)
            await write_business_row(tx.session, event, await tx.publish(event))


class _GaveUpError(Exception):
    pass


async def _produce(settings: Settings, engine: AsyncEngine, service: Service) -> int:
    await prepare(engine)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with service, asyncio.TaskGroup() as tasks:
        async with service.transaction(read_only=True) as tx:
            done = set((await tx.session.execute(text("SELECT no FROM biz"))).scalars())
        todo = [no for no in range(1, len(settings.plan) + 1) if no not in done]
        batches = [todo[at : at + settings.per_transaction] for at in range(0, len(todo), settings.per_transaction)]
        queue = iter(batches)
        writers = [tasks.create_task(_writer(service, queue, settings)) for _ in range(settings.together)]

        async def report() -> None:
            await asyncio.gather(*writers)
            happened("written", count=len(todo))

        reporting = tasks.create_task(report())
        await stop.wait()
        for one in (*writers, reporting):
            one.cancel()
    return 0


async def _writer(service: Service, batches: Any, settings: Settings) -> None:
    for batch in batches:
        if random.random() < settings.rolled_back:
            with suppress(_GaveUpError):
                await _write(service, batch, settings, give_up=True)
        try:
            await _write(service, batch, settings, give_up=False)
        except CommitUnknownError:
            return  # the next run looks what is there
        if settings.every_s:
            await asyncio.sleep(settings.every_s)


def _door(service: Service, settings: Settings) -> Any:
    app = FastAPI(lifespan=service.lifespan)

    @app.post("/{no}", status_code=201)
    async def count(no: int, tx: Tx) -> None:
        await _publish(tx, [no], settings)

    @app.get("/")
    async def there() -> str:
        return "here"

    async def struck(scope: Any, receive: Any, send: Callable[..., Any]) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start" and scope["method"] == "POST":
                reached("before_reply")
            await send(message)

        await app(scope, receive, sent if scope["type"] == "http" else send)

    return struck


def _keep(wanted: Mapping[str, float]) -> Keep:
    values: dict[str, Any] = {name: value if name.endswith("_s") else int(value) for name, value in wanted.items()}
    return Keep(**values)


if __name__ == "__main__":
    sys.exit(main())
