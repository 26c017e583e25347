"""The pauses of a loop: how they grow, how they are scattered, and what ends one early."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest
from cauce.concurrency.backoff import HALF, PLUS_MINUS_20_PERCENT, Backoff, Jitter

LOWEST, MIDDLE, HIGHEST = (lambda: 0.0), (lambda: 0.5), (lambda: 1.0)


def pauses(backoff: Backoff, count: int) -> Sequence[float]:
    """The next pauses of a loop that fails each time."""
    found: list[float] = []
    for _ in range(count):
        found.append(round(backoff.pause_s, 6))
        backoff.grow()
    return found


def test_each_pause_is_twice_as_long_up_to_the_cap() -> None:
    assert pauses(Backoff(0.1, 1.0, random=MIDDLE), 6) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_after_a_reset_it_is_the_first_one_again() -> None:
    backoff = Backoff(0.1, 1.0, random=MIDDLE)
    pauses(backoff, 4)

    backoff.reset()

    assert pauses(backoff, 2) == [0.1, 0.2]


def test_other_bounds_hold_for_one_pause() -> None:
    backoff = Backoff(0.01, 1.0, random=MIDDLE)

    backoff.grow(least_s=0.1, cap_s=2.0)
    assert backoff.pause_s == 0.1

    for _ in range(9):
        backoff.grow(least_s=0.1, cap_s=2.0)
    assert backoff.pause_s == 2.0

    backoff.grow()
    assert backoff.pause_s == 1.0, "of its own cap again"


@pytest.mark.parametrize(
    ("jitter", "random", "becomes"),
    [
        (PLUS_MINUS_20_PERCENT, LOWEST, 0.8),
        (PLUS_MINUS_20_PERCENT, MIDDLE, 1.0),
        (PLUS_MINUS_20_PERCENT, HIGHEST, 1.2),
        (HALF, LOWEST, 0.5),
        (HALF, HIGHEST, 1.0),
    ],
)
def test_a_pause_is_scattered_and_the_next_one_doubles_what_it_was_before(
    jitter: Jitter, random: Callable[[], float], becomes: float
) -> None:
    backoff = Backoff(1.0, 4.0, jitter=jitter, random=random)
    assert pauses(backoff, 3) == pytest.approx([becomes, 2 * becomes, 4 * becomes])


def test_every_pause_is_scattered_again_also_at_the_cap() -> None:
    numbers = iter([0.0, 1.0, 0.5, 0.0])
    backoff = Backoff(1.0, 1.0, random=lambda: next(numbers))
    assert pauses(backoff, 3) == pytest.approx([0.8, 1.2, 1.0])


async def test_a_pause_lasts_as_long_as_it_says() -> None:
    backoff = Backoff(0.05, 1.0, random=MIDDLE)
    began = time.monotonic()

    await backoff.pause()

    assert time.monotonic() - began >= 0.04


async def test_waking_ends_the_pause_that_is_under_way() -> None:
    backoff = Backoff(60.0, 60.0)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(backoff.pause())
        await asyncio.sleep(0)
        backoff.wake()


async def test_waking_before_a_pause_ends_that_one_and_no_other() -> None:
    backoff = Backoff(0.05, 0.05, random=MIDDLE)
    backoff.wake()
    backoff.wake()

    await backoff.pause()
    began = time.monotonic()
    await backoff.pause()

    assert time.monotonic() - began >= 0.04


async def test_a_cancelled_pause_ends_with_the_cancellation() -> None:
    backoff = Backoff(60.0, 60.0)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        pausing = tasks.create_task(backoff.pause())
        await asyncio.sleep(0)
        pausing.cancel()
    assert pausing.cancelled()
