"""Whatever happens to the server: what was appended is heard, in order, as long as its publisher keeps its rows."""

import asyncio
import random
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cauce.errors import TransportUnavailableError
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId
from cauce.testing.transport_contract import (
    LANE,
    TOPIC,
    Hearing,
    acknowledged,
    hearing,
    message,
    messages,
    publishing,
    until,
)
from cauce.transports.redis import group_reading as redis_stream_group
from testsupport.redis_under_test import OtherServer, Publisher, RedisUnderTest, first_occurrences, proxy


@asynccontextmanager
async def relaying(broker: RedisUnderTest, **options: int) -> AsyncGenerator[Publisher]:
    async with publishing(broker) as transport:
        publisher = Publisher(transport, **options)  # pyright: ignore[reportArgumentType]  # a RedisStreams
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(publisher.run())
            yield publisher
            running.cancel()


async def everything(heard: Hearing, publisher: Publisher, count: int, limit_s: float = 30.0) -> None:
    await until(
        lambda: publisher.is_empty and len(set(heard.ids)) == count,
        lambda: f"{count} events; {len(set(heard.ids))} were heard, the publisher is empty: {publisher.is_empty}",
        limit_s,
    )


# --- the server dies --------------------------------------------------------------------------------------------


async def test_a_server_with_an_append_only_file_is_killed_three_times(own_broker: RedisUnderTest) -> None:
    async with relaying(own_broker) as publisher, hearing(own_broker) as heard:
        for part in range(3):
            publisher.write(part * 500 + 1, part * 500 + 500)
            await until(lambda: len(heard.ids) > part * 500 + 50, "some events")  # noqa: B023  # at once
            await own_broker.stop()
            await own_broker.start()
        await everything(heard, publisher, 1500)

    assert first_occurrences(heard) == list(range(1, 1501))


async def test_a_server_without_persistence_is_killed_and_its_publisher_feeds_it_again(servers_folder: Path) -> None:
    server = OtherServer(servers_folder / "no-persistence", settings=["appendonly no"])
    server.start()
    broker = RedisUnderTest(server)
    try:
        async with relaying(broker) as publisher, hearing(broker) as heard:
            publisher.write(1, 700)
            await heard.has(*range(1, 701))
            heard.open.clear()
            publisher.write(701, 1000)
            await until(lambda: publisher.is_empty, "all on the broker")
            await broker.stop()
            await broker.start()
            assert await broker.admin.dbsize() <= 3  # what it held is gone
            heard.open.set()
            publisher.write(1001, 1100)
            await everything(heard, publisher, 1100)
    finally:
        await broker.close()
        server.kill()

    assert publisher.refed >= 300
    assert first_occurrences(heard) == list(range(1, 1101))


async def test_to_a_server_restored_from_an_earlier_copy_events_are_resent(
    own_broker: RedisUnderTest, tmp_path: Path
) -> None:
    """Entries are missing, and the group stands where it stood: repeats, and nothing lost."""
    data = own_broker.server.folder / "data"
    async with relaying(own_broker) as publisher, hearing(own_broker) as heard:
        publisher.write(1, 300)
        await heard.has(*range(1, 301))
        await own_broker.stop()
        shutil.copytree(data, tmp_path / "copy")
        await own_broker.start()
        publisher.write(301, 800)
        await heard.has(*range(1, 801))
        heard.open.clear()
        publisher.write(801, 1000)
        await until(lambda: publisher.is_empty, "all on the broker")
        await own_broker.stop()
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "copy", data)
        await own_broker.start()
        heard.open.set()
        publisher.write(1001, 1100)
        await everything(heard, publisher, 1100)

    assert publisher.refed >= 100
    assert first_occurrences(heard) == list(range(1, 1101))


async def test_a_stream_deleted_five_times_while_events_flow(broker: RedisUnderTest) -> None:
    async with relaying(broker) as publisher, hearing(broker) as heard:
        last = 0
        for _ in range(5):
            publisher.write(last + 1, last + 400)
            await until(lambda: len(set(heard.ids)) > last + 20, "some events")  # noqa: B023  # at once
            await broker.admin.delete(broker.keys.stream(TOPIC, LANE))
            last += 400
            publisher.write(last + 1, last + 1)
            last += 1
            await everything(heard, publisher, last, limit_s=5.0)

    assert first_occurrences(heard) == list(range(1, last + 1))
    assert not heard.troubles  # a stream that is missing is no outage


