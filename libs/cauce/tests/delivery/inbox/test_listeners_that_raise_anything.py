"""Whatever a listener raises is an attempt of its own, with its real cause; the service and other keys go on."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from cauce import (
    AtMostOnce,
    DomainEvent,
    EffectNotDoneError,
    IntegrationEvent,
    Reject,
    Retry,
    RetryAfter,
    Service,
    Transaction,
    on,
)
from cauce.listeners.retry import decisive_error
from cauce.ports.inbox import Dead
from cauce.stores.memory import MemoryStore
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.transports.memory import MemoryTransport
from cauce.transports.memory_streams import MemoryStreams
from testsupport.waiting import until

QUICK = Retry(attempts=2, base=0.001, cap=0.001)


class Came(DomainEvent, name="odd.came"):
    who: str


class Sold(IntegrationEvent, name="odd.sold", version=1, source="shop-ms", key="who"):
    who: str


class MyStop(BaseException):
    """One's own, and no Exception."""


Store = MemoryStore | SqlAlchemyStore


# What a listener may do


async def system_exit() -> None:
    raise SystemExit(3)


async def one_of_its_own() -> None:
    raise MyStop("mine")


async def generator_exit() -> None:
    raise GeneratorExit


async def cancelled_error() -> None:
    raise asyncio.CancelledError


async def cancels_its_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def cancels_its_task_and_returns() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def stop_iteration() -> None:
    next(iter(()))


async def stop_async_iteration() -> None:
    raise StopAsyncIteration


async def a_group_with_one() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one_of_its_own())


async def a_group_made_by_hand() -> None:
    raise BaseExceptionGroup("several", [ValueError("a value"), BaseExceptionGroup("inner", [SystemExit(4)])])


ODD: dict[Callable[[], Awaitable[None]], str] = {
    system_exit: "SystemExit",
    one_of_its_own: "MyStop",
    generator_exit: "GeneratorExit",
    cancelled_error: "cancelled",
    cancels_its_task: "cancelled",
    cancels_its_task_and_returns: "cancelled",
    stop_iteration: "StopIteration",
    stop_async_iteration: "StopAsyncIteration",
    a_group_with_one: "MyStop",
    a_group_made_by_hand: "ValueError: a value",
}


class Listens:
    """Does something odd for `bad` and for the names in ODD, and remembers the others."""

    def __init__(self, do: Callable[[], Awaitable[None]] | None = None) -> None:
        self._odd = {one.__name__: one for one in ODD} | ({"bad": do} if do else {})
        self.heard: list[str] = []

    async def hear(self, who: str) -> None:
        if who in self._odd:
            await self._odd[who]()
        else:
            self.heard.append(who)


class Arrives(Listens):
    @on(Sold, name="odd", retry=QUICK)
    async def sold(self, event: Sold, tx: Transaction) -> None:
        await self.hear(event.who)


class Shares(Listens):
    @on(Sold, name="odd", retry=QUICK, shared_transaction=True)
    async def sold(self, event: Sold, tx: Transaction) -> None:
        await self.hear(event.who)


class Durable(Listens):
    @on(Came, name="odd", when="durable", retry=QUICK)
    async def came(self, event: Came, tx: Transaction) -> None:
        await self.hear(event.who)


class Outside(Listens):
    @on(Came, name="odd", when="durable", retry=QUICK, effect=AtMostOnce())
    async def came(self, event: Came) -> None:
        await self.hear(event.who)


class AfterCommit(Listens):
    @on(Came, name="odd", when="after_commit")
    async def came(self, event: Came) -> None:
        await self.hear(event.who)


class AfterCommitInTransaction(Listens):
    @on(Came, name="odd", when="after_commit")
    async def came(self, event: Came, tx: Transaction) -> None:
        await self.hear(event.who)


class InTransaction(Listens):
    @on(Came, name="odd")
    async def came(self, event: Came, tx: Transaction) -> None:
        await self.hear(event.who)


async def dead_letters_of(
    module: Listens, event: Callable[..., Any], store: Store, bad: Sequence[str] = ("bad",)
) -> Sequence[Dead]:
    """Publish good events around bad ones; return the letters when all are settled, the service still running."""
    service = Service(
        "shop-ms", modules=[module], store=store, transport=MemoryStreams(), publishes=[Sold], start="retained"
    )
    async with service:
        async with service.transaction() as tx:
            for who in ("before", *bad, "after"):
                await tx.publish(event(who=who))
        await until(lambda: service.counters["dead"] == len(bad) and service.counters["handled"] == 2)
        assert set(module.heard) == {"after", "before"}
        assert service.running
        assert service.readiness() == {}
        return await store.message_store().dead()


