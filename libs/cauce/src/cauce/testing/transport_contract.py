"""The contract of durable transports, as tests: what Cauce promises rests on these, whatever the broker.

Make a class of them for a broker, with a fixture that says how it is reached and how it is broken:

    pytest.register_assert_rewrite("cauce.testing.transport_contract")
    from cauce.testing.transport_contract import BrokerUnderTest, DurableTransportContract

    class TestMyBroker(DurableTransportContract):
        @pytest.fixture
        async def broker(self): ...
            yield MyBrokerUnderTest()

Run them with pytest-asyncio, `asyncio_mode = "auto"`.
"""
# ruff: noqa: S101, SIM117  # these are tests

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol, cast

import msgspec

from cauce.errors import PublishError, TransportUnavailableError
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import MAX_MESSAGE_BYTES, to_json
from cauce.ports.lanes import LANES, Lane
from cauce.ports.transport import BrokerId, Delivery, DurableTransport, RegistersDatabases, Subscription

__all__ = [
    "LANE",
    "TOPIC",
    "BrokerUnderTest",
    "DatabaseRegistrationContract",
    "DurableTransportContract",
    "Hearing",
    "acknowledged",
    "hearing",
    "message",
    "messages",
    "publishing",
    "registering",
    "until",
]

TOPIC = "accounts-ms"
NAME = "accounts.users.user-created"
LANE = Lane(3)
ALL_LANES = frozenset(Lane(lane) for lane in range(LANES))
WITHIN_S = 15.0


class BrokerUnderTest(Protocol):
    """An empty broker, and what can happen to it. Every method returns when it has happened."""

    def connect(self) -> DurableTransport:
        """A transport, as another process would have one. The caller closes it."""
        ...

    async def forget_everything(self) -> None:
        """Entries, groups and notes are gone, as after a restart without persistence."""
        ...

    async def delete(self, topic: str, lane: Lane, entries: Sequence[BrokerId]) -> None:
        """These entries are gone, delivered or not."""
        ...

    async def pending(self, topic: str, group: str) -> int:
        """How many entries of the topic are delivered to the group and not acknowledged, over all lanes."""
        ...

    async def stop(self) -> None:
        """It no longer answers; nothing is forgotten."""
        ...

    async def start(self) -> None:
        """It answers again."""
        ...


def message(number: int, *, source: str = TOPIC, key: str | None = None, body: str = "") -> bytes:
    """An event whose id is `event-NUMBER`."""
    payload = msgspec.Raw(msgspec.json.encode({"number": number, "body": body}))
    event_id = f"event-{number}"
    envelope = Envelope(
        id=event_id,
        source=source,
        name=NAME,
        version=1,
        occurred_on=datetime.now(UTC),
        payload=payload,
        correlation_id=event_id,
        key=key,
    )
    return to_json(envelope)


def messages(first: int, last: int) -> Sequence[bytes]:
    return [message(number) for number in range(first, last + 1)]