@pytest.mark.parametrize("first", ["publisher", "reader"])
async def test_what_nobody_had_read_when_the_stream_was_deleted_comes_before_anything_new(
    broker: RedisUnderTest, first: str
) -> None:
    async with relaying(broker, batch=100) as publisher, hearing(broker) as heard:
        publisher.write(1, 1)
        await heard.has(1)
        heard.open.clear()
        publisher.write(2, 1500)
        await until(lambda: publisher.is_empty, "all on the broker")
        await broker.admin.delete(broker.keys.stream(TOPIC, LANE))
        if first == "reader":
            heard.open.set()
            await asyncio.sleep(0.3)  # it comes upon the missing stream before the publisher does
        publisher.write(1501, 1510)
        await until(lambda: publisher.is_empty, "the new ones on the broker")
        heard.open.set()
        await everything(heard, publisher, 1510)

    assert first_occurrences(heard) == list(range(1, 1511))


async def test_a_stream_deleted_while_nobody_publishes_is_noticed_before_anything_new(broker: RedisUnderTest) -> None:
    async with publishing(broker) as transport, hearing(broker) as heard:
        await transport.tail(TOPIC, LANE, [])
        ids = await transport.append(TOPIC, LANE, messages(1, 5))
        stream = broker.keys.stream(TOPIC, LANE)
        await broker.admin.delete(stream)
        # So long that the hearing service makes the stream again, as it must if no publisher lives any more.
        async with asyncio.timeout(10):
            while not await broker.admin.exists(stream):  # noqa: ASYNC110  # the broker's
                await asyncio.sleep(0.05)
        with pytest.raises(TransportUnavailableError, match="not the one it was"):
            await transport.append(TOPIC, LANE, [message(6)])
        assert (await transport.tail(TOPIC, LANE, ids)).lost_from == ids[0]
        await transport.append(TOPIC, LANE, messages(1, 6))
        await heard.has(1, 2, 3, 4, 5, 6)

    assert first_occurrences(heard) == [1, 2, 3, 4, 5, 6]


async def test_an_emptied_stream_is_consumed_further(broker: RedisUnderTest) -> None:
    async with publishing(broker) as transport, hearing(broker) as heard:
        await transport.append(TOPIC, LANE, messages(1, 5))
        await heard.has(1, 2, 3, 4, 5)
        await broker.admin.xtrim(broker.keys.stream(TOPIC, LANE), maxlen=0, approximate=False)
        await transport.append(TOPIC, LANE, [message(6)])
        await heard.has(6)


async def test_a_group_destroyed_by_hand_is_made_again_where_it_began(broker: RedisUnderTest) -> None:
    async with publishing(broker) as transport:
        await transport.append(TOPIC, LANE, messages(1, 3))
        begin = (await transport.append(TOPIC, LANE, [message(4)]))[0]
        async with hearing(broker, since={TOPIC: begin}) as heard:
            await transport.append(TOPIC, LANE, messages(5, 6))
            await heard.has(5, 6)
            for number in range(7, 10):
                await broker.admin.xgroup_destroy(broker.keys.stream(TOPIC, LANE), "mailing-ms")
                await transport.append(TOPIC, LANE, [message(number)])
                await heard.has(number)

    assert set(first_occurrences(heard)) == set(range(5, 10))
    assert not heard.troubles


async def test_a_beginning_that_lies_in_the_servers_future_is_the_beginning(broker: RedisUnderTest) -> None:
    """The server is another one, or its clock went back: new ids are lower than what we remember."""
    async with publishing(broker) as transport:
        await transport.append(TOPIC, LANE, messages(1, 3))
        async with hearing(broker, since={TOPIC: BrokerId("99999999999999-0")}) as heard:
            await heard.has(1, 2, 3)


async def test_a_frozen_server_is_noticed_and_everything_continues_when_it_wakes(own_broker: RedisUnderTest) -> None:
    async with relaying(own_broker) as publisher, hearing(own_broker) as heard:
        publisher.write(1, 200)
        await heard.has(*range(1, 201))
        own_broker.server.pause()
        publisher.write(201, 300)
        await until(lambda: not heard.is_up, "the reader noticing it")
        await until(lambda: any("no answer" in one for one in publisher.refusals), "the publisher noticing it")
        await asyncio.sleep(5)  # the length of the freeze is what is tested
        own_broker.server.resume()
        await everything(heard, publisher, 300)

    assert first_occurrences(heard) == list(range(1, 301))


# --- the network ------------------------------------------------------------------------------------------------


