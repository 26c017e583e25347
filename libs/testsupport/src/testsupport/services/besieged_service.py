"""A service whose HTTP door is besieged: `python besieged_service.py FOLDER HTTP_PORT HEALTH_PORT`.

It publishes a durable event all the time, so that a test sees whether its lanes go on. `OPEN_FILES=SOFT:HARD` is what the
system gives it, `LIMITS` are the arguments of HttpLimits as JSON.
"""

import asyncio
import json
import logging
import os
import resource
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from cauce import DomainEvent, Service, on
from cauce.hosting import run
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse


class Beat(DomainEvent, name="besieged.beat", version=1):
    no: int


@on(Beat, when="durable")
async def hear(event: Beat) -> None: ...


folder, http_port, health_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
service = Service(
    "besieged-ms", modules=[hear], store=SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{folder}/besieged.sqlite"))
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    async with service.lifespan(app) as state, asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(beat())
        yield state
        beating.cancel()


async def beat() -> None:
    no = 0
    while True:
        async with service.transaction() as tx:
            await tx.publish(Beat(no=no))
        no += 1
        await asyncio.sleep(0.05)


app = FastAPI(lifespan=lifespan)
used_up: list[int] = []


@app.get("/hello")
async def hello() -> dict[str, Any]:
    return {"hello": "you", "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}


@app.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


@app.post("/largest-part")
async def largest_part(request: Request) -> int:
    return max([len(part) async for part in request.stream()])


@app.get("/until-hung-up")
async def until_hung_up(request: Request) -> None:
    while not await request.is_disconnected():  # noqa: ASYNC110  # as people write it
        await asyncio.sleep(0.01)


@app.get("/long")
async def long() -> None:
    await asyncio.sleep(60)


@app.get("/big")
async def big() -> StreamingResponse:
    async def parts() -> AsyncGenerator[bytes]:
        for _ in range(1024):
            yield b"x" * 65536

    return StreamingResponse(parts(), headers={"content-length": str(1024 * 65536)})


@app.post("/block")
async def block() -> None:
    """Hold up the whole event loop until the file `go on` is there."""
    (folder / "blocked").touch()
    while not (folder / "go on").exists():
        time.sleep(0.01)  # noqa: ASYNC251


@app.post("/use-up")
async def use_up() -> None:
    with suppress(OSError):
        while True:
            used_up.append(os.dup(0))


@app.post("/give-back")
async def give_back() -> None:
    while used_up:
        os.close(used_up.pop())


def options() -> dict[str, Any]:
    found: dict[str, Any] = {}
    if limits := os.environ.get("LIMITS"):
        from cauce.hosting import HttpLimits

        found["limits"] = HttpLimits(**json.loads(limits))
    if blocked_after_s := os.environ.get("BLOCKED_AFTER_S"):
        found["blocked_after_s"] = float(blocked_after_s)
    return found


if open_files := os.environ.get("OPEN_FILES"):
    soft, hard = open_files.split(":")
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
sys.exit(
    run(
        service,
        app=app,
        port=http_port,
        health_port=health_port,
        grace_s=float(os.environ.get("GRACE_S", "10")),
        **options(),
    )
)
