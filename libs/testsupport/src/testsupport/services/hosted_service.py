"""A small service as a process, for the tests of hosting. `python hosted_service.py SCENARIO HTTP_PORT HEALTH_PORT`."""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

from cauce import ConfigurationError, DomainEvent, IntegrationEvent, Retry, Service, on
from cauce.fastapi import Tx
from cauce.hosting import run
from cauce.listeners import threads
from cauce.ports.transport import Deliver, Status, Subscription
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory import MemoryTransport
from fastapi import FastAPI


class Noted(DomainEvent, name="hosted.noted"):
    word: str


class Told(IntegrationEvent, name="hosted.told", version=1, source="hosted-ms"):
    word: str


@on(Noted, when="after_commit")
async def take_your_time(event: Noted) -> None:
    print("listener begins", flush=True)
    await asyncio.sleep(0.3)
    print("listener ends", flush=True)


class Endless(DomainEvent, name="hosted.endless"):
    how: str


@on(Endless, when="after_commit")
async def never_end(event: Endless) -> None:
    print(event.how, flush=True)
    if event.how == "block":
        time.sleep(60)  # noqa: ASYNC251  # the whole event loop
    while event.how == "swallow":
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@on(Endless, when="after_commit", blocking=True)
def never_return(event: Endless) -> None:
    if event.how == "thread":
        time.sleep(60)


class Jammed(DomainEvent, name="hosted.jammed", version=1):
    no: int


@on(Jammed, when="durable", blocking=True, limit_s=0.1, retry=Retry(attempts=1))
def jam(event: Jammed) -> None:
    time.sleep(60)


@on(Told)
async def hear(event: Told) -> None: ...


class CrashingTransport(MemoryTransport):
    async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
        status.up()
        while not crash.is_set():  # noqa: ASYNC110  # set from a thread too
            await asyncio.sleep(0.01)
        raise RuntimeError("the transport has a bug")


class ClingingTransport(MemoryTransport):
    async def close(self) -> None:
        await asyncio.sleep(60)


class MisconfiguredTransport(MemoryTransport):
    async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
        raise ConfigurationError(["no broker is called 'rediss': use redis"])


crash = threading.Event()
scenario, http_port, health_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
transports = {"clinging": ClingingTransport, "crash": CrashingTransport, "misconfigured": MisconfiguredTransport}
service = Service(
    "hosted-ms",
    modules=[jam] if scenario == "jammed" else [take_your_time, never_end, never_return, hear],
    transport=None if scenario == "jammed" else transports.get(scenario.removesuffix("-alone"), MemoryTransport)(),
    publishes=[] if scenario == "jammed" else [Told],
    store=MemoryStore() if scenario == "jammed" else SqlAlchemyStore(create_engine("sqlite+aiosqlite://")),
)


@asynccontextmanager
async def failing(app: FastAPI) -> AsyncGenerator[None]:
    raise RuntimeError("its own lifespan fails")
    yield


lifespans: dict[str, Any] = {"no-lifespan": None, "failing-lifespan": failing}
app = FastAPI(lifespan=lifespans.get(scenario, service.lifespan))


@app.post("/slow", status_code=201)
async def slow(tx: Tx) -> dict[str, int]:
    print("request begins", flush=True)
    await tx.publish(Noted(word="a"))
    await asyncio.sleep(float(os.environ.get("REQUEST_TAKES_S", "0.3")))
    print("request ends", flush=True)
    return {"pid": os.getpid()}


@app.post("/endless/{how}", status_code=202)
async def endless(tx: Tx, how: str) -> None:
    await tx.publish(Endless(how=how))


@app.post("/jam", status_code=202)
async def jam_threads(tx: Tx) -> None:
    for no in range(threads.SIZE // 2):
        await tx.publish(Jammed(no=no))


@app.post("/crash")
async def crash_now() -> None:
    crash.set()


if scenario == "crash-alone":
    threading.Timer(0.3, crash.set).start()
if os.environ.get("LOG") != "default":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
alone = scenario.endswith("alone")
sys.exit(
    run(
        service,
        app=None if alone else app,
        port=None if alone else http_port,
        health_port=health_port,
        grace_s=float(os.environ.get("GRACE_S", "10")),
    )
)