@pytest.mark.parametrize(("kind", "event"), [(Arrives, Sold), (Shares, Sold), (Durable, Came)])
async def test_odd_errors_are_failed_attempts_and_then_dead_letters(
    kind: type[Listens], event: Callable[..., Any], store: Store
) -> None:
    letters = await dead_letters_of(kind(), event, store, bad=[do.__name__ for do in ODD])
    assert [(one.reason, one.attempts) for one in letters] == [("exhausted", 2)] * len(ODD)
    told = [f"{one.error}\n{one.stack}" for one in letters]
    for do, text in ODD.items():
        deeper = do in (cancels_its_task_and_returns, a_group_with_one, a_group_made_by_hand)  # or raised nowhere
        assert any(text in one and (deeper or f"in {do.__name__}" in one) for one in told), do


async def test_odd_errors_of_an_effect_at_most_once_leave_it_uncertain() -> None:
    letters = await dead_letters_of(Outside(), Came, MemoryStore(), bad=[do.__name__ for do in ODD])
    assert [(one.reason, one.attempts) for one in letters] == [("uncertain", 1)] * len(ODD)


async def test_more_odd_errors_than_there_are_workers_stop_nothing() -> None:
    letters = await dead_letters_of(Durable(cancels_its_task), Came, MemoryStore(), bad=["bad"] * 20)
    assert len(letters) == 20


@pytest.mark.parametrize("kind", [AfterCommit, AfterCommitInTransaction])
async def test_odd_errors_after_the_commit_are_logged_and_counted(
    kind: type[Listens], caplog: pytest.LogCaptureFixture
) -> None:
    module = kind()
    async with Service("shop-ms", modules=[module]) as service:
        for who in (*(do.__name__ for do in ODD), "good"):
            async with service.transaction() as tx:
                await tx.publish(Came(who=who))
        await service.idle()
        assert service.running
    assert module.heard == ["good"]
    assert (service.counters["failed"], service.counters["handled"]) == (len(ODD), 1)
    lines = [one.getMessage() for one in caplog.records if one.name == "cauce.service"]
    assert len([one for one in lines if one.startswith("shop-ms: odd failed on odd.came ")]) == len(ODD)


async def test_odd_errors_over_pubsub_are_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    module = Arrives()
    service = Service("shop-ms", modules=[module], transport=MemoryTransport(), publishes=[Sold])
    async with service:
        for who in (*(do.__name__ for do in ODD), "good"):
            await service.publish(Sold(who=who), outside=True)
        await until(lambda: service.counters["failed"] == len(ODD) and service.counters["handled"] == 1)
        assert service.running
    assert module.heard == ["good"]
    assert len([one for one in caplog.records if "odd failed on odd.sold " in one.getMessage()]) == len(ODD)


@pytest.mark.parametrize(
    "do",
    [system_exit, one_of_its_own, generator_exit, cancelled_error, a_group_made_by_hand],
    ids=lambda do: do.__name__,
)
async def test_an_odd_error_at_publish_reaches_the_publisher_as_an_exception(
    do: Callable[[], Awaitable[None]],
) -> None:
    module = InTransaction(do)
    async with Service("shop-ms", modules=[module]) as service:
        with pytest.raises(Exception, match=r"odd raised|cancelled|several"):
            async with service.transaction() as tx:
                await tx.publish(Came(who="bad"))
        async with service.transaction() as tx:
            await tx.publish(Came(who="good"))
    assert module.heard == ["good"]


# What ends a task or the program still does


async def test_a_publisher_that_is_cancelled_is_cancelled() -> None:
    began = asyncio.Event()

    async def waits() -> None:
        began.set()
        await asyncio.Event().wait()

    service = Service("shop-ms", modules=[InTransaction(waits)])

    async def publish() -> None:
        async with service.transaction() as tx:
            await tx.publish(Came(who="bad"))

    async with service, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(publish())
        await began.wait()
        task.cancel()
    assert task.cancelled()