async def test_connections_cut_at_random_cost_repeats_and_nothing_else(broker: RedisUnderTest) -> None:
    chance = random.Random(7)
    async with proxy(broker.server) as network:
        through = Through(broker, network.url)
        async with relaying(through) as publisher, hearing(through) as heard:
            for part in range(25):
                publisher.write(part * 40 + 1, part * 40 + 40)
                await asyncio.sleep(chance.uniform(0, 0.1))
                network.cut()
            await everything(heard, publisher, 1000)
        await acknowledged(broker)

    assert first_occurrences(heard) == list(range(1, 1001))
    assert network.connections > 10


async def test_answers_that_come_too_late_are_no_confirmation_and_nothing_is_sent_again(
    broker: RedisUnderTest,
) -> None:
    async with proxy(broker.server) as network:
        transport = broker.connect(url=network.url, answer_limit_s=0.5)
        await transport.tail(TOPIC, LANE, [])
        first = await transport.append(TOPIC, LANE, messages(1, 3))
        network.reply_delay_s = 1.0
        with pytest.raises(TransportUnavailableError, match="no answer from Redis"):
            await transport.append(TOPIC, LANE, messages(4, 6))
        network.reply_delay_s = 0.0
        assert len(await broker.bodies(TOPIC, LANE)) == 6  # once
        with pytest.raises(TransportUnavailableError, match="new one"):
            await transport.append(TOPIC, LANE, messages(4, 6))
        assert (await transport.tail(TOPIC, LANE, first)).lost_from is None
        await transport.append(TOPIC, LANE, messages(4, 6))
        async with hearing(broker) as heard:
            await heard.has(*range(1, 7))
            await until(lambda: len(heard.ids) == 9, "the copies")
        await transport.close()

    assert first_occurrences(heard) == [1, 2, 3, 4, 5, 6]


async def test_a_thousand_cancellations_and_no_answer_reaches_another_question(broker: RedisUnderTest) -> None:
    chance = random.Random(45)
    confirmed: dict[BrokerId, bytes] = {}
    wrong: list[object] = []
    async with proxy(broker.server) as network:
        network.reply_delay_s = 0.002
        transport = broker.connect(url=network.url, answer_limit_s=5.0)

        async def append(number: int) -> None:
            lane, batch = Lane(number % 4), [message(number), message(number, body="second")]
            for one, body in zip(await transport.append(TOPIC, lane, batch), batch, strict=True):
                confirmed[BrokerId(f"{lane}/{one}")] = body

        async def look(number: int) -> None:
            tail = await transport.tail("another", Lane(0), [BrokerId(f"{number}-1")])
            if tail.lost_from != f"{number}-1":
                wrong.append(tail)

        for number in range(0, 1000, 10):
            async with asyncio.TaskGroup() as tasks:
                asked = [
                    tasks.create_task((append if chance.random() < 0.7 else look)(number + one)) for one in range(10)
                ]
                for one in asked:
                    await asyncio.sleep(chance.uniform(0, 0.003))
                    one.cancel()
        for number in range(1000, 1050):
            await append(number)
        await transport.close()

    held: dict[str, bytes] = {}
    for lane in range(4):
        held |= {f"{lane}/{one}": body for one, body in (await broker.bodies(TOPIC, Lane(lane))).items()}
    assert not wrong
    assert 100 <= len(confirmed) < 2100
    assert all(held[one] == body for one, body in confirmed.items())


class Through(RedisUnderTest):
    """The same server, reached over a proxy."""

    def __init__(self, broker: RedisUnderTest, url: str) -> None:
        super().__init__(broker.server)
        self._url = url

    def connect(self, *, url: str | None = None, answer_limit_s: float = 0.5):
        return super().connect(url=url or self._url, answer_limit_s=answer_limit_s)


# --- memory -----------------------------------------------------------------------------------------------------


async def test_a_full_server_takes_nothing_of_a_batch_and_continues_when_it_has_room(
    own_broker: RedisUnderTest,
) -> None:
    used = int((await own_broker.admin.info("memory"))["used_memory"])
    async with relaying(own_broker) as publisher, hearing(own_broker) as heard:
        await own_broker.admin.config_set("maxmemory", used + 3_000_000)
        publisher.write(1, 400, body="x" * 20_000)
        await until(lambda: bool(publisher.refusals), "the server being full")
        held: set[int] = set()
        refused = len(publisher.refusals)
        while len(publisher.refusals) <= refused + 5:
            held.add(await own_broker.admin.xlen(own_broker.keys.stream(TOPIC, LANE)))
            await asyncio.sleep(0.01)
        await own_broker.admin.config_set("maxmemory", 0)
        await everything(heard, publisher, 400)

    assert max(held) < 400
    assert {number % 20 for number in held} == {0}  # whole batches, also when there is room for one more meanwhile
    assert "full (maxmemory)" in publisher.refusals[0]
    assert first_occurrences(heard) == list(range(1, 401))


