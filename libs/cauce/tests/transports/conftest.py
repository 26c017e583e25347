"""Real servers for the tests of Redis Streams: Valkey, and Debian's Redis 7 (scripts/redis7.sh, called by `make test`)."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from cauce.dev.servers import ValkeyServer
from testsupport.redis_under_test import OtherServer, RedisUnderTest


@pytest.fixture(scope="session")
def session_redis7(servers_folder: Path, redis7_program: Path) -> Iterator[ValkeyServer]:
    server = OtherServer(servers_folder / "redis7", program=redis7_program)
    server.start()
    if not server.is_redis:
        server.kill()
        pytest.skip(f"NOT TESTED on Redis 7: {redis7_program} is something else")
    yield server
    server.kill()


@pytest.fixture(params=["valkey", "redis7"])
async def broker(request: pytest.FixtureRequest) -> AsyncGenerator[RedisUnderTest]:
    """An empty server of each kind."""
    server: ValkeyServer = request.getfixturevalue(f"session_{request.param}")
    server.resume()
    server.start()
    server.flush()
    under_test = RedisUnderTest(server)
    yield under_test
    await under_test.close()
    await asyncio.to_thread(server.start)


@pytest.fixture
async def own_broker(own_valkey: ValkeyServer) -> AsyncGenerator[RedisUnderTest]:
    """A Valkey of this test's own."""
    under_test = RedisUnderTest(own_valkey)
    yield under_test
    await under_test.close()
