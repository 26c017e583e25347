"""When a listener is tried again, and when it is not any more."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf, nan

import pytest
from cauce import DomainEvent, Reject, Retry, RetryAfter, Service, on
from cauce.errors import DefinitionError
from cauce.stores.memory import MemoryStore
from cauce.testing import story
from hypothesis import given
from hypothesis import strategies as st


class Asked(DomainEvent, name="retries.asked", version=1, key="of"):
    of: str


Listening = Callable[[Asked], Awaitable[None]]
FAILED = ValueError("no")


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1), base=st.floats(0.001, 1e6), cap=st.floats(0, 1e6))
def test_a_delay_is_anything_up_to_a_bound_that_doubles_until_its_cap(
    attempt: int, chance: float, base: float, cap: float
) -> None:
    delay_s = Retry(attempts=attempt + 1, base=base, cap=cap).delay_s(attempt, FAILED, random=lambda: chance)

    bound = base
    for _ in range(attempt - 1):
        bound = min(bound * 2, 1e12)  # beyond every cap
    assert delay_s == pytest.approx(chance * min(cap, bound))


def test_the_bounds_of_the_default_in_seconds() -> None:
    bounds = [Retry().delay_s(attempt, FAILED, random=lambda: 1.0) for attempt in range(1, 9)]
    assert bounds == [1, 2, 4, 8, 16, 32, 64, None]


def test_retry_after_says_when_and_neither_it_nor_reject_gets_more_attempts() -> None:
    retry = Retry(attempts=2, base=1.0, cap=1.0)
    assert retry.delay_s(1, RetryAfter(900.0)) == 900.0, "not drawn, and beyond the cap"
    assert retry.delay_s(2, RetryAfter(900.0)) is None
    assert retry.delay_s(1, Reject("never")) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry(attempts=0),
        lambda: Retry(base=-1),
        lambda: Retry(cap=-1),
        lambda: Retry(cap=inf),
        lambda: Retry(base=10**400, cap=10**400),
        lambda: Retry(attempts=2.5),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Retry(attempts=inf),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Retry(base="1"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: RetryAfter(-0.1),
        lambda: RetryAfter(inf),
        lambda: RetryAfter(nan),
        lambda: RetryAfter(1_796_035_352),  # the time of day, in place of the seconds until then
        lambda: RetryAfter("5"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(make: Callable[[], object]) -> None:
    with pytest.raises(DefinitionError):
        make()


class Desk:
    """Raises what it is told to, or takes so many seconds, and remembers when it was asked."""

    def __init__(self, *answers: BaseException | float) -> None:
        self.asked_at: list[float] = []
        self._answers = iter(answers)

    async def __call__(self, event: Asked) -> None:
        self.asked_at.append(time.monotonic())
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        await asyncio.sleep(answer)


def front(desk: Desk, *, retry: Retry, limit_s: float = 30.0) -> tuple[Service, Listening]:
    @on(Asked, when="durable", name="desk", retry=retry, limit_s=limit_s)
    async def listen(event: Asked) -> None:
        await desk(event)

    return Service("front", modules=[listen], store=MemoryStore()), listen


async def test_a_listener_that_asks_for_time_is_called_when_it_is_over_and_then_continues() -> None:
    desk = Desk(RetryAfter(0.4, "the counter opens soon"), 0.0)
    service, listen = front(desk, retry=Retry(attempts=2, base=0.0, cap=0.0))
    async with story(service, limit_s=20) as s:
        await s.publish(Asked(of="ana"))
        assert isinstance(await s.failed(listen), RetryAfter)
        await s.until(lambda: service.counters["handled"] == 1)

    assert desk.asked_at[1] - desk.asked_at[0] >= 0.4


async def test_what_is_rejected_is_a_dead_letter_at_once_with_what_was_said() -> None:
    desk = Desk(Reject("there is no such counter"))
    service, listen = front(desk, retry=Retry(attempts=8))
    async with story(service, limit_s=20) as s:
        await s.publish(Asked(of="ana"))
        assert isinstance(await s.failed(listen), Reject)
        await s.until(lambda: service.counters["dead"] == 1)
        assert isinstance(service.store, MemoryStore)
        [dead] = await service.store.message_store().dead()

    assert (dead.reason, dead.attempts, dead.error) == ("rejected", 1, "Reject: there is no such counter")
    assert len(desk.asked_at) == 1


async def test_a_listener_that_takes_longer_than_its_limit_has_failed_once_and_is_tried_again() -> None:
    desk = Desk(60.0, 0.0)
    service, listen = front(desk, retry=Retry(attempts=2, base=0.0, cap=0.0), limit_s=0.1)
    async with story(service, limit_s=20) as s:
        await s.publish(Asked(of="ana"))
        assert isinstance(await s.failed(listen), TimeoutError)
        await s.until(lambda: service.counters["handled"] == 1)

    assert len(desk.asked_at) == 2
