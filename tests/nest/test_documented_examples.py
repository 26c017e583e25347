"""The TypeScript of "Join a NestJS service" is compiled and run by real NestJS, with services of ours opposite."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cauce import IntegrationEvent, Service, on
from cauce.dev.servers import ValkeyServer
from cauce.transports.redis_pubsub import RedisPubSub
from testsupport.documents import blocks
from testsupport.nest_peers import NEST_FOLDER, NODE, NPM, NestPeer, nest_home
from testsupport.repository import ROOT
from testsupport.waiting import until

PAGE = ROOT / "docs" / "how-to" / "join-a-nestjs-service.md"
LIMIT_S = 120


class OrderPaid(IntegrationEvent, name="shop.order-paid", version=1, key="order_id", source="shop", rename="camel"):
    order_id: str
    total_cents: int


class OrderShipped(IntegrationEvent, name="shop.order-shipped", version=1, source="shipping", rename="camel"):
    order_id: str


@pytest.fixture(scope="session")
def typescript() -> Path:
    """The folder with the compiler; `npm ci` on first use."""
    manifest = NEST_FOLDER / "typescript"
    digest = hashlib.sha256((manifest / "package-lock.json").read_bytes()).hexdigest()[:12]
    home = Path(sys.prefix) / "nest-peers" / f"typescript-{digest}"
    if not home.is_dir():
        scratch = home.with_name(f"{home.name}.{os.getpid()}")
        shutil.copytree(manifest, scratch)
        command = [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=LIMIT_S)
        scratch.rename(home)
    return home


def example(name: str) -> str:
    return next(block.text for block in blocks(PAGE) if block.value("nest") == name)


class Nest:
    """A NestJS process that runs the page's examples."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.log: list[str] = []

    async def do(self, command: str, **argument: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **argument}).encode() + b"\n")
        assert await self.says('{"done"') == f'{{"done":"{command}"}}'

    async def says(self, text: str) -> str:
        """The next line with this text; whatever comes before is its log."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT_S / 4):
            while line := (await self._process.stdout.readline()).decode().rstrip("\n"):
                self.log.append(line)
                assert '{"failed"' not in line, line
                if text in line:
                    return line
        raise AssertionError(f"it ended without saying {text!r}: {self.log}")


@asynccontextmanager
async def nestjs(home: Path, typescript: Path, valkey: ValkeyServer) -> AsyncGenerator[Nest]:
    process = await asyncio.create_subprocess_exec(
        NODE,
        NEST_FOLDER / "documents.cjs",
        env=os.environ
        | {
            "NEST_HOME": str(home),
            "TYPESCRIPT_HOME": str(typescript),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(valkey.port),
            "REDIS_PASS": valkey.password,
            "NO_COLOR": "1",
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Nest(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


@pytest.fixture(name="nest_home")
def home_of_this_version(nest_process: NestPeer) -> Path:
    """Where this version of NestJS was installed for its own tests."""
    return nest_home(nest_process.version)


async def test_what_the_pages_bus_emits_is_heard(nest_home: Path, typescript: Path, valkey: ValkeyServer) -> None:
    heard: list[OrderPaid] = []

    @on(OrderPaid)
    async def thank(event: OrderPaid) -> None:
        heard.append(event)

    async with (
        Service("mailing", modules=[thank], transport=RedisPubSub(valkey.url)),
        nestjs(nest_home, typescript, valkey) as nest,
    ):
        payload = {"orderId": "o-7", "totalCents": 990}
        event = {"service": "shop", "name": "shop.order-paid", "payload": payload, "id": "e-1"}
        await nest.do("publish", bus=example("emits"), options=example("options"), event=event)
        await until(lambda: bool(heard), "the event")

    assert heard == [OrderPaid(order_id="o-7", total_cents=990)]


async def test_the_pages_controller_hears_what_we_publish(
    nest_home: Path, typescript: Path, valkey: ValkeyServer
) -> None:
    async with (
        Service("shipping", transport=RedisPubSub(valkey.url), publishes=[OrderShipped]) as service,
        nestjs(nest_home, typescript, valkey) as nest,
    ):
        await nest.do("listen", controller=example("listens"), options=example("options"))
        await subscribed(valkey, "shop.order-shipped")
        async with service.transaction() as tx:
            await tx.publish(OrderShipped(order_id="o-7"))
        line = await nest.says("o-7")

    assert "[shop.order-shipped] shop.order-shipped from shipping: o-7" in line


async def subscribed(valkey: ValkeyServer, channel: str) -> None:
    """NestJS says that it listens before the server has acknowledged it."""
    from redis.asyncio import Redis

    async with Redis.from_url(valkey.url, protocol=2) as client:

        async def is_so() -> bool:
            return all(count for _, count in await client.pubsub_numsub(channel))

        await until(is_so, f"NestJS subscribes {channel}")