class Hearing:
    """A running `consume`: what it delivered, and what it said about itself."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.deliveries: list[Delivery] = []
        self.troubles: list[str] = []
        self.is_up = False
        self.acknowledge = acknowledge
        self.open = asyncio.Event()
        """Cleared: nothing is taken, as by a service whose queue is full."""
        self.open.set()

    def up(self) -> None:
        self.is_up = True

    def down(self, reason: str, *, retry_in_s: float) -> None:
        self.is_up = False
        self.troubles.append(reason)

    async def deliver(self, delivery: Delivery) -> None:
        await self.open.wait()
        self.deliveries.append(delivery)
        if self.acknowledge:
            await delivery.ack()

    @property
    def ids(self) -> Sequence[str]:
        return [one.envelope.id for one in self.deliveries if one.envelope]

    async def has(self, *numbers: int) -> None:
        """Until the events of these numbers have been delivered, whatever else has been."""
        wanted = {f"event-{number}" for number in numbers}
        await until(
            lambda: wanted <= set(self.ids), lambda: f"{sorted(wanted - set(self.ids))[:5]} among {len(self.ids)}"
        )


async def until(condition: Callable[[], bool], what: str | Callable[[], str], limit_s: float = WITHIN_S) -> None:
    """Wait for something that another process or task does. AssertionError after `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110  # the condition is another's
                await asyncio.sleep(0.005)
    except TimeoutError:
        missing = what if isinstance(what, str) else what()
        raise AssertionError(f"not within {limit_s:g} s: {missing}") from None


@asynccontextmanager
async def hearing(
    broker: BrokerUnderTest | DurableTransport,
    *,
    group: str = "mailing-ms",
    lanes: Collection[Lane] | Callable[[], Collection[Lane]] = ALL_LANES,
    tenure: Callable[[], int] = lambda: 0,
    since: Mapping[str, BrokerId] | None = None,
    topics: Collection[str] = (TOPIC,),
    acknowledge: bool = True,
    into: Hearing | None = None,
) -> AsyncGenerator[Hearing]:
    """A service that hears, until the block is left: then its `consume` is cancelled, as at a crash."""
    transport = broker if isinstance(broker, DurableTransport) else broker.connect()
    heard = into or Hearing(acknowledge=acknowledge)
    subscription = Subscription(names=frozenset({NAME}), topics=frozenset(topics))

    def owned() -> Mapping[Lane, int]:
        return dict.fromkeys(lanes() if callable(lanes) else lanes, tenure())

    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(
                transport.consume(subscription, heard.deliver, heard, group=group, lanes=owned, since=since or {})
            )
            await until(lambda: heard.is_up or running.done(), "hearing")
            yield heard
            running.cancel()
    finally:
        if transport is not broker:
            await transport.close()


@asynccontextmanager
async def publishing(broker: BrokerUnderTest) -> AsyncGenerator[DurableTransport]:
    transport = broker.connect()
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def registering(broker: BrokerUnderTest) -> AsyncGenerator[RegistersDatabases]:
    """A transport that notes databases."""
    transport = broker.connect()
    try:
        assert isinstance(transport, RegistersDatabases)
        yield transport
    finally:
        await transport.close()


class DurableTransportContract:
    """Inherit, and give it a fixture `broker: BrokerUnderTest`."""

    # Appending and hearing

    async def test_what_is_appended_is_heard_in_order_with_all_its_circumstances(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            ids = await transport.append(TOPIC, LANE, messages(1, 100))
            await heard.has(*range(1, 101))

        assert len(set(ids)) == 100
        assert heard.ids == [f"event-{number}" for number in range(1, 101)]
        first = heard.deliveries[0]
        assert first.envelope is not None
        assert (first.envelope.source, first.envelope.name, first.problem) == (TOPIC, NAME, None)
        assert not first.redelivered
        assert not first.lost

    async def test_an_empty_batch_is_nothing(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            assert list(await transport.append(TOPIC, LANE, [])) == []

    async def test_every_group_gets_every_event_and_every_topic_is_its_own(self, broker: BrokerUnderTest) -> None:
        async with (
            publishing(broker) as transport,
            hearing(broker, group="mailing-ms", topics=(TOPIC, "music-ms")) as mailing,
            hearing(broker, group="music-ms") as music,
        ):
            await transport.append(TOPIC, LANE, [message(1)])
            await transport.append("music-ms", LANE, [message(2, source="music-ms")])
            await transport.append(TOPIC, Lane(0), [message(3)])
            await mailing.has(1, 2, 3)
            await music.has(1, 3)

        assert "event-2" not in music.ids

    async def test_a_group_that_was_away_finds_what_it_missed(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            async with hearing(broker) as before:
                await transport.append(TOPIC, LANE, [message(1)])
                await before.has(1)
                await acknowledged(broker)
            await transport.append(TOPIC, LANE, messages(2, 50))
            async with hearing(broker) as after:
                await after.has(*range(2, 51))

        assert after.ids == [f"event-{number}" for number in range(2, 51)]

    async def test_a_late_group_begins_where_it_says(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            await transport.append(TOPIC, LANE, messages(1, 3))
            await transport.append(TOPIC, Lane(4), messages(4, 6))
            later = await transport.now(TOPIC)
            await transport.append(TOPIC, LANE, messages(7, 8))
            async with (
                hearing(broker, group="from-the-beginning") as all_of_it,
                hearing(broker, group="from-now-on", since={TOPIC: later}) as the_rest,
            ):
                await all_of_it.has(*range(1, 9))
                await the_rest.has(7, 8)

        # A broker whose ids are times may be off by a moment, towards too many.
        assert set(the_rest.ids) <= {f"event-{number}" for number in range(1, 9)}

    async def test_two_processes_share_the_lanes_and_hear_everything_once(self, broker: BrokerUnderTest) -> None:
        low, high = [frozenset(one for one in ALL_LANES if (one < 8) is first) for first in (True, False)]
        async with publishing(broker) as transport:
            async with hearing(broker, lanes=low) as one, hearing(broker, lanes=high) as other:
                for lane in sorted(ALL_LANES):
                    await transport.append(TOPIC, lane, messages(10 * lane, 10 * lane + 9))
                await one.has(*range(80))
                await other.has(*range(80, 160))

        assert len(one.ids) == len(other.ids) == 80

    async def test_a_batch_that_is_too_large_is_refused_as_a_whole(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            try:
                await transport.append(TOPIC, LANE, [message(1), message(2, body="x" * MAX_MESSAGE_BYTES)])
            except PublishError as error:
                assert str(MAX_MESSAGE_BYTES) in str(error)  # noqa: PT017  # no dependency on pytest here
            else:
                raise AssertionError("it was taken")
            await transport.append(TOPIC, LANE, [message(3)])
            await heard.has(3)

        assert heard.ids == ["event-3"]

    async def test_what_is_no_event_of_the_topic_is_delivered_with_its_problem(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            await transport.append(TOPIC, LANE, [b"\x80\x04pickle", b"{}", message(1, source="mallory-ms"), message(2)])
            await heard.has(2)

        assert [one.envelope is None for one in heard.deliveries] == [True, True, True, False]
        assert heard.deliveries[0].raw == b"\x80\x04pickle"
        assert "mallory-ms" in (heard.deliveries[2].problem or "")
        assert [one.foreign for one in heard.deliveries] == [False, False, True, False]
        assert not any(one.lost for one in heard.deliveries)

    # Acknowledging

    async def test_what_was_not_acknowledged_comes_again_and_before_anything_new(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            async with hearing(broker, acknowledge=False) as crashed:
                await transport.append(TOPIC, LANE, messages(1, 5))
                await crashed.has(1, 2, 3, 4, 5)
                await crashed.deliveries[1].ack()
                await acknowledged(broker, leaving=4)
            await transport.append(TOPIC, LANE, [message(6)])
            async with hearing(broker) as again:
                await again.has(1, 3, 4, 5, 6)

        assert again.ids == ["event-1", "event-3", "event-4", "event-5", "event-6"]
        assert [one.redelivered for one in again.deliveries] == [True, True, True, True, False]

    async def test_what_is_acknowledged_after_the_reading_has_ended_does_not_come_again(
        self, broker: BrokerUnderTest
    ) -> None:
        async with publishing(broker) as transport:
            consuming = broker.connect()
            async with hearing(consuming, acknowledge=False) as drained:
                await transport.append(TOPIC, LANE, messages(1, 3))
                await drained.has(1, 2, 3)
            for delivery in drained.deliveries:
                await delivery.ack()
            await consuming.close()
            await transport.append(TOPIC, LANE, [message(4)])
            async with hearing(broker) as again:
                await again.has(4)

        assert again.ids == ["event-4"]

    async def test_what_is_released_comes_again_to_the_same_process(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker, acknowledge=False) as heard:
            await transport.append(TOPIC, LANE, messages(1, 3))
            await heard.has(1, 2, 3)
            heard.deliveries[1].release()
            await until(lambda: len(heard.deliveries) == 4, "the fourth delivery")

        assert heard.ids[3] == "event-2"
        assert heard.deliveries[3].redelivered

    async def test_what_was_delivered_before_the_lane_was_lost_comes_again_before_anything_new(
        self, broker: BrokerUnderTest
    ) -> None:
        tenure = 1
        heard = Hearing(acknowledge=False)
        async with publishing(broker) as transport, hearing(broker, lanes=[LANE], tenure=lambda: tenure, into=heard):
            await transport.append(TOPIC, LANE, messages(1, 5))
            await heard.has(*range(1, 6))
            await heard.deliveries[0].ack()
            tenure = 2  # lost and taken again, so shortly that nobody saw it missing
            await transport.append(TOPIC, LANE, messages(6, 8))
            await until(
                lambda: heard.deliveries[-1].tenure == 2 and heard.ids[-1] == "event-8", "all of the new tenure"
            )
            for void in heard.deliveries[1:5]:
                void.release()  # says nothing about the same entries, which are in hand again

            again = [one for one in heard.deliveries if one.tenure == 2]
            assert [one.envelope.id for one in again if one.envelope] == [f"event-{number}" for number in range(2, 9)]
            assert {one.lane for one in heard.deliveries} == {LANE}
            for one in again:
                await one.ack()
            await acknowledged(broker)

    async def test_a_service_that_takes_nothing_is_not_given_more(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            await transport.append(TOPIC, LANE, [message(0)])
            await heard.has(0)
            heard.open.clear()
            for first in range(1, 2001, 100):
                await transport.append(TOPIC, LANE, messages(first, first + 99))
            heard.open.set()
            await heard.has(*range(1, 2001))

        assert heard.ids == [f"event-{number}" for number in range(2001)]

    # Lanes that change hands

    async def test_a_lane_that_is_no_longer_owned_gets_no_more(self, broker: BrokerUnderTest) -> None:
        owned = set(ALL_LANES)
        async with publishing(broker) as transport, hearing(broker, lanes=lambda: owned) as heard:
            await transport.append(TOPIC, LANE, [message(1)])
            await heard.has(1)
            owned.discard(LANE)
            await transport.append(TOPIC, LANE, [message(2)])
            await transport.append(TOPIC, Lane(4), [message(3)])
            await heard.has(3)
            async with hearing(broker, lanes=[LANE]) as next_owner:
                await next_owner.has(2)

        assert "event-2" not in heard.ids

    async def test_the_next_owner_hears_in_order_although_the_earlier_one_was_still_reading(
        self, broker: BrokerUnderTest
    ) -> None:
        owner = ["first"]
        both = first, second = Hearing(), Hearing()
        async with (
            publishing(broker) as transport,
            hearing(broker, lanes=lambda: [LANE] if owner[0] == "first" else [], into=first),
            hearing(broker, lanes=lambda: [LANE] if owner[0] == "second" else [], into=second),
        ):
            number = 0
            for turn in range(6):
                owner[0] = "second" if turn % 2 else "first"
                for _ in range(20):
                    number += 1
                    await transport.append(TOPIC, LANE, [message(number)])
                await until(lambda: sum(len(one.ids) for one in both) >= number, f"{number} events")  # noqa: B023  # at once

        for one in both:
            numbers = [int(event_id.removeprefix("event-")) for event_id in one.ids]
            assert numbers == sorted(numbers)
        assert sorted([*first.ids, *second.ids]) == sorted({*first.ids, *second.ids})

    # Trouble

    async def test_an_outage_is_said_and_over_when_it_is_over(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            await transport.append(TOPIC, LANE, [message(1)])
            await heard.has(1)
            await broker.stop()
            await until(lambda: not heard.is_up, "the outage being said")
            await _fails(transport.append(TOPIC, LANE, [message(2)]))
            await _fails(transport.tail(TOPIC, LANE, []))
            await broker.start()
            await until(lambda: heard.is_up, "the end of the outage")
            await _verified(transport, [])
            await transport.append(TOPIC, LANE, [message(3)])
            await heard.has(3)

        assert all(heard.troubles)

    async def test_a_broker_that_forgot_everything_is_read_from_the_start_again(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            await transport.append(TOPIC, LANE, [message(1)])
            await heard.has(1)
            for number in range(2, 6):
                await broker.forget_everything()
                await _verified(transport, [])
                await transport.append(TOPIC, LANE, [message(number)])
                await heard.has(number)

    async def test_an_entry_deleted_while_it_was_pending_is_told_as_lost(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            async with hearing(broker, acknowledge=False) as crashed:
                ids = await transport.append(TOPIC, LANE, messages(1, 3))
                await crashed.has(1, 2, 3)
            await broker.delete(TOPIC, LANE, [ids[1]])
            async with hearing(broker) as again:
                await until(lambda: len(again.deliveries) == 3, "three deliveries")
                await acknowledged(broker)
            async with hearing(broker) as later:
                await transport.append(TOPIC, LANE, [message(4)])
                await later.has(4)

        assert [one.lost for one in again.deliveries] == [False, True, False]
        assert again.deliveries[1].problem
        assert later.ids == ["event-4"]

    # The tail

    async def test_the_tail_is_whole_as_long_as_nothing_was_lost(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            assert (await transport.tail(TOPIC, LANE, [])).lost_from is None
            ids = await transport.append(TOPIC, LANE, messages(1, 120))
            assert (await transport.tail(TOPIC, LANE, ids)).lost_from is None
            assert (await transport.tail(TOPIC, LANE, ids[-1:])).lost_from is None

    async def test_a_stream_is_in_doubt_when_it_has_lost_its_end(self, broker: BrokerUnderTest) -> None:
        streams = [(TOPIC, LANE), (TOPIC, Lane(5))]
        async with publishing(broker) as transport:
            for stream in streams:
                await transport.tail(*stream, [])
            assert not await transport.doubtful(streams, kept_s=0)
            ids = await transport.append(TOPIC, LANE, messages(1, 10))
            assert not await transport.doubtful(streams, kept_s=0)

            await broker.delete(TOPIC, LANE, ids[8:])
            assert [*await transport.doubtful(streams, kept_s=0)] == [(TOPIC, LANE)]

    async def test_a_stream_whose_end_was_trimmed_is_in_doubt_until_its_tail_is_asked_for(
        self, broker: BrokerUnderTest
    ) -> None:
        async with publishing(broker) as transport:
            await transport.tail(TOPIC, LANE, [])
            async with hearing(broker) as heard:
                ids = await transport.append(TOPIC, LANE, messages(1, 3))
                await heard.has(1, 2, 3)
                await acknowledged(broker)
                assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 3
            assert (await transport.tail(TOPIC, LANE, ids)).lost_from is None
            assert not await transport.doubtful([(TOPIC, LANE)], kept_s=0)

    async def test_a_reader_that_finds_everything_gone_puts_all_streams_in_doubt(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            await transport.tail(TOPIC, LANE, [])
            await transport.append(TOPIC, LANE, messages(1, 3))
            await heard.has(1, 2, 3)
            await broker.forget_everything()

            async def doubted() -> bool:
                return bool(await transport.doubtful([(TOPIC, LANE)], kept_s=3600))

            async with asyncio.timeout(60):
                while not await doubted():  # noqa: ASYNC110  # the reader's own moment
                    await asyncio.sleep(0.05)

    async def test_nothing_young_is_trimmed_and_what_becomes_old_is(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            assert await transport.trim(TOPIC, LANE, older_than_s=0.5) == 0
            await transport.append(TOPIC, LANE, messages(1, 3))
            await heard.has(1, 2, 3)
            await acknowledged(broker)
            assert await transport.trim(TOPIC, LANE, older_than_s=3600) == 0
            async with asyncio.timeout(60):
                while not await transport.trim(TOPIC, LANE, older_than_s=0.5):  # noqa: ASYNC110  # until they are old
                    await asyncio.sleep(0.05)

    async def test_the_tail_says_from_where_on_something_is_lost(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            ids = await transport.append(TOPIC, LANE, messages(1, 10))
            await broker.delete(TOPIC, LANE, ids[6:])
            newer = await transport.append(TOPIC, LANE, messages(11, 12))
            assert (await transport.tail(TOPIC, LANE, [*ids, *newer])).lost_from == ids[6]

    async def test_nothing_new_is_taken_by_a_broker_that_forgot_until_its_tail_was_asked_for(
        self, broker: BrokerUnderTest
    ) -> None:
        async with publishing(broker) as transport:
            await transport.tail(TOPIC, LANE, [])
            ids = await transport.append(TOPIC, LANE, messages(1, 3))
            await broker.forget_everything()
            await _fails(transport.append(TOPIC, LANE, [message(4)]))
            tail = await _verified(transport, ids)
            again = await transport.append(TOPIC, LANE, messages(1, 4))
            async with hearing(broker) as heard:
                await heard.has(1, 2, 3, 4)

        assert tail == ids[0]
        assert len(again) == 4
        assert heard.ids == ["event-1", "event-2", "event-3", "event-4"]

    # Trimming

    async def test_only_what_every_group_has_acknowledged_is_trimmed(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            async with (
                hearing(broker, group="quick") as quick,
                hearing(broker, group="paused", acknowledge=False) as paused,
            ):
                ids = await transport.append(TOPIC, LANE, messages(1, 10))
                await quick.has(*range(1, 11))
                await paused.has(*range(1, 11))
                for delivery in paused.deliveries[:4]:
                    await delivery.ack()
                await acknowledged(broker, group="paused", leaving=6)
                await acknowledged(broker, group="quick")
                trimmed = await transport.trim(TOPIC, LANE, older_than_s=-60)
            assert trimmed == 4
            assert (await transport.tail(TOPIC, LANE, ids)).lost_from is None
            async with hearing(broker, group="paused") as again:
                await again.has(*range(5, 11))
                await acknowledged(broker, group="paused")
                assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 6

        assert not any(one.lost for one in again.deliveries)

    async def test_what_is_young_is_kept(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport, hearing(broker) as heard:
            await transport.append(TOPIC, LANE, messages(1, 10))
            await heard.has(*range(1, 11))
            await acknowledged(broker)
            assert await transport.trim(TOPIC, LANE, older_than_s=3600) == 0

    async def test_a_group_that_is_away_is_waited_for_until_it_is_forgotten(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            async with hearing(broker, group="never-reads", lanes=lambda: [LANE]):
                pass
            async with hearing(broker, group="quick") as quick:
                await transport.append(TOPIC, LANE, messages(1, 10))
                await quick.has(*range(1, 11))
                await acknowledged(broker, group="quick")
                assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 0
                assert await _forget(transport, "never-reads")
                assert not await _forget(transport, "never-reads")
                assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 10

    async def test_a_registered_group_that_is_missing_stops_the_trimming(self, broker: BrokerUnderTest) -> None:
        async with publishing(broker) as transport:
            async with hearing(broker, group="elsewhere", lanes=[Lane(5)]):
                await transport.append(TOPIC, LANE, messages(1, 10))
            assert await transport.trim(TOPIC, LANE, older_than_s=-60) == 0


class DatabaseRegistrationContract:
    """What every broker promises that is RegistersDatabases. Define the fixture `broker`, a new one for every test."""

    async def test_a_service_is_registered_with_the_database_that_came_first(self, broker: BrokerUnderTest) -> None:
        async with registering(broker) as first, registering(broker) as second:
            assert await first.register_database([TOPIC, "music-ms"], "mailing-ms", "production") == {}
            assert await second.register_database([TOPIC], "mailing-ms", "production") == {}, "another instance"
            assert await second.register_database([TOPIC], "mailing-ms", "staging") == {TOPIC: "production"}
            assert await second.register_database([TOPIC], "music-ms", "staging") == {}, "another service"
            assert await first.register_database([TOPIC, "music-ms"], "mailing-ms", "production") == {}, "unchanged"

    async def test_a_database_that_is_refused_in_one_topic_is_registered_in_no_other(
        self, broker: BrokerUnderTest
    ) -> None:
        async with registering(broker) as transport:
            await transport.register_database(["b"], "mailing-ms", "production")
            assert await transport.register_database(["a", "b", "c"], "mailing-ms", "staging") == {"b": "production"}
            assert await transport.register_database(["a", "b", "c"], "mailing-ms", "production") == {}

    async def test_of_two_databases_that_come_at_once_one_is_registered(self, broker: BrokerUnderTest) -> None:
        async with registering(broker) as first, registering(broker) as second:
            topics = [TOPIC, "music-ms"]
            answers = await asyncio.gather(
                first.register_database(topics, "mailing-ms", "production"),
                second.register_database(topics, "mailing-ms", "staging"),
            )
            (other,) = [one for answer in answers for one in set(answer.values())]
            assert await first.register_database(topics, "mailing-ms", other) == {}

    async def test_a_broker_that_forgot_everything_or_the_service_registers_anew(self, broker: BrokerUnderTest) -> None:
        async with registering(broker) as transport:
            await transport.register_database([TOPIC], "mailing-ms", "production")
            await broker.forget_everything()
            assert await transport.register_database([TOPIC], "mailing-ms", "restored") == {}
            assert await _forget(cast("DurableTransport", transport), "mailing-ms")
            assert await transport.register_database([TOPIC], "mailing-ms", "another") == {}

    async def test_a_broker_that_is_away_registers_nothing(self, broker: BrokerUnderTest) -> None:
        async with registering(broker) as transport:
            await broker.stop()
            await _fails(transport.register_database([TOPIC], "mailing-ms", "production"))
            await broker.start()
            await _answers(transport)
            assert await transport.register_database([TOPIC], "mailing-ms", "staging") == {}


class _CanForget(Protocol):
    async def forget(self, topic: str, group: str) -> bool: ...


async def _forget(transport: DurableTransport, group: str) -> bool:
    return await cast("_CanForget", transport).forget(TOPIC, group)  # an ability beside the port


async def acknowledged(broker: BrokerUnderTest, *, group: str = "mailing-ms", leaving: int = 0) -> None:
    """Wait until the broker has taken the group's acknowledgements; `leaving` entries have none."""
    async with asyncio.timeout(WITHIN_S):
        while await broker.pending(TOPIC, group) != leaving:  # noqa: ASYNC110  # the broker's
            await asyncio.sleep(0.005)


async def _fails(call: Awaitable[object]) -> None:
    try:
        await call
    except TransportUnavailableError as error:
        assert str(error)  # noqa: PT017
    else:
        raise AssertionError("it was confirmed")


async def _answers(transport: RegistersDatabases) -> None:
    for _ in range(200):
        try:
            await transport.register_database(["another-topic"], "mailing-ms", "production")
        except TransportUnavailableError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("the broker does not answer")


async def _verified(transport: DurableTransport, sent: Sequence[BrokerId]) -> BrokerId | None:
    """What the tail says, as soon as the broker answers again."""
    for _ in range(200):
        try:
            return (await transport.tail(TOPIC, LANE, sent)).lost_from
        except TransportUnavailableError:
            await asyncio.sleep(0.05)
    raise AssertionError("the broker does not answer")
