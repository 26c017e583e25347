"""The contract of stores that durable delivery may be written down in, as tests.

Make a class of them for a store, with a fixture that gives an empty one:

    pytest.register_assert_rewrite("cauce.testing.store_contract")
    from cauce.testing.store_contract import StoreUnderTest, StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self) -> AsyncGenerator[StoreUnderTest]: ...
            await store.prepare()
            yield store
            await store.close()

Run them with pytest-asyncio, `asyncio_mode = "auto"`.
"""
# ruff: noqa: S101  # these are tests

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from cauce.errors import ConfigurationError, PublishError
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import MAX_MESSAGE_BYTES, from_json, to_json
from cauce.ports.inbox import KEPT_BYTES, Failure, Inbox, Position, WaitingDelivery, Whole
from cauce.ports.lanes import LANES, Epoch, Lane, MemberId, lane_of
from cauce.ports.message_store import Work
from cauce.ports.outbox import Backlog, KeepSent, OutboxRow, Outgoing, Pruned
from cauce.ports.registration import ListenerInCode
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import DurableStore, Store, UnitOfWork
from cauce.ports.transport import BrokerId

__all__ = ["StoreContract", "StoreUnderTest", "Unit", "envelope", "unit"]

T = TypeVar("T")

SOURCE = "shop"
LISTENER = "ledger/count"
OTHER = "ledger/other"
ALL_LANES = [Lane(lane) for lane in range(LANES)]
ONE, TWO = MemberId("one"), MemberId("two")
AN_HOUR_S = 3600
ANY_AGE_S = -60
"""`older_than_s` for everything there is, whatever the resolution of the store's clock."""
LEASE_S = 60.0
IDLE_S = 30.0
_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)
FAILURE = Failure(reason="exhausted", error="ValueError: no", stack=None, attempts=3, worker="host:1", version=None)


class StoreUnderTest(Store, DurableStore, Protocol):
    """A durable store."""


class Unit:
    """An open transaction: what it publishes, and the inbox in it."""

    def __init__(self, store: StoreUnderTest) -> None:
        self._savepoints: Savepoints[Outgoing] = Savepoints()
        self.work: UnitOfWork = store.begin(self._savepoints, read_only=False, outgoing=_as_they_are)
        self.inbox: Inbox = store.inbox(self.work)

    def publish(self, *envelopes: Envelope, consumer: str | None = None) -> None:
        self.work.take_part()
        for one in envelopes:
            self._savepoints.add(Outgoing(envelope=one, consumer=consumer))


def _as_they_are(published: Sequence[Any]) -> Sequence[Outgoing]:
    return published


class _OnPurposeError(Exception):
    pass


@asynccontextmanager
async def unit(store: StoreUnderTest) -> AsyncGenerator[Unit]:
    """Committed when the block ends, rolled back when an exception leaves it."""
    one = Unit(store)
    try:
        yield one
        await one.work.commit()
    except BaseException:
        await one.work.rollback()
        raise


@asynccontextmanager
async def rolled_back(store: StoreUnderTest) -> AsyncGenerator[Unit]:
    with suppress(_OnPurposeError):
        async with unit(store) as one:
            yield one
            raise _OnPurposeError


def envelope(
    number: int, *, key: str | None = None, seq: int | None = None, incarnation: str | None = None, body: str = ""
) -> Envelope:
    """An event whose id is `event-NUMBER`; with `seq`, as one that arrives from the broker."""
    return Envelope(
        id=f"event-{number}",
        source=SOURCE,
        name="shop.counted",
        version=1,
        occurred_on=_SOME_DAY,
        payload=msgspec.Raw(msgspec.json.encode({"number": number, "body": body})),
        correlation_id=f"event-{number}",
        key=key,
        key_seq=seq,
        incarnation=incarnation if incarnation is not None or seq is None else "first",
    )


def _in_code(name: str, *earlier_names: str) -> ListenerInCode:
    return ListenerInCode(name=name, earlier_names=earlier_names, events=["shop.counted"])


def delivery(number: int, *, key: str | None = None, consumer: str = LISTENER) -> WaitingDelivery:
    """A delivery of `event-NUMBER` that is to wait."""
    one = envelope(number, key=key)
    return WaitingDelivery(
        position=None,
        consumer=consumer,
        source=SOURCE,
        event_id=one.id,
        lane=lane_of(one),
        key=key,
        channel="shop:0",
        message=to_json(one),
        attempts=0,
        first_failed_at=None,
    )


def ids(rows: Sequence[OutboxRow | WaitingDelivery]) -> list[int]:
    return [int(one.event_id.removeprefix("event-")) for one in rows]


async def published(store: StoreUnderTest, *envelopes: Envelope) -> Sequence[OutboxRow]:
    """Publish, each in a transaction of its own; everything that is pending then."""
    for one in envelopes:
        async with unit(store) as tx:
            tx.publish(one)
    return await pending(store)


async def pending(store: StoreUnderTest, *, limit: int = 1000) -> Sequence[OutboxRow]:
    found = await store.message_store().pending(ALL_LANES, limit=limit)
    assert not found or (await store.message_store().work(ALL_LANES)).to_send
    return found


async def due(store: StoreUnderTest, *, limit: int = 1000) -> Sequence[WaitingDelivery]:
    found = await store.message_store().due(ALL_LANES, limit=limit)
    assert not found or (await store.message_store().work(ALL_LANES)).due
    return found