@pytest.mark.parametrize("kind", [Durable, AfterCommit])
async def test_a_listener_that_waits_for_ever_does_not_outlast_the_drain(kind: type[Listens]) -> None:
    began = asyncio.Event()
    ended: list[type[BaseException]] = []

    async def waits() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(type(error))
            raise

    service = Service("shop-ms", modules=[kind(waits)], store=MemoryStore(), drain_limit_s=0.01)
    async with service:
        async with service.transaction() as tx:
            await tx.publish(Came(who="bad"))
        await began.wait()
    assert ended == [asyncio.CancelledError]
    assert (service.counters["handled"], service.counters["failed"]) == (0, 0)


def test_ctrl_c_in_a_listener_ends_the_program() -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def run() -> None:
        async with Service("shop-ms", modules=[Durable(interrupted)], store=MemoryStore()) as service:
            async with service.transaction() as tx:
                await tx.publish(Came(who="bad"))
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run())
    gc.collect()


async def test_a_listener_past_its_limit_is_cancelled_and_has_failed() -> None:
    class Slow(Listens):
        @on(Came, name="odd", when="durable", retry=Retry(attempts=1), limit_s=0.02)
        async def came(self, event: Came) -> None:
            await self.hear(event.who)

    async def waits() -> None:
        await asyncio.Event().wait()

    [letter] = await dead_letters_of(Slow(waits), Came, MemoryStore())
    assert letter.error == "TimeoutError: it took longer than its limit_s of 0.02 s"


async def test_a_time_out_of_the_listeners_own_is_not_taken_for_its_limit() -> None:
    class Slow(Listens):
        @on(Came, name="odd", when="durable", retry=Retry(attempts=1))
        async def came(self, event: Came) -> None:
            await self.hear(event.who)

    async def waits() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    [letter] = await dead_letters_of(Slow(waits), Came, MemoryStore())
    assert letter.error == "TimeoutError"


# Groups


def in_a_task_group(*errors: Exception) -> Callable[[], Awaitable[None]]:
    async def fail(error: Exception) -> None:
        raise error

    async def inner() -> None:
        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(fail(error))

    async def several() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(inner())

    return several


@pytest.mark.parametrize(("kind", "event"), [(Arrives, Sold), (Durable, Came)])
async def test_a_rejection_inside_a_task_group_is_a_dead_letter_at_once(
    kind: type[Listens], event: Callable[..., Any], store: Store
) -> None:
    do = in_a_task_group(ValueError("beside it"), Reject("never"))
    [letter] = await dead_letters_of(kind(do), event, store)
    assert (letter.reason, letter.attempts, letter.error) == ("rejected", 1, "Reject: never")
    assert (letter.stack or "").rstrip().endswith("raise error")


async def test_the_dead_letter_of_a_group_shows_the_error_in_it_with_what_it_was_raised_from(store: Store) -> None:
    secret = "hunter2"

    async def connect() -> None:
        raise ConnectionRefusedError(secret)

    async def send() -> None:
        try:
            await connect()
        except OSError as error:
            raise RuntimeError("no mail left") from error

    async def several() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())

    [letter] = await dead_letters_of(Durable(several), Came, store)
    assert letter.error == "RuntimeError: no mail left"
    stack = letter.stack or ""
    first, _, last = stack.partition("ConnectionRefusedError\n↳ was the cause of:\n")
    assert "in connect" in first
    assert "in send" in last
    assert secret not in stack


def test_the_longest_retry_after_in_a_group_counts_and_a_rejection_beats_it() -> None:
    retry = Retry(attempts=5)
    later = ExceptionGroup("", [RetryAfter(3), ExceptionGroup("", [RetryAfter(7)]), ValueError()])
    assert retry.delay_s(1, later) == 7
    assert isinstance(decisive_error(later), RetryAfter)
    never = ExceptionGroup("", [later, Reject("no")])
    assert retry.delay_s(1, never) is None
    assert isinstance(decisive_error(never), Reject)


@pytest.mark.parametrize(
    ("errors", "reason", "attempts"),
    [
        ([EffectNotDoneError("sure")], "exhausted", 2),
        ([EffectNotDoneError("sure"), TimeoutError("not sure")], "uncertain", 1),
        ([Reject("no")], "rejected", 1),
        ([Reject("no"), TimeoutError("not sure")], "uncertain", 1),
    ],
    ids=["not done", "one may be done", "rejected", "rejected, one may be done"],
)
async def test_an_effect_at_most_once_is_repeated_only_if_every_error_of_a_group_says_it_is_not_done(
    errors: Sequence[Exception], reason: str, attempts: int
) -> None:
    [letter] = await dead_letters_of(Outside(in_a_task_group(*errors)), Came, MemoryStore())
    assert (letter.reason, letter.attempts) == (reason, attempts)
