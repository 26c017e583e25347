"""The contract of durable transports: on the broker in memory, on Valkey, on Redis 7."""

from collections.abc import Sequence

import pytest
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId
from cauce.testing.transport_contract import TOPIC, DatabaseRegistrationContract, DurableTransportContract
from cauce.transports.memory_streams import MemoryStreams


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
    """With the fixture `broker` of this folder: Valkey, and Redis 7."""


async def test_a_new_broker_in_memory_starts_over_for_a_group_that_knew_an_earlier_one() -> None:
    earlier = MemoryStreams(clock=lambda: 1_000.0)
    later = MemoryStreams(clock=lambda: 2_000.0)
    assert int(await earlier.now(TOPIC)) < int(await later.now(TOPIC))