async def owned(store: StoreUnderTest, me: MemberId = ONE) -> dict[Lane, Epoch]:
    """All lanes, taken by `me`, with their epochs."""
    message_store = store.message_store()
    rows = (await message_store.beat(me, lease_s=LEASE_S)).rows
    return dict(await message_store.take(me, {row.lane: row.epoch for row in rows}))


async def sent(store: StoreUnderTest, *rows: OutboxRow) -> None:
    """Sent and marked, by the owner of all lanes."""
    lanes = await owned(store)
    for row in rows:
        assert await store.message_store().mark_sent(
            {row.lane: lanes[row.lane]}, ONE, [(row.position, _broker_id(row))]
        )
        await _the_clock_moves_on()


async def _first_sent_go(store: StoreUnderTest, **most: int) -> None:
    message_store = store.message_store()
    rows = await published(store, *(envelope(number, key="a", body="x" * 850) for number in range(1, 42)))
    await message_store.set_aside(rows[0].position, "never to be sent")
    assert await pruned(store, **most) == Pruned()
    await sent(store, *rows[1:11])
    assert await pruned(store, **most) == Pruned()
    await sent(store, *rows[11:41])

    gone = await pruned(store, **most)
    left = await message_store.newest_sent(SOURCE, rows[0].lane, limit=50)
    assert gone.capped
    assert gone.rows + len(left) == 40
    assert 12 <= len(left) <= 21
    assert [broker_id for _, broker_id in left] == [_broker_id(row) for row in rows[-len(left) :]]


async def pruned(store: StoreUnderTest, **keep: int) -> Pruned:
    """All that goes at once, in however many portions."""
    rows, capped, more = 0, False, True
    while more:
        limits = KeepSent(
            seconds=keep.get("seconds", AN_HOUR_S), rows=keep.get("rows", 10**9), bytes=keep.get("bytes", 10**12)
        )
        portion = await store.message_store().prune_sent(limits)
        rows, capped, more = rows + portion.rows, capped or portion.capped, portion.more
    return Pruned(rows=rows, capped=capped)


def _broker_id(row: OutboxRow) -> BrokerId:
    return BrokerId(f"{row.position}-0")


async def _the_clock_moves_on() -> None:
    """Some clocks tell milliseconds apart, and no less."""
    await asyncio.sleep(0.002)


async def _waits(work: Awaitable[T]) -> "asyncio.Task[T]":
    """Begun, and seen waiting for somebody."""

    async def run() -> T:
        return await work

    task = asyncio.get_running_loop().create_task(run())
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done, "it did not wait"
    return task


async def arrives(store: StoreUnderTest, one: Envelope, consumer: str = LISTENER) -> Position | str | None:
    """What is known when it arrives, in a transaction of its own that is committed."""
    async with unit(store) as tx:
        (found,) = await tx.inbox.arrive(consumer, [one], idle_s=IDLE_S)
    return "known" if found.known else without_times(found.position)


def without_times(position: Position | None) -> Position | None:
    return None if position is None else Position(position.last_seq, position.incarnation)


async def waits(
    store: StoreUnderTest, *deliveries: WaitingDelivery, delay_s: float | None = None, error: str | None = None
) -> None:
    for one in deliveries:
        async with unit(store) as tx:
            await tx.inbox.keep(one, delay_s=delay_s, error=error)


