"""The contract of durable transports: on the broker in memory, on Valkey, on Redis 7."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId
from cauce.settings.broker_rights import BrokerRights
from cauce.testing.transport_contract import TOPIC, DatabaseRegistrationContract, DurableTransportContract
from cauce.transports.memory_streams import MemoryStreams
from cauce.transports.redis_streams import RedisStreams
from testsupport.redis_under_test import OtherServer, RedisUnderTest, refusals

TOPICS = (TOPIC, "music-ms", "another-topic", "a", "b", "c")
USERS = {"publisher": BrokerRights(writes=TOPICS), "hearer": BrokerRights(hears=TOPICS)}


class AsUsers(RedisStreams):
    """Publishes as one user and hears as another, each with the rights of a service that does no more than that."""

    def __init__(self, server: OtherServer, *, answer_limit_s: float) -> None:
        super().__init__(server.url_of("publisher"), answer_limit_s=answer_limit_s)
        self._hearer = RedisStreams(server.url_of("hearer"), answer_limit_s=answer_limit_s)
        self._operator = RedisStreams(server.url, answer_limit_s=answer_limit_s)

    async def consume(self, *arguments: Any, **keywords: Any) -> None:
        await self._hearer.consume(*arguments, **keywords)

    async def forget(self, topic: str, group: str) -> bool:
        return await self._operator.forget(topic, group)  # no service's

    async def close(self) -> None:
        for each in (super(), self._hearer, self._operator):
            await each.close()


class WithRights(RedisUnderTest):
    server: OtherServer

    def connect(self, *, url: str | None = None, answer_limit_s: float = 1.5) -> RedisStreams:
        return AsUsers(self.server, answer_limit_s=answer_limit_s)


@pytest.fixture(scope="module", params=["valkey", "redis7"])
def server_with_users(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[OtherServer]:
    program = request.getfixturevalue("redis7_program") if request.param == "redis7" else None
    server = OtherServer(servers_folder / f"{request.param}-with-users", program=program, users=USERS)
    server.start()
    yield server
    server.kill()


class MemoryUnderTest:
    """One broker, reached by everybody in this process."""

    def __init__(self) -> None:
        self._broker = MemoryStreams()

    def connect(self) -> MemoryStreams:
        return self._broker

    async def forget_everything(self) -> None:
        self._broker.forget_everything()

    async def delete(self, topic: str, lane: Lane, entries: Sequence[BrokerId]) -> None:
        self._broker.delete(topic, lane, entries)

    async def pending(self, topic: str, group: str) -> int:
        return self._broker.pending(topic, group)

    async def stop(self) -> None:
        self._broker.stop()

    async def start(self) -> None:
        self._broker.start()


class TestMemoryStreams(DurableTransportContract, DatabaseRegistrationContract):
    @pytest.fixture
    def broker(self) -> MemoryUnderTest:
        return MemoryUnderTest()


class TestRedisStreams(DurableTransportContract, DatabaseRegistrationContract):
    """Valkey, and Redis 7; with no more rights than a service has. The server tells whether it ever refused anything."""

    @pytest.fixture
    async def broker(self, server_with_users: OtherServer) -> AsyncGenerator[RedisUnderTest]:
        server_with_users.start()
        server_with_users.flush()
        under_test = WithRights(server_with_users)
        await under_test.admin.acl_log_reset()
        yield under_test
        await asyncio.to_thread(server_with_users.start)
        refused = await refusals(under_test.admin)
        await under_test.close()
        assert refused == []


async def test_a_new_broker_in_memory_starts_over_for_a_group_that_knew_an_earlier_one() -> None:
    earlier = MemoryStreams(clock=lambda: 1_000.0)
    later = MemoryStreams(clock=lambda: 2_000.0)
    assert int(await earlier.now(TOPIC)) < int(await later.now(TOPIC))