async def test_trimming_all_the_time_takes_nothing_from_a_paused_group_or_one_that_never_read(
    broker: RedisUnderTest,
) -> None:
    async with publishing(broker) as transport:
        async with hearing(broker, group="never-read"):
            pass
        async with hearing(broker, group="quick") as quick, hearing(broker, group="paused") as paused:
            paused.open.clear()
            for first in range(1, 10_001, 500):
                await transport.append(TOPIC, LANE, messages(first, first + 499))
                await transport.trim(TOPIC, LANE, older_than_s=-60)
            await quick.has(10_000)
            assert await broker.admin.xlen(broker.keys.stream(TOPIC, LANE)) == 10_000
            paused.open.set()
            await paused.has(10_000)
            await acknowledged(broker, group="paused")
        async with hearing(broker, group="never-read") as at_last:
            await at_last.has(10_000)
            await acknowledged(broker, group="never-read")
        assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 10_000

    for heard in (quick, paused, at_last):
        assert first_occurrences(heard) == list(range(1, 10_001))
        assert not any(one.lost for one in heard.deliveries)


async def test_a_lost_register_of_groups_does_not_let_trimming_go_too_far(broker: RedisUnderTest) -> None:
    async with publishing(broker) as transport:
        async with hearing(broker, group="away"):
            pass
        await transport.append(TOPIC, LANE, messages(1, 10))
        await broker.admin.delete(broker.keys.groups(TOPIC))
        assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 0


async def test_what_was_trimmed_on_purpose_is_not_missed(broker: RedisUnderTest) -> None:
    async with publishing(broker) as transport, hearing(broker) as heard:
        ids = await transport.append(TOPIC, LANE, messages(1, 10))
        await heard.has(*range(1, 11))
        await acknowledged(broker)
        assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 10
        assert (await transport.tail(TOPIC, LANE, ids)).lost_from is None
        newer = await transport.append(TOPIC, LANE, messages(11, 12))
        assert (await transport.tail(TOPIC, LANE, [*ids, *newer])).lost_from is None


# --- who reads --------------------------------------------------------------------------------------------------


async def test_entries_that_a_process_took_in_our_name_and_did_not_handle_are_found(
    broker: RedisUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was frozen before it sent its read, lost its lanes, and woke up."""
    monkeypatch.setattr(redis_stream_group, "_LOOK_EVERY_S", 0.3)
    async with publishing(broker) as transport, hearing(broker) as heard:
        await transport.append(TOPIC, LANE, [message(0)])
        await heard.has(0)
        for first in range(1, 100, 2):
            await transport.append(TOPIC, Lane(first % 16), messages(first, first + 1))
            zombie = {broker.keys.stream(TOPIC, Lane(lane)): ">" for lane in range(16)}
            await broker.admin.xreadgroup("mailing-ms", "lane", zombie, count=1)
        await heard.has(*range(101))
        await acknowledged(broker)


@pytest.mark.parametrize("expected", [True, False], ids=["asked with the read", "asked after it"])
async def test_what_a_process_took_in_our_name_is_delivered_before_what_came_after_it(
    broker: RedisUnderTest, monkeypatch: pytest.MonkeyPatch, expected: bool
) -> None:
    monkeypatch.setattr(redis_stream_group, "_LIVELY_S", 60.0 if expected else 0.0)
    stream = broker.keys.stream(TOPIC, LANE)
    async with hearing(broker) as heard, publishing(broker) as transport:
        await transport.append(TOPIC, LANE, [message(0)])
        await heard.has(0)
        for number in range(1, 61, 2):
            # Both are there at once, and the first of them is given to a read that a frozen process had on its way.
            async with broker.admin.pipeline(transaction=True) as both:
                for raw in messages(number, number + 1):
                    both.xadd(stream, {"e": raw})
                    if len(both) == 1:
                        both.xreadgroup("mailing-ms", "lane", {stream: ">"}, count=1)
                await both.execute()
            await heard.has(number + 1)

        first_times = list(dict.fromkeys(heard.ids))  # one that is acknowledged at this moment may come once more
        assert first_times == [f"event-{number}" for number in range(61)]


async def test_an_idle_service_asks_little(broker: RedisUnderTest) -> None:
    async with hearing(broker, topics=(TOPIC, "music-ms")):
        before = int((await broker.admin.info("stats"))["total_commands_processed"])
        await asyncio.sleep(3)  # what is asked meanwhile is what is tested
        after = int((await broker.admin.info("stats"))["total_commands_processed"])

    assert after - before <= 3 * 10