class StoreContract:
    """Inherit, and give it a fixture `store: StoreUnderTest`: prepared and empty."""

    # Transactions

    async def test_all_that_a_transaction_writes_is_there_after_its_commit(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            await _write_everything(tx)

        assert await _everything(store) == (["outbox"], ["head"], ["dead"], "known", "in doubt", 2)

    async def test_nothing_that_a_transaction_writes_is_there_after_its_rollback(self, store: StoreUnderTest) -> None:
        async with rolled_back(store) as tx:
            await _write_everything(tx)

        assert await _everything(store) == ([], [], [], "new", "first", 1)

    async def test_nothing_of_a_savepoint_that_was_left_by_an_error_is_there(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            await tx.inbox.first_time(LISTENER, SOURCE, "before")
            with suppress(_OnPurposeError):
                async with tx.work.savepoint():
                    await _write_everything(tx)
                    raise _OnPurposeError
            async with tx.work.savepoint():
                await tx.inbox.first_time(LISTENER, SOURCE, "after")
                tx.publish(envelope(50))

        assert ids(await pending(store)) == [50]
        assert [await _known(store, event) for event in ("before", "inside", "after")] == [True, False, True]

    async def test_nothing_is_seen_by_others_before_the_commit(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            await _write_everything(tx)
            assert (await pending(store), await due(store), await store.message_store().dead()) == ([], [], [])

    async def test_an_error_that_is_the_codes_is_not_the_databases(self, store: StoreUnderTest) -> None:
        assert not store.is_infrastructure(ValueError("no"))
        assert not store.is_infrastructure(ValueError("no"), from_listener=True)
        assert not store.is_infrastructure(TimeoutError(), from_listener=True)
        assert not store.is_infrastructure(ConnectionError(), from_listener=True)

    # The outbox

    async def test_what_is_published_is_pending_in_order_with_its_number(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            tx.publish(envelope(1, key="a"), envelope(2), envelope(3, key="a"), envelope(4, key="b"))
        rows = await published(store, envelope(5, key="a"))

        read = [from_json(row.message) for row in rows]
        assert ids(rows) == [1, 2, 3, 4, 5]
        assert [one.key_seq for one in read] == [1, None, 2, 1, 3]
        assert {one.incarnation for one in read if one.key} == {await store.message_store().incarnation()}
        assert [(row.topic, row.key, row.lane) for row in rows] == [(SOURCE, one.key, lane_of(one)) for one in read]
        assert [row.position for row in rows] == sorted({row.position for row in rows})

    async def test_numbers_of_a_key_have_no_holes_whoever_writes_and_whatever_fails(
        self, store: StoreUnderTest
    ) -> None:
        too_large = "x" * MAX_MESSAGE_BYTES

        async def write(writer: int) -> None:
            for turn in range(6):
                number = 10 * writer + turn
                with suppress(PublishError):  # after it was counted
                    async with unit(store) as tx:
                        body = too_large if turn % 3 == 1 else ""
                        tx.publish(envelope(number, key="hot"), envelope(100 + number, key=f"{turn % 2}", body=body))

        async with asyncio.TaskGroup() as tasks:
            for writer in range(4):
                tasks.create_task(write(writer))

        rows = [from_json(row.message) for row in await pending(store)]
        for key, count in (("hot", 16), ("0", 8), ("1", 8)):
            assert [one.key_seq for one in rows if one.key == key] == list(range(1, count + 1)), key

    async def test_what_is_not_sent_is_pending_whatever_was_sent_after_it(self, store: StoreUnderTest) -> None:
        rows = await published(store, *map(envelope, range(1, 6)))
        await sent(store, rows[1], rows[3], rows[4])

        assert ids(await pending(store)) == [1, 3]

    async def test_pending_is_asked_for_by_lane_and_in_portions(self, store: StoreUnderTest) -> None:
        rows = await published(store, *map(envelope, range(1, 30)))
        some = [Lane(3), Lane(7), Lane(11)]

        found = await store.message_store().pending(some, limit=2)

        assert list(found) == [row for row in rows if row.lane in some][:2]
        assert not await store.message_store().pending([], limit=10)

    async def test_a_row_set_aside_holds_back_its_key_and_nothing_else(self, store: StoreUnderTest) -> None:
        keys = {1: "a", 2: "a", 3: "a", 4: "b", 5: None}
        rows = await published(store, *(envelope(number, key=key) for number, key in keys.items()))
        await store.message_store().set_aside(rows[1].position, "too large for the broker")

        assert ids(await pending(store)) == [1, 4, 5]

    async def test_a_zombie_marks_nothing(self, store: StoreUnderTest) -> None:
        rows = await published(store, *map(envelope, range(1, 20)))
        mine = await owned(store, ONE)
        first = rows[0]
        other = next(row for row in rows if row.lane != first.lane)
        await store.message_store().take(TWO, {first.lane: mine[first.lane]})
        marks = [(row.position, _broker_id(row)) for row in (first, other)]
        lanes = {row.lane: mine[row.lane] for row in (first, other)}

        assert not await store.message_store().mark_sent(lanes, ONE, marks)
        assert not await store.message_store().mark_sent({first.lane: Epoch(mine[first.lane] + 1)}, ONE, marks[:1])
        assert len(await pending(store)) == len(rows)
        assert await store.message_store().mark_sent({other.lane: mine[other.lane]}, ONE, marks[1:])
        assert await store.message_store().mark_sent({first.lane: Epoch(mine[first.lane] + 1)}, TWO, marks[:1])

    async def test_the_newest_sent_are_told_in_the_order_of_sending_and_can_be_unsent(
        self, store: StoreUnderTest
    ) -> None:
        rows = await published(store, *(envelope(number, key="a") for number in range(1, 6)))
        lane = rows[0].lane
        in_order = [rows[index] for index in (0, 2, 1, 4, 3)]
        await sent(store, *in_order)
        message_store = store.message_store()

        newest = await message_store.newest_sent(SOURCE, lane, limit=3)
        assert [broker_id for _, broker_id in newest] == [_broker_id(row) for row in in_order[2:]]
        assert await message_store.newest_sent("elsewhere", lane, limit=3) == []
        assert await message_store.mark_unsent(SOURCE, lane, from_seq=newest[1][0]) == 2
        assert ids(await pending(store)) == [4, 5]
        assert await message_store.mark_unsent(SOURCE, lane, from_seq=None) == 3
        assert ids(await pending(store)) == [1, 2, 3, 4, 5]

    async def test_what_others_published_is_adopted_once_and_never_what_is_known(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        rows = await published(store, envelope(1))
        await arrives(store, envelope(2))
        await sent(store, *rows)

        assert not await message_store.adopt(envelope(1), known_to=[])
        assert not await message_store.adopt(envelope(2), known_to=[OTHER, LISTENER])
        assert await message_store.adopt(envelope(2), known_to=[OTHER])
        assert [await message_store.adopt(envelope(3, key="a"), known_to=[LISTENER]) for _ in range(2)] == [True, False]
        assert ids(await pending(store)) == [2, 3]

    async def test_sent_rows_are_pruned_by_age_and_what_is_not_sent_stays(self, store: StoreUnderTest) -> None:
        rows = await published(store, *(envelope(number, key="a") for number in range(1, 8)))
        await sent(store, *rows[:6])
        message_store = store.message_store()

        assert await pruned(store, seconds=AN_HOUR_S) == Pruned()
        assert len(await message_store.newest_sent(SOURCE, rows[0].lane, limit=10)) == 6
        assert await pruned(store, seconds=ANY_AGE_S) == Pruned(rows=6)
        assert await message_store.newest_sent(SOURCE, rows[0].lane, limit=10) == []
        assert ids(await pending(store)) == [7]

    async def test_of_too_many_sent_rows_the_first_sent_go(self, store: StoreUnderTest) -> None:
        await _first_sent_go(store, rows=20)

    async def test_of_too_many_bytes_of_sent_rows_the_first_sent_go(self, store: StoreUnderTest) -> None:
        await _first_sent_go(store, bytes=20_000)

    async def test_the_backlog_is_what_is_not_sent_and_what_most_wait_behind(self, store: StoreUnderTest) -> None:
        assert await store.message_store().backlog() == Backlog(unsent=0, oldest_unsent_s=None)
        rows = await published(store, *map(envelope, range(1, 6)))
        await store.message_store().set_aside(rows[0].position, "never to be sent")
        await sent(store, rows[1])
        for number, key in ((1, "a"), (2, "b"), (3, "b"), (4, None)):
            await waits(store, delivery(number, key=key))

        backlog = await store.message_store().backlog()

        assert (backlog.unsent, backlog.longest) == (3, 2)
        assert (backlog.longest_key, backlog.longest_consumer) == ("b", LISTENER)
        assert backlog.oldest_unsent_s is not None
        assert 0.0 <= backlog.oldest_unsent_s < 600.0

    async def test_a_database_belongs_to_one_running_service(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        await message_store.describe("shop", "{}")
        await message_store.beat(ONE, lease_s=LEASE_S)

        try:
            await message_store.describe("stock", "{}")
        except ConfigurationError as refused:
            assert "'shop' runs on it" in str(refused)  # noqa: PT017  # no test runner is imported here
        else:
            raise AssertionError("two services run on one database")
        await message_store.describe("shop", "{}")  # another process of the same
        await message_store.leave(ONE)
        await message_store.describe("stock", "{}")  # it has another name now

    async def test_a_listener_is_registered_once_and_found_by_its_earlier_names(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        first = await message_store.register("shop", [_in_code("pack")])
        again = await message_store.register("shop", [_in_code("wrap", "pack")])
        at_last = await message_store.register("shop", [_in_code("envelop", "wrap")])

        consumers = [first["pack"].consumer, again["wrap"].consumer, at_last["envelop"].consumer]
        assert consumers == ["shop/pack"] * 3
        assert first["pack"].joined is None
        assert at_last["envelop"].joined is None

    async def test_to_a_listener_that_joins_later_what_others_had_handled_is_known(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        await message_store.register("shop", [_in_code("pack")])
        async with unit(store) as tx:
            await tx.inbox.arrive("shop/pack", [envelope(1), envelope(2, key="a", seq=1)], idle_s=IDLE_S)
        found = await message_store.register("shop", [_in_code("pack"), _in_code("count")])
        joined = found["count"].joined
        assert joined is not None
        assert found["pack"].joined is None
        async with unit(store) as tx:
            inbox = store.inbox(tx.work, {"shop/count": joined})
            arrived = [envelope(2, key="a", seq=1), envelope(3, key="a", seq=2), envelope(1), envelope(4)]
            seen = await inbox.arrive("shop/count", arrived, idle_s=IDLE_S)
            assert [one.known for one in seen] == [True, False, True, False]

    async def test_a_past_that_would_be_lost_is_refused_until_it_is_retired(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        await message_store.register("shop", [_in_code("pack")])
        await message_store.register("shop", [_in_code("wrap")])  # nothing was handled: nothing is lost
        await message_store.register("shop", [_in_code("pack")])
        async with unit(store) as tx:
            await tx.inbox.arrive("shop/pack", [envelope(1)], idle_s=IDLE_S)

        async def refused(listener: ListenerInCode) -> str:
            try:
                await message_store.register("shop", [listener])
            except ConfigurationError as error:
                return str(error)
            raise AssertionError("a past is lost")

        assert 'earlier_names=("pack",)' in await refused(_in_code("count"))
        assert 'retired=["pack"]' in await refused(_in_code("count"))
        await message_store.register("shop", [_in_code("count")], retired=["pack"])
        await message_store.register("shop", [_in_code("count")])  # that was written down
        async with unit(store) as tx:
            await tx.inbox.arrive("shop/count", [envelope(2)], idle_s=IDLE_S)
        assert "can keep only one" in await refused(_in_code("count", "pack"))

    # Lanes

    async def test_a_free_lane_is_taken_by_one_and_under_a_new_epoch(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        seen = await message_store.beat(ONE, lease_s=LEASE_S)
        rows, members = seen.rows, seen.members
        assert (sorted(row.lane for row in rows), {row.owner for row in rows}, set(members)) == (
            ALL_LANES,
            {None},
            {ONE},
        )
        seen = {row.lane: row.epoch for row in rows if row.lane < 2}

        got = await message_store.take(ONE, seen)
        assert got == {lane: epoch + 1 for lane, epoch in seen.items()}
        assert await message_store.take(TWO, seen) == {}

        seen = await message_store.beat(TWO, lease_s=LEASE_S)
        rows, members = seen.rows, seen.members
        assert {row.lane: row.epoch for row in rows if row.owner == ONE} == got
        assert all(0 < row.lease_left_s <= LEASE_S for row in rows if row.owner == ONE)
        assert set(members) == {ONE, TWO}

    async def test_a_lease_that_ended_counts_no_more_and_its_lanes_can_be_taken(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        mine = await owned(store, ONE)
        await message_store.beat(ONE, lease_s=ANY_AGE_S)

        seen = await message_store.beat(TWO, lease_s=LEASE_S)
        rows, members = seen.rows, seen.members
        assert set(members) == {TWO}
        assert not any(row.owner_alive for row in rows)
        assert await message_store.take(TWO, {Lane(0): mine[Lane(0)]}) == {Lane(0): mine[Lane(0)] + 1}

    async def test_lanes_are_given_back_by_their_owner_only(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        await owned(store, ONE)
        await message_store.give_back(TWO, ALL_LANES)
        await message_store.give_back(ONE, [Lane(0), Lane(1)])

        seen = await message_store.beat(TWO, lease_s=LEASE_S)
        rows, members = seen.rows, seen.members
        assert [row.lane for row in rows if row.owner is None] == [0, 1]
        await message_store.leave(ONE)
        seen = await message_store.beat(TWO, lease_s=LEASE_S)
        rows, members = seen.rows, seen.members
        assert ({row.owner for row in rows}, set(members)) == ({None}, {TWO})

    # The inbox

    async def test_an_event_is_new_once_for_each_listener(self, store: StoreUnderTest) -> None:
        assert [await arrives(store, envelope(1)) for _ in range(2)] == [None, "known"]
        assert await arrives(store, envelope(1), OTHER) is None
        async with unit(store) as tx:
            assert not await tx.inbox.first_time(LISTENER, SOURCE, "event-1")
            assert await tx.inbox.first_time(LISTENER, "elsewhere", "event-1")

    async def test_several_arrive_at_once_each_with_its_own_past(self, store: StoreUnderTest) -> None:
        await arrives(store, envelope(1, key="a", seq=1))
        await arrives(store, envelope(2, key="b", seq=7))
        await waits(store, delivery(3, key="c"))

        async with unit(store) as tx:
            several = [
                envelope(9),
                envelope(8, key="c", seq=2),
                envelope(1, key="a", seq=1),
                envelope(7, key="b", seq=8),
            ]
            found = await tx.inbox.arrive(LISTENER, several, idle_s=IDLE_S)

        assert [one.known for one in found] == [False, False, True, False]
        assert [one.parked for one in found] == [False, True, False, False]
        assert [without_times(one.position) for one in found] == [None, None, None, Position(7, "first")]

    async def test_a_second_copy_waits_for_the_outcome_of_the_first(self, store: StoreUnderTest) -> None:
        async with unit(store) as first:
            await first.inbox.arrive(LISTENER, [envelope(1)], idle_s=IDLE_S)
            second = await _waits(arrives(store, envelope(1)))
        assert await second == "known"

        async with rolled_back(store) as first:
            await first.inbox.arrive(LISTENER, [envelope(2)], idle_s=IDLE_S)
            second = await _waits(arrives(store, envelope(2)))
        assert await second is None

    async def test_the_last_number_of_a_key_is_remembered_and_never_lowered(self, store: StoreUnderTest) -> None:
        assert await arrives(store, envelope(1, key="a", seq=3)) is None
        assert await arrives(store, envelope(2, key="a", seq=5)) == Position(3, "first")
        assert await arrives(store, envelope(3, key="a", seq=4)) == Position(5, "first")
        assert await arrives(store, envelope(4, key="a")) == Position(5, "first")
        assert await arrives(store, envelope(5, key="a", seq=1), OTHER) is None
        assert await arrives(store, envelope(6, key="a", seq=1, incarnation="second")) == Position(5, "first")
        assert await arrives(store, envelope(7, key="a", seq=2, incarnation="second")) == Position(1, "second")

    async def test_of_the_last_event_of_a_key_its_two_times_are_known(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            await tx.inbox.arrive(LISTENER, [envelope(1, key="a", seq=1)], idle_s=IDLE_S)
            await tx.inbox.move(LISTENER, envelope(2, key="b", seq=1))
        await asyncio.sleep(0.05)
        async with unit(store) as tx:
            later = [envelope(3, key="a", seq=2), envelope(4, key="b", seq=2)]
            found = [one.position for one in await tx.inbox.arrive(LISTENER, later, idle_s=IDLE_S)]
        for position in found:
            assert position is not None
            assert position.occurred_at == _SOME_DAY.timestamp()
            assert 0.0 < position.since_s < 3600, "by the store's clock"

    async def test_whoever_waited_for_another_event_of_the_key_knows_it(self, store: StoreUnderTest) -> None:
        await arrives(store, envelope(1, key="a", seq=1))
        async with unit(store) as first:
            await first.inbox.arrive(LISTENER, [envelope(3, key="a", seq=3)], idle_s=IDLE_S)
            second = await _waits(arrives(store, envelope(2, key="a", seq=2)))
        assert await second == Position(3, "first")

    async def test_what_is_old_is_forgotten_in_portions_but_no_effect_in_doubt(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            await tx.inbox.begin_effect(LISTENER, SOURCE, "mail")
            await tx.inbox.mark_started(LISTENER, SOURCE, "event-1")
            await tx.inbox.arrive(LISTENER, [envelope(number) for number in range(1, 6)], idle_s=IDLE_S)
        message_store = store.message_store()

        assert await message_store.prune_inbox(older_than_s=AN_HOUR_S, limit=10) == 0
        assert await arrives(store, envelope(1)) == "known"
        assert [await message_store.prune_inbox(older_than_s=ANY_AGE_S, limit=3) for _ in range(3)] == [3, 2, 0]
        assert await arrives(store, envelope(1)) is None
        async with unit(store) as tx:
            assert await tx.inbox.is_in_doubt(LISTENER, SOURCE, "mail")
            assert await tx.inbox.mark_started(LISTENER, SOURCE, "event-1") == 1

    # Effects and marks

    async def test_an_effect_is_in_doubt_until_it_is_known_how_it_ended(self, store: StoreUnderTest) -> None:
        async def begin() -> str:
            async with unit(store) as tx:
                return await tx.inbox.begin_effect(LISTENER, SOURCE, "event-1")

        await arrives(store, envelope(1))
        assert [await begin(), await begin()] == ["first", "in_doubt"]
        async with unit(store) as tx:
            await tx.inbox.end_effect(LISTENER, SOURCE, "event-1")
            assert not await tx.inbox.is_in_doubt(LISTENER, SOURCE, "event-1")
        assert await arrives(store, envelope(1)) == "known"
        assert await begin() == "first"

    async def test_beginnings_without_an_outcome_are_counted(self, store: StoreUnderTest) -> None:
        async def mark() -> int:
            async with unit(store) as tx:
                return await tx.inbox.mark_started(LISTENER, SOURCE, "event-1")

        assert [await mark(), await mark()] == [1, 2]
        async with unit(store) as tx:
            await tx.inbox.unmark_started(LISTENER, SOURCE, "event-1")
        assert await mark() == 1

    # Both

    async def test_whether_there_is_work_is_said_for_these_lanes(self, store: StoreUnderTest) -> None:
        messages, to_send, waiting = store.message_store(), envelope(1), delivery(2)
        assert [await messages.work(lanes) for lanes in (ALL_LANES, [])] == [Work(False, False)] * 2

        (row,) = await published(store, to_send)
        others = [lane for lane in ALL_LANES if lane != row.lane]
        assert [await messages.work(lanes) for lanes in ([row.lane], others)] == [Work(True, False), Work(False, False)]

        await sent(store, row)
        await waits(store, waiting, delay_s=AN_HOUR_S, error="no")
        assert await messages.work(ALL_LANES) == Work(False, False), "not due yet"

        await waits(store, delivery(3), delay_s=-1.0, error="no")
        others = [lane for lane in ALL_LANES if lane != lane_of(envelope(3))]
        assert [await messages.work(lanes) for lanes in (ALL_LANES, others)] == [Work(False, True), Work(False, False)]

    # The waiting room

    async def test_what_is_published_for_a_durable_listener_is_due_at_once(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            tx.publish(envelope(1, key="a"), envelope(2), consumer=LISTENER)

        first, second = sorted(await due(store), key=lambda one: one.event_id)
        assert (first.consumer, first.source, first.key, first.channel) == (LISTENER, SOURCE, "a", "")
        assert (first.lane, first.attempts) == (lane_of(envelope(1, key="a")), 0)
        assert from_json(first.message).key_seq == 1
        assert ids([second]) == [2]
        assert await pending(store) == []

    async def test_only_what_is_due_in_these_lanes_comes_out_the_longest_due_first(self, store: StoreUnderTest) -> None:
        for number, delay_s in ((1, -10.0), (2, -30.0), (3, AN_HOUR_S), (4, -20.0)):
            await waits(store, delivery(number), delay_s=delay_s, error="no")

        assert ids(await due(store)) == [2, 4, 1]
        assert ids(await due(store, limit=1)) == [2]
        lanes = [lane for lane in ALL_LANES if lane != lane_of(envelope(2))]
        assert 2 not in ids(await store.message_store().due(lanes, limit=10))
        assert not await store.message_store().due([], limit=10)

    async def test_of_a_key_only_the_head_comes_out_and_the_next_when_it_is_gone(self, store: StoreUnderTest) -> None:
        await waits(store, delivery(1, key="a"), delay_s=AN_HOUR_S, error="no")
        await waits(store, delivery(2, key="a"), delivery(3, key="a"))
        await waits(store, delivery(1, key="a", consumer=OTHER), delay_s=-1.0, error="no")
        await waits(store, delivery(4, key="b"), delivery(5), delay_s=-1.0, error="no")
        assert [(one.consumer, one.key) for one in await due(store)] == [
            (OTHER, "a"),
            (LISTENER, "b"),
            (LISTENER, None),
        ]

        await waits(store, delivery(1, key="a"), delay_s=-1.0, error="no")
        for number in (1, 2, 3):
            head = next(one for one in await due(store) if (one.consumer, one.key) == (LISTENER, "a"))
            assert ids([head]) == [number]
            async with unit(store) as tx:
                assert await tx.inbox.claim(head, idle_s=IDLE_S)
                await tx.inbox.release_next(head)
        assert 3 not in ids(await due(store))

    async def test_whatever_comes_behind_a_head_that_has_gone_is_due_at_once(self, store: StoreUnderTest) -> None:
        await waits(store, delivery(1, key="a"))
        assert ids(await due(store)) == [1]

    async def test_a_head_that_failed_for_good_holds_its_key_until_it_is_forgotten(self, store: StoreUnderTest) -> None:
        await waits(store, delivery(1, key="a"), error="ValueError: no")
        await waits(store, delivery(2, key="a"))
        assert await due(store) == []

        async with unit(store) as tx:
            await tx.inbox.remove(delivery(1, key="a"))
            await tx.inbox.release_next(delivery(1, key="a"))
        assert ids(await due(store)) == [2]

    async def test_a_waiting_delivery_is_claimed_by_one_and_is_back_if_that_one_fails(
        self, store: StoreUnderTest
    ) -> None:
        await waits(store, delivery(1))
        (row,) = await due(store)

        async def claim() -> bool:
            async with unit(store) as tx:
                return await tx.inbox.claim(row, idle_s=IDLE_S)

        async with rolled_back(store) as tx:
            assert await tx.inbox.lock(row)
            assert await tx.inbox.claim(row, idle_s=IDLE_S)
        assert ids(await due(store)) == [1]
        async with unit(store) as tx:
            assert await tx.inbox.claim(row, idle_s=IDLE_S)
            second = await _waits(claim())
        assert not await second
        async with unit(store) as tx:
            assert not await tx.inbox.lock(row)

    async def test_a_delivery_that_fails_again_keeps_its_place_and_when_it_first_failed(
        self, store: StoreUnderTest
    ) -> None:
        await waits(store, delivery(1, key="a"), delay_s=-1.0, error="no")
        (before,) = await due(store)
        await _the_clock_moves_on()
        await waits(store, replace(before, attempts=5), delay_s=-1.0, error="no")

        (after,) = await due(store)
        assert before.first_failed_at is not None
        assert after == replace(before, attempts=5)

    async def test_whoever_read_a_delivery_before_it_was_tried_does_not_get_it(self, store: StoreUnderTest) -> None:
        for number, delay_s in ((1, None), (2, AN_HOUR_S), (3, -1.0)):
            await waits(store, delivery(number, key=str(number)), delay_s=-1.0, error="no")
            (read,) = await due(store)
            await waits(store, replace(read, attempts=read.attempts + 1), delay_s=delay_s, error="no")

            async with unit(store) as tx:
                assert not await tx.inbox.lock(read)
                assert not await tx.inbox.claim(read, idle_s=IDLE_S)

    async def test_a_delivery_in_trouble_waits_with_its_attempts_as_they_were(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            await tx.inbox.give_back(
                replace(delivery(1, key="a"), attempts=2, troubles=1), delay_s=-1.0, cause="away\0 for now"
            )
        await waits(store, delivery(2, key="a"), delay_s=None, error=None)
        (first,) = await due(store)
        assert (first.attempts, first.troubles, first.event_id) == (2, 1, "event-1")

        async with unit(store) as tx:
            assert await tx.inbox.lock(first)
            await tx.inbox.give_back(replace(first, attempts=9, troubles=2), delay_s=-1.0, cause="away")
        (again,) = await due(store)
        assert again == replace(first, troubles=2)

        await waits(store, replace(again, attempts=3), delay_s=-1.0, error="its own")
        assert [(one.attempts, one.troubles) for one in await due(store)] == [(3, 2)], "it stays known"
        async with unit(store) as tx:
            await tx.inbox.give_back(replace(again, attempts=3, troubles=3), delay_s=AN_HOUR_S, cause="away")
        assert await due(store) == [], "its key waits behind it"

    # Dead letters

    async def test_a_dead_letter_holds_what_was_known_and_keeps_its_id_through_a_replay(
        self, store: StoreUnderTest
    ) -> None:
        async def die(failure: Failure) -> None:
            async with unit(store) as tx:
                await tx.inbox.write_dead_letter(delivery(1, key="a"), "shop.counted", failure)

        async def come_back() -> bool:
            async with unit(store) as tx:
                return await tx.inbox.remove_dead_letter(delivery(1, key="a"))

        await die(FAILURE)
        (letter,) = await store.message_store().dead()
        assert (letter.consumer, letter.source, letter.event_id, letter.name, letter.key) == (
            LISTENER, SOURCE, "event-1", "shop.counted", "a",
        )  # fmt: skip
        assert (letter.reason, letter.error, letter.attempts, letter.worker) == (
            FAILURE.reason, FAILURE.error, FAILURE.attempts, FAILURE.worker,
        )  # fmt: skip
        assert from_json(letter.message).id == "event-1"

        await _the_clock_moves_on()
        await die(replace(FAILURE, reason="rejected", attempts=4))
        (again,) = await store.message_store().dead()
        assert again == replace(letter, reason="rejected", attempts=4, last_at=again.last_at)
        assert again.last_at > letter.last_at

        assert [await come_back(), await come_back()] == [True, False]
        assert await store.message_store().dead() == []
        await die(FAILURE)
        assert [one.id for one in await store.message_store().dead()] == [letter.id]

    async def test_whatever_text_trouble_has_is_taken_and_can_be_shown(self, store: StoreUnderTest) -> None:
        hostile = "a\0b \ud800 \x1b[2J\n\u202e" + "x" * 100_000
        failure = replace(FAILURE, error=hostile, stack=hostile, worker=hostile, version=hostile)
        async with unit(store) as tx:
            await tx.inbox.keep(delivery(1), delay_s=-1.0, error=hostile)
            await tx.inbox.keep(delivery(1), delay_s=-1.0, error=hostile)
            await tx.inbox.keep(replace(delivery(2, key="a"), channel=hostile), delay_s=None, error=hostile)
            await tx.inbox.write_dead_letter(replace(delivery(3), channel=hostile), hostile, failure)
        await store.message_store().set_aside((await published(store, envelope(4)))[0].position, hostile)

        assert ids(await due(store)) == [1]
        (letter,) = await store.message_store().dead()
        shown = (letter.name, letter.channel, letter.error, letter.worker)
        assert all(len(one) <= 2_000 and one.startswith(r"a\x00b \ud800 \x1b[2J\n\u202e") for one in shown)
        assert letter.stack is not None
        assert set(letter.stack) == {"x"}  # of a stack the end says most

    async def test_dead_letters_are_listed_the_longest_dead_first(self, store: StoreUnderTest) -> None:
        for number in (2, 1, 3):
            async with unit(store) as tx:
                await tx.inbox.write_dead_letter(delivery(number), "shop.counted", FAILURE)
            await _the_clock_moves_on()

        assert [one.event_id for one in await store.message_store().dead(limit=2)] == ["event-2", "event-1"]

    async def test_dead_letters_that_hold_no_key_are_forgotten_when_they_are_old(self, store: StoreUnderTest) -> None:
        async with unit(store) as tx:
            for number, key in ((1, None), (2, "a"), (3, None)):
                await tx.inbox.write_dead_letter(delivery(number, key=key), "shop.counted", FAILURE)
            await tx.inbox.keep(delivery(2, key="a"), delay_s=None, error="no")
        await _the_clock_moves_on()
        forget = store.message_store().prune_dead

        assert await forget(older_than_s=AN_HOUR_S, limit=9) == 0
        assert [await forget(older_than_s=ANY_AGE_S, limit=1) for _ in range(3)] == [1, 1, 0]
        assert [one.event_id for one in await store.message_store().dead()] == ["event-2"]

    async def test_of_a_message_beyond_all_bounds_the_beginning_is_kept(self, store: StoreUnderTest) -> None:
        large = b"x" * 1_000_000
        async with unit(store) as tx:
            await tx.inbox.write_dead_letter(replace(delivery(1), message=large), "?", FAILURE)

        (letter,) = await store.message_store().dead()
        assert letter.message == large[:KEPT_BYTES]
        assert letter.whole == Whole(len(large), sha256(large).hexdigest())

    async def test_what_is_postponed_is_no_attempt_and_due_when_its_lane_is_looked_at_again(
        self, store: StoreUnderTest
    ) -> None:
        message_store = store.message_store()
        for reasons in ("once", "twice"):
            async with unit(store) as tx:
                await tx.inbox.postpone(
                    delivery(1, key="a"), until_s=AN_HOUR_S, reason="newer version", error=f"no, {reasons}"
                )
        async with unit(store) as tx:
            await tx.inbox.keep(delivery(2, key="a"), delay_s=None, error=None)
            waited_s = [await tx.inbox.waited_s(delivery(number)) for number in (1, 2)]

        assert 0 <= waited_s[0] < AN_HOUR_S
        assert waited_s[1] == 0
        assert (await message_store.backlog()).newer_version == 1
        assert ids(await due(store)) == []
        await message_store.look_again(ALL_LANES)
        (again,) = await due(store)
        assert (again.event_id, again.attempts) == ("event-1", 0)
        async with unit(store) as tx:
            assert await tx.inbox.lock(again)
            await tx.inbox.keep(again, delay_s=AN_HOUR_S, error="failed")
        await message_store.look_again(ALL_LANES)
        assert ids(await due(store)) == []
        assert (await message_store.backlog()).newer_version == 0

    # What is kept for ever

    async def test_where_a_group_began_and_which_database_this_is_never_change(self, store: StoreUnderTest) -> None:
        message_store = store.message_store()
        assert [await message_store.since(SOURCE, start) for start in ("7-0", "9-0")] == ["7-0", "7-0"]
        assert await message_store.since("elsewhere", "9-0") == "9-0"
        for _ in range(2):
            await message_store.describe("shop", "{}")
            assert await message_store.since(SOURCE, "9-0") == "7-0"
        await message_store.describe("store", "{}")  # the same service under another name, and another group therefore
        assert [await message_store.since(topic, "11-0") for topic in (SOURCE, "elsewhere")] == ["11-0", "11-0"]
        incarnation = await message_store.incarnation()
        await store.prepare()
        assert await store.message_store().incarnation() == incarnation


async def _write_everything(tx: Unit) -> None:
    inbox = tx.inbox
    tx.publish(envelope(1, key="outbox"))
    await inbox.arrive(LISTENER, [envelope(2, key="a", seq=4)], idle_s=IDLE_S)
    await inbox.first_time(LISTENER, SOURCE, "inside")
    await inbox.begin_effect(LISTENER, SOURCE, "mail")
    await inbox.mark_started(LISTENER, SOURCE, "event-2")
    await inbox.keep(delivery(3, key="head"), delay_s=-1.0, error="no")
    await inbox.write_dead_letter(delivery(4, key="dead"), "shop.counted", FAILURE)


async def _everything(store: StoreUnderTest) -> tuple[object, ...]:
    """What `_write_everything` left, table by table."""
    message_store = store.message_store()
    async with rolled_back(store) as tx:
        doubt = await tx.inbox.begin_effect(LISTENER, SOURCE, "mail")
        marks = await tx.inbox.mark_started(LISTENER, SOURCE, "event-2")
        (found,) = await tx.inbox.arrive(LISTENER, [envelope(5, key="a", seq=5)], idle_s=IDLE_S)
    known = await _known(store, "inside")
    assert without_times(found.position) == (Position(4, "first") if known else None)
    return (
        [row.key for row in await pending(store)],
        [one.key for one in await due(store)],
        [one.key for one in await message_store.dead()],
        "known" if known else "new",
        "in doubt" if doubt == "in_doubt" else doubt,
        marks,
    )


async def _known(store: StoreUnderTest, event_id: str) -> bool:
    async with rolled_back(store) as tx:
        new = await tx.inbox.first_time(LISTENER, SOURCE, event_id)
    return not new
